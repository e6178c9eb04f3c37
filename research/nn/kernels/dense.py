"""Products, norms and activations of each token by itself, with derivatives written out."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from research.nn.kernels import products

Dtype = Any


def gelu(x: Float[Array, '*axes']) -> Float[Array, '*axes']:
  """Exact (erf) GELU, computed in float32.

  For the backward pass 32-bit arrays keep the slope and 16-bit ones keep x: their slope would be
  twice as large.
  """
  return _gelu_16(x) if x.dtype.itemsize == 2 else _gelu_32(x)


def _gelu(x):
  y = x.astype(jnp.float32)
  return (y * _normal_cdf(y)).astype(x.dtype)


def _normal_cdf(x):
  return 0.5 + 0.5 * jax.lax.erf(x * np.float32(np.sqrt(0.5)))


def _times_slope(x, t):
  y = x.astype(jnp.float32)
  density = jnp.exp(-0.5 * y * y) * np.float32(1 / np.sqrt(2 * np.pi))
  return (t.astype(jnp.float32) * (_normal_cdf(y) + y * density)).astype(x.dtype)


_gelu_16 = jax.custom_vjp(_gelu)
_gelu_16.defvjp(lambda x: (_gelu(x), x), lambda x, g: (_times_slope(x, g),))
_gelu_32 = jax.custom_jvp(_gelu)
_gelu_32.defjvp(lambda x, t: (_gelu(x[0]), _times_slope(x[0], t[0])))


def settled(x: Array) -> Array:
  """x, computed once on CPUs, and so its gradient.

  XLA's CPU compiler copies sums and products into every operation that uses them: along a row of
  layers each would derive the gradients of all later layers anew. It keeps this barrier in programs
  compiled with `hardware.compiler_options()`.
  """
  return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(
  x: Float[Array, '*batch d'],
  scale: Float[Array, ' d'],
  bias: Float[Array, ' d'],
  epsilon: float,
  dtype: Dtype,
) -> Float[Array, '*batch d']:
  """The last axis to zero mean and unit variance, scaled and shifted, computed in float32.

  In the derivative every sum is a product with ones on CPUs: XLA's library sums over rows five to
  ten times slower there.
  """
  return _layer_norm(x, scale, bias, epsilon, dtype)[0]


def _layer_norm(x, scale, bias, epsilon, dtype):
  y = x.astype(jnp.float32)
  mean = y.mean(-1, keepdims=True)
  y = y - mean
  inverse = jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + epsilon)
  return (y * inverse * scale + bias).astype(dtype), (x, mean, inverse, scale)


def _layer_norm_backward(epsilon, dtype, kept, g):
  del epsilon, dtype
  x, mean, inverse, scale = kept
  normed = (x.astype(jnp.float32) - mean) * inverse
  g = settled(g.astype(jnp.float32))

  # Elsewhere plain sums become part of what is around them.
  def row_mean(y):
    ones = jnp.full(y.shape[-1:], 1 / y.shape[-1], jnp.float32)
    return jax.lax.platform_dependent(
      y,
      cpu=lambda y: jnp.einsum('...d,d->...', y, ones, precision='highest')[..., None],
      default=lambda y: y.mean(-1, keepdims=True),
    )

  def total(y):
    rows = y.reshape(-1, y.shape[-1])
    ones = jnp.ones(rows.shape[:1], jnp.float32)
    return jax.lax.platform_dependent(
      rows,
      cpu=lambda rows: jnp.einsum('nd,n->d', rows, ones, precision='highest'),
      default=lambda rows: rows.sum(0),
    )

  scaled = g * scale
  dx = settled(inverse * (scaled - row_mean(scaled) - normed * row_mean(scaled * normed)))
  return dx.astype(x.dtype), total(g * normed), total(g)


layer_norm.defvjp(_layer_norm, _layer_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def contract(
  x: Float[Array, '*batch_and_inputs'],
  kernel: Float[Array, '*inputs_and_outputs'],
  n: int,
  dtype: Dtype,
) -> Float[Array, '*batch_and_outputs']:
  """Product over the last n axes of x and the first n of the kernel, in `dtype`.

  The derivative is written out so that both its products are plain matrix products of all tokens at
  once (XLA on CPUs otherwise transposes the activations in memory first), and so that the kernel's
  gradient is summed and returned in the kernel's float32.
  """
  batch = x.shape[: x.ndim - n]
  x = x.astype(dtype).reshape(-1, *x.shape[x.ndim - n :])
  y = _product(x, kernel.astype(dtype), tuple(range(n)))
  return y.reshape(*batch, *y.shape[1:])


def _product(x, kernel, axes):
  """Product over all axes of x but its first and over `axes`, the first or last, of the kernel."""

  def grouped(x, kernel):
    return jax.lax.dot_general(x, kernel, ((tuple(range(1, x.ndim)), axes), ((), ())))

  def flat(x, kernel):
    # XLA on CPUs copies a kernel with several axes to sum over into another order first.
    kept = [n for i, n in enumerate(kernel.shape) if i not in axes]
    x = x.reshape(len(x), -1)
    side = 0 if axes[0] == 0 else 1
    shape = (x.shape[1], math.prod(kept))
    matrix = kernel.reshape(shape if side == 0 else shape[::-1])
    return products.dot(x, matrix, side).astype(x.dtype).reshape(-1, *kept)

  return jax.lax.platform_dependent(x, kernel, cpu=flat, default=grouped)


def _contract_forward(x, kernel, n, dtype):
  # A zero-sized array remembers the dtype that x came in.
  return contract(x, kernel, n, dtype), (x.astype(dtype), kernel, jnp.zeros((0,), x.dtype))


def _contract_backward(n, dtype, kept, g):
  x, kernel, like = kept
  outputs = kernel.ndim - n
  flat = x.reshape(-1, *x.shape[x.ndim - n :])
  g = g.astype(dtype).reshape(-1, *g.shape[g.ndim - outputs :])
  dx = _product(g, kernel.astype(dtype), tuple(range(n, kernel.ndim)))
  rows = (((0,), (0,)), ((), ()))
  if dtype == kernel.dtype:
    return dx.reshape(x.shape).astype(like.dtype), jax.lax.dot_general(flat, g, rows)

  def half(flat, g):
    return jax.lax.dot_general(flat, g, rows, preferred_element_type=kernel.dtype)

  dkernel = jax.lax.platform_dependent(flat, g, cpu=products.dot_rows, default=half)
  return dx.reshape(x.shape).astype(like.dtype), dkernel.astype(kernel.dtype)


contract.defvjp(_contract_forward, _contract_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def similarities(
  x: Float[Array, '*batch d'], table: Float[Array, 'v d'], dtype: Dtype
) -> Float[Array, '*batch v']:
  """Products of x with every row of a table, taken in `dtype`, summed and returned in float32: the
  logits of a model whose output has the weights of its embedding.

  The gradient of the table is summed and returned in its own float32.
  """
  return _rows_product(x.astype(dtype), table.astype(dtype), 1)


def _rows_product(x, y, side):
  """Sums over the last axis of x and axis `side` of the matrix y, in float32."""

  def flat(x, y):
    return products.dot(x.reshape(-1, x.shape[-1]), y, side).reshape(*x.shape[:-1], -1)

  def general(x, y):
    sums = (((x.ndim - 1,), (side,)), ((), ()))
    return jax.lax.dot_general(x, y, sums, preferred_element_type=jnp.float32)

  return jax.lax.platform_dependent(x, y, cpu=flat, default=general)


def _similarities_forward(x, table, dtype):
  return similarities(x, table, dtype), (x.astype(dtype), table, jnp.zeros((0,), x.dtype))


def _similarities_backward(dtype, kept, g):
  x, table, like = kept
  g = g.astype(dtype)
  dx = _rows_product(g, table.astype(dtype), 0).astype(like.dtype)
  flat = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])

  def general(g, x):
    rows = (((0,), (0,)), ((), ()))
    return jax.lax.dot_general(g, x, rows, preferred_element_type=jnp.float32)

  d_table = jax.lax.platform_dependent(*flat, cpu=products.dot_rows, default=general)
  return dx, d_table.astype(table.dtype)


similarities.defvjp(_similarities_forward, _similarities_backward)


@jax.custom_vjp
def add_bias(
  x: Float[Array, '*batch_and_outputs'], bias: Float[Array, '*outputs']
) -> Float[Array, '*batch_and_outputs']:
  """x + bias in the dtype of x; the gradient of the bias is summed in its own, over devices too."""
  return x + bias.astype(x.dtype)


def _add_bias_backward(like, g):
  total = g.astype(like.dtype).sum(axis=tuple(range(g.ndim - like.ndim)))
  return g, total


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), bias), _add_bias_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def scale_gradient(x: Float[Array, '*shape'], factor: float) -> Float[Array, '*shape']:
  """x itself, whose gradient is multiplied by `factor`."""
  return x


scale_gradient.defvjp(lambda x, factor: (x, None), lambda factor, _, g: (factor * g,))

"""Convolutions, pooling and the norm over time, with derivatives written out.

XLA derives slow programs for some of them on CPUs: both gradients of a strided convolution (1.2 to
1.5 times slower than here), the weight gradient of a grouped one (25 times slower than PyTorch's),
that of a 3 x 3 convolution (2.7 times slower than here), the gradient of a maximum over windows
(3 times), and sums over a long time axis in the backward pass of norms. Here the first are
convolutions without stride and products of blocks of samples, the second is one product for a few
taps, the third one product a clip, the fourth choices between slices, the last products with a
vector of weights.
Letters: b batch, n frames, c channels, i channels in, o channels out, p kernel taps, g groups,
s spectrogram frames, f mel bins.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.nn.kernels import products
from research.nn.kernels.dense import settled
from research.nn.meshes import sum_over_rows

Dtype = Any
_LAYOUT = ('NWC', 'WIO', 'NWC')


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv1d(
  x: Float[Array, 'b n i'], kernel: Float[Array, 'p i o'], stride: int, dtype: Dtype
) -> Float[Array, 'b m o']:
  """Convolution without padding: m = (n - p) // stride + 1."""
  return _strided(x.astype(dtype), kernel.astype(dtype), stride)


def _strided(x, kernel, stride):
  taps, inputs, outputs = kernel.shape
  m = (x.shape[1] - taps) // stride + 1

  def convolution(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (stride,), 'VALID', dimension_numbers=_LAYOUT)

  def in_blocks(dot, x, kernel):
    y = jnp.float32(0.0)
    for i, j, part in _blocks(x, stride, taps, m):
      y = y + dot(part, kernel[i:j].reshape(-1, outputs))
    return y.astype(x.dtype)

  # XLA cuts long convolutions on TPUs into pieces of a clip, and all that comes before and after
  # them, in arrays of float32 that are written to memory: products move less than half as much.
  def on_tpu(x, kernel):
    if inputs > 1:
      return in_blocks(_dot, x, kernel)
    columns = [part for _, _, part in _blocks(x, stride, taps, m)]
    return _dot(jnp.concatenate(columns, axis=-1), kernel[:, 0]).astype(x.dtype)

  cpu = (
    convolution
    if x.dtype == jnp.float32 or inputs == 1
    else functools.partial(in_blocks, _flat_dot)
  )
  return jax.lax.platform_dependent(x, kernel, cpu=cpu, tpu=on_tpu, default=convolution)


def _dot(x, y, side=0):
  """x y over the last axis of x [b, m, k], in float32; y is [k, n], or with `side` 1 [n, k]."""
  sums = (((2,), (side,)), ((), ()))
  return jax.lax.dot_general(x, y, sums, preferred_element_type=jnp.float32)


def _flat_dot(x, y, side=0):
  """The same of all rows at once, for CPUs."""
  return products.dot(x.reshape(-1, x.shape[-1]), y, side).reshape(*x.shape[:2], -1)


def _dot_rows(x, y):
  """The sum over [b, m] of x and y, in float32."""
  return jax.lax.dot_general(x, y, (((0, 1), (0, 1)), ((), ())), preferred_element_type=jnp.float32)


def _flat_dot_rows(x, y):
  """The same of all rows at once, for CPUs."""
  return products.dot_rows(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))


def _blocks(x, stride, taps, m):
  """(i, j, what taps i to j of m windows see: [b, m, (j - i) c]) for every `stride` taps."""
  b, n, channels = x.shape
  count = -(-taps // stride)
  length = (m + count - 1) * stride
  x = jnp.pad(x, ((0, 0), (0, max(length - n, 0)), (0, 0)))[:, :length]
  x = x.reshape(b, -1, stride * channels)
  for block in range(count):
    i, j = block * stride, min((block + 1) * stride, taps)
    yield i, j, x[:, block : block + m, : (j - i) * channels]


def _conv1d_forward(x, kernel, stride, dtype):
  # A zero-sized array remembers the dtype that x came in.
  return conv1d(x, kernel, stride, dtype), (x.astype(dtype), kernel, jnp.zeros((0,), x.dtype))


def _conv1d_backward(stride, dtype, kept, g):
  x, kernel, like = kept
  g = g.astype(dtype)

  def derived(x, kernel, g):
    _, pullback = jax.vjp(lambda x, k: _strided(x, k, stride), x, kernel.astype(dtype))
    dx, dkernel = pullback(g)
    return dx, dkernel.astype(kernel.dtype)

  def written_out(dot, dot_rows, x, kernel, g):
    dkernel = _kernel_gradient(x, g, kernel.shape, stride, dot_rows)
    return _input_gradient(kernel.astype(dtype), g, x.shape[1], stride, dot), dkernel

  # With one channel in there is too little to multiply; with samples between the taps that no tap
  # sees, a phase has no taps.
  if x.shape[-1] == 1 or stride > kernel.shape[0]:
    dx, dkernel = derived(x, kernel, g)
  else:
    cpu = functools.partial(written_out, _flat_dot, _flat_dot_rows)
    tpu = functools.partial(written_out, _dot, _dot_rows)
    dx, dkernel = jax.lax.platform_dependent(x, kernel, g, cpu=cpu, tpu=tpu, default=derived)
  return dx.astype(like.dtype), dkernel


def _input_gradient(kernel, g, n, stride, dot):
  """One convolution without stride for every sample of a stride: y[t s + r] is the sum over j of
  g[t - j] with tap r + j s. In 16 bits one product for every j."""
  b, m, outputs = g.shape
  steps = -(-n // stride)
  if g.dtype != jnp.float32:
    taps, inputs, _ = kernel.shape
    total = jnp.float32(0.0)
    for j, i in enumerate(range(0, taps, stride)):
      y = dot(g, kernel[i : i + stride].reshape(-1, outputs), 1)
      missing = stride * inputs - y.shape[-1]
      total = total + jnp.pad(y, ((0, 0), (j, steps - m - j), (0, missing)))
    return total.astype(g.dtype).reshape(b, -1, inputs)[:, :n]
  phases = []
  for r in range(stride):
    phase = kernel[r::stride][::-1].swapaxes(1, 2)
    edges = [(len(phase) - 1, steps - m)]
    dx = jax.lax.conv_general_dilated(g, phase, (1,), edges, dimension_numbers=_LAYOUT)
    phases.append(dx[:, :steps])
  return jnp.stack(phases, axis=2).reshape(b, steps * stride, -1)[:, :n]


def _kernel_gradient(x, g, shape, stride, dot_rows):
  """One product for every `stride` taps: of blocks of `stride` samples with g."""
  taps, inputs, outputs = shape
  parts = [
    dot_rows(part, g).reshape(j - i, inputs, outputs)
    for i, j, part in _blocks(x, stride, taps, g.shape[1])
  ]
  return jnp.concatenate(parts)


conv1d.defvjp(_conv1d_forward, _conv1d_backward)


# -- Grouped convolution -----------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def grouped_conv1d(
  x: Float[Array, 'b n i'], kernel: Float[Array, 'p j o'], groups: int, padding: tuple[int, int]
) -> Float[Array, 'b m o']:
  """Convolution of stride 1 in `groups` groups of j = i / groups channels, zeros around."""
  return jax.lax.conv_general_dilated(
    x, kernel, (1,), [padding], dimension_numbers=_LAYOUT, feature_group_count=groups
  )


def _grouped_forward(x, kernel, groups, padding):
  return grouped_conv1d(x, kernel, groups, padding), (x, kernel)


def _grouped_backward(groups, padding, kept, g):
  x, kernel = kept
  taps, width, out = kernel.shape

  # The input's gradient is the convolution with the flipped kernel, channels swapped in each group.
  flipped = kernel[::-1].reshape(taps, width, groups, out // groups)
  swapped = flipped.transpose(0, 3, 2, 1).reshape(taps, out // groups, groups * width)
  edges = [(taps - 1 - padding[0], taps - 1 - padding[1])]
  dx = jax.lax.conv_general_dilated(
    g, swapped, (1,), edges, dimension_numbers=_LAYOUT, feature_group_count=groups
  )

  # The kernel's: for every few taps one product of g with the input shifted by each.
  few = math.gcd(taps, 8)

  def kernel_gradient(x, g):
    b, m, _ = g.shape
    padded = jnp.pad(x, ((0, 0), padding, (0, 0)))
    grad = g.reshape(b, m, groups, -1).transpose(2, 3, 0, 1).reshape(groups, -1, b * m)
    groups_first = padded.reshape(b, -1, groups, width).transpose(2, 0, 1, 3)

    def some(p):
      window = jax.lax.dynamic_slice_in_dim(groups_first, p * few, m + few - 1, axis=2)
      shifted = jnp.concatenate([window[:, :, i : i + m] for i in range(few)], axis=-1)
      shifted = shifted.reshape(groups, b * m, few * width)
      return jnp.einsum('gos,gsi->goi', grad, shifted, preferred_element_type=jnp.float32)

    found = jax.lax.map(some, jnp.arange(taps // few))
    found = found.reshape(taps // few, groups, out // groups, few, width)
    return found.transpose(0, 3, 4, 1, 2).reshape(kernel.shape)

  def single(x, g):
    # Products as small as these are no faster in 16 bits.
    return kernel_gradient(x.astype(jnp.float32), g.astype(jnp.float32))

  def own(x, g):
    return jax.lax.platform_dependent(x, g, cpu=single, default=kernel_gradient)

  dkernel = sum_over_rows(own, x, g)
  return dx, dkernel.astype(kernel.dtype)


grouped_conv1d.defvjp(_grouped_forward, _grouped_backward)


# -- Over time and frequency ------------------------------------------------------------------


@jax.custom_vjp
def conv3x3(x: Float[Array, 'b s f i'], kernel: Float[Array, '3 3 i o']) -> Float[Array, 'b s f o']:
  """Convolution with one zero around."""
  if x.shape[-1] > 1:
    return _conv3x3(x, kernel)

  def product(x, kernel):
    return (_columns(x) @ kernel.reshape(9, -1)).reshape(*x.shape[:3], -1)

  return jax.lax.platform_dependent(x, kernel, cpu=product, default=_conv3x3)


def _conv3x3(x, kernel):
  edges = [(1, 1), (1, 1)]
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), edges, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _columns(x):
  """What the nine taps see: [b, s, f, i] -> [b s f, 9 i]."""
  _, s, f, _ = x.shape
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  taps = [x[:, i : i + s, j : j + f] for i in range(3) for j in range(3)]
  return jnp.concatenate(taps, axis=-1).reshape(-1, 9 * x.shape[-1])


def _conv3x3_backward(kept, g):
  x, kernel = kept

  def derived(x, g):
    return jax.vjp(lambda k: _conv3x3(x, k), kernel)[1](g)[0].astype(jnp.float32)

  def written_out(x, g):
    # A clip at a time stays in the cache, and its gradient is turned before the product.
    def add(total, clip):
      clip, grad = (a[None].astype(jnp.float32) for a in clip)
      turned = jax.lax.optimization_barrier(grad.reshape(-1, grad.shape[-1]).T)
      return total + turned @ _columns(clip), None

    outputs, inputs = kernel.shape[3], kernel.shape[2]
    total, _ = jax.lax.scan(add, jnp.zeros((outputs, 9 * inputs), jnp.float32), (x, g))
    return total.T.reshape(kernel.shape)

  dkernel = jax.lax.platform_dependent(x, g, cpu=written_out, default=derived)
  dx = jax.vjp(lambda x: _conv3x3(x, kernel), x)[1](g)[0]
  return dx, dkernel.astype(kernel.dtype)


conv3x3.defvjp(lambda x, kernel: (conv3x3(x, kernel), (x, kernel)), _conv3x3_backward)


def max_pool2(x: Float[Array, 'b s f c']) -> Float[Array, 'b s2 f2 c']:
  """Maximum over 2 x 2; an odd last row or column is left out.

  Of equal values the first one gets the gradient, by frequency before time, as in PyTorch with
  frequency as its rows.
  """
  s, f = (n // 2 * 2 for n in x.shape[1:3])

  def larger(a, b):
    return jnp.where((b > a) | jnp.isnan(b), b, a)

  x = larger(x[:, :s:2, :f], x[:, 1:s:2, :f])  # keeps what is not a number, as `jnp.maximum`
  return larger(x[:, :, ::2], x[:, :, 1::2])


# -- Norm over time ----------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def time_norm(
  x: Float[Array, 'b n c'],
  scale: Float[Array, ' c'],
  bias: Float[Array, ' c'],
  real: Bool[Array, 'b n'],
  epsilon: float,
  groups: int | None = None,
) -> Float[Array, 'b n c']:
  """Every group of channels of every clip to zero mean and unit variance over its real frames, in
  float32.

  This is group norm over time: `groups` None has one channel a group, 1 all channels in one. Frames
  that are not real are scaled alike.
  """
  return _time_norm(x, scale, bias, real, epsilon, groups)[0]


def _group_mean(x, groups):
  """Mean over the channels of a group, at each of its channels: [b, c] -> [b, c]."""
  b, c = x.shape
  if groups is None or groups == c:
    return x
  mean = x.reshape(b, groups, c // groups).mean(axis=2, keepdims=True)
  return jnp.broadcast_to(mean, (b, groups, c // groups)).reshape(b, c)


def _over_time(x, weight):
  """Sum over time with weights [b, n]: a product on CPUs; elsewhere a sum, which becomes a part of
  what computes x."""
  return jax.lax.platform_dependent(
    x,
    weight,
    cpu=lambda x, weight: jnp.einsum('bnc,bn->bc', x, weight),
    default=lambda x, weight: (x * weight[:, :, None]).sum(axis=1),
  )


def _time_norm(x, scale, bias, real, epsilon, groups):
  weight = real.astype(jnp.float32)
  weight = weight / jnp.maximum(weight.sum(axis=1, keepdims=True), 1.0)
  y = x.astype(jnp.float32)
  mean = _group_mean(_over_time(y, weight), groups)[:, None]
  centred = y - mean
  variance = _group_mean(_over_time(jnp.square(centred), weight), groups)
  inverse = jax.lax.rsqrt(variance + epsilon)[:, None]
  # Of the large arrays only x is kept for the backward pass, in its own dtype.
  return centred * inverse * scale + bias, (x, mean, inverse, scale, weight)


def _time_norm_backward(epsilon, groups, kept, g):
  del epsilon
  x, mean, inverse, scale, weight = kept
  g = settled(g.astype(jnp.float32))
  normed = (x.astype(jnp.float32) - mean) * inverse
  ones = jnp.ones(weight.shape, jnp.float32)
  sums, products = _over_time(g, ones), _over_time(g * normed, ones)
  spread, product = _group_mean(sums * scale, groups), _group_mean(products * scale, groups)
  dx = inverse * (scale * g - (spread[:, None] + normed * product[:, None]) * weight[:, :, None])
  return dx.astype(x.dtype), products.sum(axis=0), sums.sum(axis=0), None


time_norm.defvjp(_time_norm, _time_norm_backward)

"""Softmax attention: `jax.nn.dot_product_attention` on accelerators, a form that suits caches on
CPUs.

On a CPU the one-batch-of-matrices form writes every logit to memory several times; here some heads
at a time stay in cache (measured at 513 tokens: 4x faster), and the result is divided by the sum of
the weights, not every weight. The derivative is written out for both: it recomputes the weights
from queries and keys instead of keeping them, and products of 16-bit floats stay products of 16-bit
floats (the derivative that JAX writes mixes them with float32, which strict dtype promotion refuses
to compile).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Logits that a CPU's caches hold: as many heads are computed at a time.
CPU_LOGITS = 1_500_000


def attend(
  q: Float[Array, 'b n h k'],
  k: Float[Array, 'b n h k'],
  v: Float[Array, 'b n h k'],
  key_mask: Bool[Array, 'b n'] | None = None,
  implementation: str | None = None,
) -> Float[Array, 'b n h k']:
  """softmax(q.k k^-0.5) v over the keys that `key_mask` allows (at least one), softmax in float32.

  `implementation`: None takes the form that suits the platform; 'xla' and 'cudnn' are those of
  `jax.nn.dot_product_attention` ('cudnn': 16-bit floats on an NVIDIA GPU, with its own derivative).
  """
  if implementation == 'cudnn':
    mask = None if key_mask is None else key_mask[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation='cudnn')
  return _attend(q, k, v, key_mask, implementation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q, k, v, key_mask, implementation):
  def library(q, k, v):
    mask = None if key_mask is None else key_mask[:, None, None, :]
    # It compares dtypes by promoting them.
    with jax.numpy_dtype_promotion('standard'):
      return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation='xla')

  if implementation == 'xla':
    return library(q, k, v)

  def cached(q, k, v):
    y = _by_heads(_weighted, key_mask, *map(_single, (q, k, v)))
    return _heads_last(y, q.shape[0]).astype(q.dtype)

  return jax.lax.platform_dependent(q, k, v, cpu=cached, default=library)


def _attend_forward(q, k, v, key_mask, implementation):
  y = _attend(q, k, v, key_mask, implementation)
  return y, (q, k, v, key_mask, y)


def _attend_backward(implementation, kept, g):
  q, k, v, key_mask, y = kept

  def cached(*arrays):
    found = _by_heads(_pullback, key_mask, *map(_single, arrays))
    return tuple(_heads_last(d, q.shape[0]).astype(q.dtype) for d in found)

  def at_once(*arrays):
    parts = [_heads_first(x) for x in arrays]
    mask = None if key_mask is None else key_mask[:, None, None, :]
    return tuple(_heads_first(d) for d in _pullback(mask, *parts))

  gradients = jax.lax.platform_dependent(q, k, v, y, g, cpu=cached, default=at_once)
  return (*gradients, None)


_attend.defvjp(_attend_forward, _attend_backward)


def _single(x):
  """float32: XLA's CPU library has no product of 16-bit floats that is summed in float32."""
  return x.astype(jnp.float32)


# -- One or more heads: arrays [..., n, k] -----------------------------------------------------


def _weigh(mask, q, k):
  """exp of q.k k^-0.5 less the largest of a query's, 0 where the mask is False, and its sum over
  the keys: the softmax before its division, float32."""
  q = q * np.asarray(q.shape[-1] ** -0.5, q.dtype)
  logits = jnp.einsum('...tk,...sk->...ts', q, k, preferred_element_type=jnp.float32)
  logits = logits if mask is None else jnp.where(mask, logits, -1e30)
  weights = jnp.exp(logits - logits.max(-1, keepdims=True))
  return weights, weights.sum(-1, keepdims=True)


def _weighted(mask, q, k, v):
  weights, total = _weigh(mask, q, k)
  return jnp.einsum('...ts,...sk->...tk', weights.astype(v.dtype), v) / total.astype(v.dtype)


def _pullback(mask, q, k, v, y, g):
  """Gradients of q, k, v for the gradient g of y (Dao et al. 2022, arXiv 2205.14135, appendix
  B)."""
  scale = np.asarray(q.shape[-1] ** -0.5, q.dtype)
  weights, total = _weigh(mask, q, k)
  share = g.astype(jnp.float32) / total
  delta = (share * y.astype(jnp.float32)).sum(-1, keepdims=True)
  share = share.astype(g.dtype)
  dv = jnp.einsum('...ts,...tk->...sk', weights.astype(g.dtype), share)
  dp = jnp.einsum('...tk,...sk->...ts', share, v, preferred_element_type=jnp.float32)
  ds = (weights * (dp - delta)).astype(q.dtype)
  dq = jnp.einsum('...ts,...sk->...tk', ds, k) * scale
  dk = jnp.einsum('...ts,...tk->...sk', ds, q) * scale
  return dq, dk, dv


# -- All heads ---------------------------------------------------------------------------------


def _heads_first(x):
  return x.swapaxes(1, 2)


def _heads_last(x, b):
  """[b * h, n, k] -> [b, n, h, k]."""
  return x.reshape(b, -1, *x.shape[1:]).swapaxes(1, 2)


def _by_heads(function: Callable, key_mask: Array | None, *arrays: Array):
  """function(mask, *arrays) over the heads of all clips, as many at a time as caches hold."""
  b, n, heads, _ = arrays[0].shape
  count = b * heads
  fitting = [i for i in range(1, count + 1) if count % i == 0 and i * n * n <= CPU_LOGITS]
  size = max(fitting, default=1)
  mask = None if key_mask is None else jnp.repeat(key_mask, heads, axis=0)[:, None, :]
  parts = (mask, *(_heads_first(x).reshape(count, n, -1) for x in arrays))
  if size == count:
    return function(*parts)
  chunks = jax.tree.map(lambda x: x.reshape(count // size, size, *x.shape[1:]), parts)
  found = jax.lax.map(lambda each: function(*each), chunks)
  return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), found)


# -- Products ----------------------------------------------------------------------------------


@jax.custom_vjp
def products(q: Float[Array, 'b t h k'], k: Float[Array, 'b s h k']) -> Float[Array, 'b h t s']:
  """q.k of every pair, summed and returned in float32; the backward pass computes in q's dtype."""

  def single(q, k):
    return jnp.einsum('bthk,bshk->bhts', _single(q), _single(k))

  def half(q, k):
    return jnp.einsum('bthk,bshk->bhts', q, k, preferred_element_type=jnp.float32)

  return jax.lax.platform_dependent(q, k, cpu=single, default=half)


def _products_backward(kept, g):
  q, k = kept
  g = g.astype(q.dtype)
  return jnp.einsum('bhts,bshk->bthk', g, k), jnp.einsum('bhts,bthk->bshk', g, q)


products.defvjp(lambda q, k: (products(q, k), (q, k)), _products_backward)

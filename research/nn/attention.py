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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Logits that a CPU's caches hold: as many heads are computed at a time.
CPU_LOGITS = 1_500_000


class GatedBias(NamedTuple):
  """What is added to the scaled products: `table`, times a gate a query and head."""

  gate: Float[Array, 'b n h']
  table: Float[Array, 'h n n']  # [head, query, key], the same for all clips


def attend(
  q: Float[Array, 'b n h k'],
  k: Float[Array, 'b n h k'],
  v: Float[Array, 'b n h k'],
  key_mask: Bool[Array, 'b n'] | None = None,
  implementation: str | None = None,
  bias: GatedBias | None = None,
) -> Float[Array, 'b n h k']:
  """softmax(q.k k^-0.5 + bias) v over the keys that `key_mask` allows (at least one), softmax in
  float32.

  `implementation`: None takes the form that suits the platform; 'xla' and 'cudnn' are those of
  `jax.nn.dot_product_attention` ('cudnn': 16-bit floats on an NVIDIA GPU, with its own derivative).
  """
  if implementation == 'cudnn':
    return _library(q, k, v, key_mask, bias, 'cudnn')
  return _attend(q, k, v, key_mask, bias, implementation)


def full_bias(bias: GatedBias) -> Float[Array, 'b h n n']:
  """The bias of every pair."""
  return bias.gate.swapaxes(1, 2)[..., None] * bias.table


def _library(q, k, v, key_mask, bias, implementation):
  mask = None if key_mask is None else key_mask[:, None, None, :]
  added = None if bias is None else full_bias(bias).astype(q.dtype)
  # It compares dtypes by promoting them.
  with jax.numpy_dtype_promotion('standard'):
    return jax.nn.dot_product_attention(
      q, k, v, bias=added, mask=mask, implementation=implementation
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(q, k, v, key_mask, bias, implementation):
  def library(q, k, v, bias):
    return _library(q, k, v, key_mask, bias, 'xla')

  if implementation == 'xla':
    return library(q, k, v, bias)

  def cached(q, k, v, bias):
    def weighted(*parts):
      return (_weighted(*parts),), ()

    (y,), _ = _by_heads(weighted, key_mask, bias, (), q, k, v)
    return y.astype(q.dtype)

  return jax.lax.platform_dependent(q, k, v, bias, cpu=cached, default=library)


def _attend_forward(q, k, v, key_mask, bias, implementation):
  y = _attend(q, k, v, key_mask, bias, implementation)
  return y, (q, k, v, key_mask, bias, y)


def _attend_backward(implementation, kept, g):
  q, k, v, key_mask, bias, y = kept

  def cached(bias, *arrays):
    zero = () if bias is None else (jnp.zeros_like(bias.table),)
    found, summed = _by_heads(_pullback, key_mask, bias, zero, *map(_single, arrays))
    gradients = tuple(d.astype(q.dtype) for d in found[:3])
    return gradients, None if bias is None else GatedBias(found[3][..., 0], *summed)

  def at_once(bias, *arrays):
    parts = [_heads_first(x) for x in arrays]
    mask = None if key_mask is None else key_mask[:, None, None, :]
    found, summed = _pullback(mask, _per_head(bias), *parts)
    gradients = tuple(_heads_first(d) for d in found)
    return gradients[:3], None if bias is None else GatedBias(gradients[3][..., 0], *summed)

  args = bias, q, k, v, y, g
  gradients, d_bias = jax.lax.platform_dependent(*args, cpu=cached, default=at_once)
  return (*gradients, None, d_bias)


_attend.defvjp(_attend_forward, _attend_backward)


def _single(x):
  """float32: in 16 bits these products are no faster on CPUs."""
  return x.astype(jnp.float32)


# -- One or more heads: arrays [..., h, n, k], gate [..., h, n, 1], table [h, n, n] ------------


def _weigh(mask, bias, q, k):
  """exp of q.k k^-0.5 plus bias, less the largest of a query's, 0 where the mask is False, and its
  sum over the keys: the softmax before its division, float32."""
  q = q * np.asarray(q.shape[-1] ** -0.5, q.dtype)
  logits = jnp.einsum('...tk,...sk->...ts', q, k, preferred_element_type=jnp.float32)
  if bias is not None:
    logits = logits + bias.gate * bias.table
  logits = logits if mask is None else jnp.where(mask, logits, -1e30)
  weights = jnp.exp(logits - logits.max(-1, keepdims=True))
  return weights, weights.sum(-1, keepdims=True)


def _weighted(mask, bias, q, k, v):
  weights, total = _weigh(mask, bias, q, k)
  weights = weights.astype(v.dtype)
  y = jnp.einsum('...ts,...sk->...tk', weights, v, preferred_element_type=jnp.float32)
  return (y / total).astype(v.dtype)


def _pullback(mask, bias, q, k, v, y, g):
  """Gradients of q, k, v for the gradient g of y (Dao et al. 2022, arXiv 2205.14135, appendix B),
  with a bias that of its gate too; and of its table, summed over the clips."""
  scale = np.asarray(q.shape[-1] ** -0.5, q.dtype)
  weights, total = _weigh(mask, bias, q, k)
  share = g.astype(jnp.float32) / total
  delta = (share * y.astype(jnp.float32)).sum(-1, keepdims=True)
  share = share.astype(g.dtype)
  dv = jnp.einsum('...ts,...tk->...sk', weights.astype(g.dtype), share)
  dp = jnp.einsum('...tk,...sk->...ts', share, v, preferred_element_type=jnp.float32)
  d_logits = weights * (dp - delta)
  ds = d_logits.astype(q.dtype)
  dq = jnp.einsum('...ts,...sk->...tk', ds, k) * scale
  dk = jnp.einsum('...ts,...tk->...sk', ds, q) * scale
  if bias is None:
    return (dq, dk, dv), ()
  d_gate = (d_logits * bias.table).sum(-1, keepdims=True)
  d_table = (d_logits * bias.gate).reshape(-1, *bias.table.shape).sum(axis=0)
  return (dq, dk, dv, d_gate), (d_table,)


# -- All heads ---------------------------------------------------------------------------------


def _heads_first(x):
  return x.swapaxes(1, 2)


def _per_head(bias):
  return None if bias is None else GatedBias(_heads_first(bias.gate)[..., None], bias.table)


def _by_heads(function: Callable, key_mask: Array | None, bias: GatedBias | None, zero, *arrays):
  """function(mask, bias, *arrays) over the heads of all clips, as many at a time as caches hold.

  It gives arrays [clips, heads, n, k], which come back as [b, n, h, k], and arrays [heads, …] like
  those of `zero`, which are summed over the clips.
  """
  b, n, heads, _ = arrays[0].shape

  def fitting(count, size):
    return max(
      (i for i in range(1, count + 1) if count % i == 0 and i * size <= CPU_LOGITS), default=1
    )

  size = fitting(heads, n * n)
  rows = fitting(b, heads * n * n) if size == heads else 1
  parts: dict[str, Any] = dict(
    arrays=tuple(_heads_first(x) for x in arrays),
    mask=None if key_mask is None else key_mask[:, None, None, :],
    gate=None if bias is None else _per_head(bias).gate,
  )
  if rows == b and size == heads:
    per_head = None if bias is None else GatedBias(parts['gate'], bias.table)
    found, summed = function(parts['mask'], per_head, *parts['arrays'])
    return tuple(map(_heads_first, found)), summed

  def cut(x):
    """[b, h or 1, …] -> [groups of heads, groups of clips, clips, heads or 1, …]."""
    groups, at_once = (1, 1) if x.shape[1] == 1 else (heads // size, size)
    x = x.reshape(b // rows, rows, groups, at_once, *x.shape[2:])
    return jnp.broadcast_to(jnp.moveaxis(x, 2, 0), (heads // size, *x.shape[:2], *x.shape[3:]))

  def group(each):
    parts, table, start = each

    def clips(sums, part):
      per_head = None if table is None else GatedBias(part['gate'], table)
      found, summed = function(part['mask'], per_head, *part['arrays'])
      return jax.tree.map(jnp.add, sums, summed), found

    return jax.lax.scan(clips, start, parts)

  def by_group(x):
    return x.reshape(heads // size, size, *x.shape[1:])

  table = None if bias is None else by_group(bias.table)
  chunks = jax.tree.map(cut, parts), table, jax.tree.map(by_group, zero)
  summed, found = jax.lax.map(group, chunks)
  summed = jax.tree.map(lambda x: x.reshape(heads, *x.shape[2:]), summed)
  # [groups of heads, groups of clips, clips, heads, n, k] -> [b, n, h, k].
  whole = [x.transpose(1, 2, 4, 0, 3, 5).reshape(b, n, heads, x.shape[-1]) for x in found]
  return tuple(whole), summed


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

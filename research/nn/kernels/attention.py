"""Softmax attention: `jax.nn.dot_product_attention` on accelerators, a form that suits caches on
CPUs.

On a CPU the one-batch-of-matrices form writes every logit to memory several times; here some heads
at a time stay in cache (measured at 513 tokens: 4x faster), and the result is divided by the sum of
the weights, not every weight. The derivative is written out for both: it recomputes the weights
from queries and keys instead of keeping them, and products of 16-bit floats stay products of 16-bit
floats (the derivative that JAX writes mixes them with float32, which strict dtype promotion refuses
to compile).
Letters: b batch, t queries, s keys, h query heads, g key and value heads, k size of a head.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Key, Shaped

# Logits that a CPU's caches hold: as many heads are computed at a time.
CPU_LOGITS = 1_500_000

Mask = Bool[Array, 'b s'] | Bool[Array, '#b 1 #t s']


class Bias(NamedTuple):
  """What is added to the scaled products: `table`, times a gate a query and head if there is one.

  Attributes:
    gate: [b, t, h] or None.
    table: [h, t, s], the same for all clips.
  """

  gate: Float[Array, 'b t h'] | None
  table: Float[Array, 'h t s']


class Drop(NamedTuple):
  """Inverted dropout at `rate`, with draws of `key`."""

  key: Key[Array, '']
  rate: float

  def __call__(self, x: Float[Array, '*shape']) -> Float[Array, '*shape']:
    keep = jax.random.bernoulli(self.key, 1.0 - self.rate, x.shape)
    kept = x / np.asarray(1.0 - self.rate, x.dtype)
    return jnp.where(keep, kept, jnp.zeros((), x.dtype))


def full_bias(bias: Bias) -> Float[Array, '#b h t s']:
  """The bias of every pair."""
  if bias.gate is None:
    return bias.table[None]
  return bias.gate.swapaxes(1, 2)[..., None] * bias.table


def full_mask(mask: Mask) -> Bool[Array, '#b 1 #t s']:
  """A mask with an axis of heads and one of queries."""
  return mask if mask.ndim == 4 else mask[:, None, None, :]


def softmax_attention(
  q: Float[Array, 'b t h k'],
  k: Float[Array, 'b s g k'],
  v: Float[Array, 'b s g k'],
  mask: Mask | None = None,
  bias: Bias | None = None,
  scale: float | None = None,
  implementation: str | None = None,
) -> Float[Array, 'b t h k']:
  """softmax(scale q.k + bias) v over the keys that `mask` allows, softmax in float32.

  Args:
    q, k, v: queries, keys and values; g divides h, see `fold`.
    mask: True where a key may be attended to: [b, s], or [b or 1, 1, t or 1, s]. A query
      without any key gets the mean of all values, and no gradient for itself and the keys.
    bias: see `Bias`.
    scale: of the queries before the product, k^-0.5 where None.
    implementation: None takes the form that suits the platform, 'xla' that of
      `jax.nn.dot_product_attention`.
  """
  scale = float(q.shape[-1] ** -0.5) if scale is None else scale
  return _attend(q, k, v, mask, bias, scale, implementation)


def library(q, k, v, mask, bias, scale, implementation, **options):
  """`jax.nn.dot_product_attention`, which also knows groups of heads, and by `options` more."""
  mask = None if mask is None else full_mask(mask)
  added = None if bias is None else full_bias(bias).astype(q.dtype)
  # It compares dtypes by promoting them.
  with jax.numpy_dtype_promotion('standard'):
    return jax.nn.dot_product_attention(
      q, k, v, bias=added, mask=mask, scale=scale, implementation=implementation, **options
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(q, k, v, mask, bias, scale, implementation):
  def general(q, k, v, bias):
    return library(q, k, v, mask, bias, scale, 'xla')

  if implementation == 'xla':
    return general(q, k, v, bias)

  def cached(q, k, v, bias):
    def weighted(*parts):
      return (_weighted(scale, *parts),), ()

    shared = _Shared(q, k)
    arrays = shared.queries(q), shared.keys(k), shared.keys(v)
    (y,), _ = _by_heads(weighted, shared.mask(mask), shared.bias(bias), (), *arrays)
    return shared.queries_back(y).astype(q.dtype)

  return jax.lax.platform_dependent(q, k, v, bias, cpu=cached, default=general)


def _attend_forward(q, k, v, mask, bias, scale, implementation):
  y = checkpoint_name(_attend(q, k, v, mask, bias, scale, implementation), 'attention')
  return y, (q, k, v, mask, bias, y)


def _attend_backward(scale, implementation, kept, g):
  q, k, v, mask, bias, y = kept
  pullback = functools.partial(_pullback, scale)

  def share(shared, bias, q, k, v, y, g):
    """Arrays as the forms below take them."""
    arrays = shared.queries(q), shared.keys(k), shared.keys(v), shared.queries(y), shared.queries(g)
    return shared.mask(mask), shared.bias(bias), arrays

  def gradients_of(shared, found, summed):
    d = shared.queries_back(found[0]), shared.keys_back(found[1]), shared.keys_back(found[2])
    if bias is None:
      return d, None
    gate = None if bias.gate is None else shared.queries_back(found[3])[..., 0]
    return d, Bias(gate, shared.table_back(*summed))

  def cached(bias, *arrays):
    shared = _Shared(q, k)
    mask, bias, arrays = share(shared, bias, *arrays)
    zero = () if bias is None else (jnp.zeros_like(bias.table),)
    found, summed = _by_heads(pullback, mask, bias, zero, *map(_single, arrays))
    found = [*(d.astype(q.dtype) for d in found[:3]), *found[3:]]
    return gradients_of(shared, found, summed)

  def at_once(bias, *arrays):
    shared = _Shared(q, k, folded=True)
    mask, bias, arrays = share(shared, bias, *arrays)
    parts = [_heads_first(x) for x in arrays]
    found, summed = pullback(None if mask is None else full_mask(mask), _per_head(bias), *parts)
    return gradients_of(shared, [_heads_first(d) for d in found], summed)

  args = bias, q, k, v, y, g
  gradients, d_bias = jax.lax.platform_dependent(*args, cpu=cached, default=at_once)
  return (*gradients, None, d_bias)


_attend.defvjp(_attend_forward, _attend_backward)


def _single(x):
  """float32: in 16 bits these products are no faster on CPUs."""
  return x.astype(jnp.float32)


# -- Groups of query heads that share a key head -------------------------------------------------


def fold(x: Shaped[Array, 'b t h *k'], groups: int) -> Shaped[Array, 'b tr g *k']:
  """What r = h / g query heads ask of one key head as queries of one head, side by side.

  Query heads i r to (i + 1) r - 1 share key head i.
  """
  b, t, heads = x.shape[:3]
  x = x.reshape(b, t, groups, heads // groups, *x.shape[3:]).swapaxes(2, 3)
  return x.reshape(b, -1, groups, *x.shape[4:])


def unfold(x: Shaped[Array, 'b tr g *k'], heads: int) -> Shaped[Array, 'b t h *k']:
  """The inverse of `fold`."""
  b, _, groups = x.shape[:3]
  x = x.reshape(b, -1, heads // groups, groups, *x.shape[3:]).swapaxes(2, 3)
  return x.reshape(b, -1, heads, *x.shape[4:])


def fold_pairs(
  mask: Mask | None, bias: Bias | None, heads: int, groups: int
) -> tuple[Bool[Array, '*shape'] | None, Bias | None]:
  """Mask [b, s] or [b or 1, 1, t r or 1, s] and bias of queries that are folded."""
  if mask is not None and mask.ndim == 4 and mask.shape[2] > 1:
    mask = jnp.repeat(mask, heads // groups, axis=2)
  if bias is not None:
    gate = None if bias.gate is None else fold(bias.gate, groups)
    table = fold(bias.table.swapaxes(0, 1)[None], groups)[0].swapaxes(0, 1)
    bias = Bias(gate, table)
  return mask, bias


class _Shared:
  """Groups as one head each: queries folded while the logits of a group fit the caches; else keys
  repeated for every query head. Nothing where there are as many key heads."""

  def __init__(self, q, k, folded=False):
    self.heads, self.groups = q.shape[2], k.shape[2]
    self.repeats = self.heads // self.groups
    fits = q.shape[1] * k.shape[1] * self.repeats <= CPU_LOGITS
    self.folded = self.repeats > 1 and (folded or fits)
    self.repeated = self.repeats > 1 and not self.folded

  def queries(self, x):
    return fold(x, self.groups) if self.folded else x

  def queries_back(self, x):
    return unfold(x, self.heads) if self.folded else x

  def keys(self, x):
    return jnp.repeat(x, self.repeats, axis=2) if self.repeated else x

  def keys_back(self, x):
    if not self.repeated:
      return x
    return x.reshape(*x.shape[:2], self.groups, self.repeats, x.shape[-1]).sum(axis=3)

  def mask(self, mask):
    return fold_pairs(mask, None, self.heads, self.groups)[0] if self.folded else mask

  def bias(self, bias):
    return fold_pairs(None, bias, self.heads, self.groups)[1] if self.folded else bias

  def table_back(self, table):
    if not self.folded:
      return table
    return unfold(table.swapaxes(0, 1)[None], self.heads)[0].swapaxes(0, 1)


# -- One or more heads: arrays [..., h, t or s, k], gate [..., h, t, 1], table [h, t, s] ---------


def _weigh(scale, mask, bias, q, k):
  """exp of q.k scale plus bias, less the largest of a query's, 0 where the mask is False, and its
  sum over the keys: the softmax before its division, float32."""
  q = q * np.asarray(scale, q.dtype)
  logits = jnp.einsum('...tk,...sk->...ts', q, k, preferred_element_type=jnp.float32)
  if bias is not None:
    logits = logits + (bias.table if bias.gate is None else bias.gate * bias.table)
  logits = logits if mask is None else jnp.where(mask, logits, -1e30)
  weights = jnp.exp(logits - logits.max(-1, keepdims=True))
  return weights, weights.sum(-1, keepdims=True)


def _weighted(scale, mask, bias, q, k, v):
  weights, total = _weigh(scale, mask, bias, q, k)
  weights = weights.astype(v.dtype)
  y = jnp.einsum('...ts,...sk->...tk', weights, v, preferred_element_type=jnp.float32)
  return (y / total).astype(v.dtype)


def _pullback(scale, mask, bias, q, k, v, y, g):
  """Gradients of q, k, v for the gradient g of y (Dao et al. 2022, arXiv 2205.14135, appendix B),
  with a gate that of it too; and of a bias's table, summed over the clips."""
  factor = np.asarray(scale, q.dtype)
  weights, total = _weigh(scale, mask, bias, q, k)
  share = g.astype(jnp.float32) / total
  delta = (share * y.astype(jnp.float32)).sum(-1, keepdims=True)
  share = share.astype(g.dtype)
  dv = jnp.einsum('...ts,...tk->...sk', weights.astype(g.dtype), share)
  dp = jnp.einsum('...tk,...sk->...ts', share, v, preferred_element_type=jnp.float32)
  d_logits = weights * (dp - delta)
  if mask is not None and mask.shape[-2] > 1:
    # A query may see no key at all: its weights are equal, not 0 where the mask is False.
    d_logits = jnp.where(mask, d_logits, 0.0)
  ds = d_logits.astype(q.dtype)
  dq = jnp.einsum('...ts,...sk->...tk', ds, k) * factor
  dk = jnp.einsum('...ts,...tk->...sk', ds, q) * factor
  if bias is None:
    return (dq, dk, dv), ()
  if bias.gate is None:
    return (dq, dk, dv), (d_logits.reshape(-1, *bias.table.shape).sum(axis=0),)
  d_gate = (d_logits * bias.table).sum(-1, keepdims=True)
  d_table = (d_logits * bias.gate).reshape(-1, *bias.table.shape).sum(axis=0)
  return (dq, dk, dv, d_gate), (d_table,)


# -- All heads ---------------------------------------------------------------------------------


def _heads_first(x):
  return x.swapaxes(1, 2)


def _either(mask, common):
  return mask if common is None else common


def _per_head(bias):
  if bias is None or bias.gate is None:
    return bias
  return Bias(_heads_first(bias.gate)[..., None], bias.table)


def _by_heads(function: Callable, mask: Mask | None, bias: Bias | None, zero, *arrays):
  """function(mask, bias, *arrays) over the heads of all clips, as many at a time as caches hold.

  The first of `arrays` has queries, the second keys. It gives arrays [clips, heads, t or s, k],
  which come back as [b, t or s, h, k], and arrays [heads, …] like those of `zero`, which are summed
  over the clips.
  """
  b, t, heads, _ = arrays[0].shape
  s = arrays[1].shape[1]

  def fitting(count, size):
    return max(
      (i for i in range(1, count + 1) if count % i == 0 and i * size <= CPU_LOGITS), default=1
    )

  size = fitting(heads, t * s)
  rows = fitting(b, heads * t * s) if size == heads else 1
  # A mask of all clips is not cut into clips.
  common = mask if mask is not None and len(mask) < b else None
  parts: dict[str, Any] = dict(
    arrays=tuple(_heads_first(x) for x in arrays),
    mask=None if mask is None or common is not None else full_mask(mask),
    gate=None if bias is None or bias.gate is None else _per_head(bias).gate,
  )
  if rows == b and size == heads:
    per_head = None if bias is None else Bias(parts['gate'], bias.table)
    found, summed = function(_either(parts['mask'], common), per_head, *parts['arrays'])
    return tuple(map(_heads_first, found)), summed

  def cut(x):
    """[b, h or 1, …] -> [groups of heads, groups of clips, clips, heads or 1, …]."""
    groups, at_once = (1, 1) if x.shape[1] == 1 else (heads // size, size)
    x = x.reshape(b // rows, rows, groups, at_once, *x.shape[2:])
    return jnp.broadcast_to(jnp.moveaxis(x, 2, 0), (heads // size, *x.shape[:2], *x.shape[3:]))

  def group(each):
    parts, table, start = each

    def clips(sums, part):
      per_head = None if table is None else Bias(part['gate'], table)
      found, summed = function(_either(part['mask'], common), per_head, *part['arrays'])
      return jax.tree.map(jnp.add, sums, summed), found

    return jax.lax.scan(clips, start, parts)

  def by_group(x):
    return x.reshape(heads // size, size, *x.shape[1:])

  table = None if bias is None else by_group(bias.table)
  chunks = jax.tree.map(cut, parts), table, jax.tree.map(by_group, zero)
  summed, found = jax.lax.map(group, chunks)
  summed = jax.tree.map(lambda x: x.reshape(heads, *x.shape[2:]), summed)
  # [groups of heads, groups of clips, clips, heads, t or s, k] -> [b, t or s, h, k].
  whole = [x.transpose(1, 2, 4, 0, 3, 5).reshape(b, x.shape[4], heads, x.shape[-1]) for x in found]
  return tuple(whole), summed


# -- Products ----------------------------------------------------------------------------------


@jax.custom_vjp
def pair_products(
  q: Float[Array, 'b t h k'], k: Float[Array, 'b s h k']
) -> Float[Array, 'b h t s']:
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


pair_products.defvjp(lambda q, k: (pair_products(q, k), (q, k)), _products_backward)

"""Attention as a function of queries, keys and values.

Letters: b batch, t queries, s keys, h query heads, g key and value heads, k size of a head.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError
from research.nn.kernels import tpu_attention
from research.nn.kernels.attention import (
  Bias,
  Drop,
  Mask,
  fold,
  fold_pairs,
  full_bias,
  full_mask,
  library,
  pair_products,
  softmax_attention,
  unfold,
)

Offset = int | Int[Array, ''] | Int[Array, ' b']


def attend(
  q: Float[Array, 'b t h k'],
  k: Float[Array, 'b s g k'],
  v: Float[Array, 'b s g k'],
  key_mask: Bool[Array, 'b s'] | None = None,
  implementation: str | None = None,
  bias: Bias | None = None,
  *,
  mask: Bool[Array, '#b 1 #t s'] | None = None,
  causal: bool = False,
  offset: Offset = 0,
  window: int | None = None,
  scale: float | None = None,
  drop: Drop | None = None,
) -> Float[Array, 'b t h k']:
  """softmax(scale q.k + bias) v over the keys that all masks allow, softmax in float32.

  A query without any allowed key gets the mean of all values, which must be finite.

  Args:
    q, k, v: queries, keys, values; h / g query heads in a row share a key head.
    key_mask: True where a key may be attended to.
    implementation: None takes the form that suits the platform; 'xla' and 'cudnn' are those of
      `jax.nn.dot_product_attention` ('cudnn': 16-bit floats on an NVIDIA GPU, with its own
      derivative).
    bias: added to the scaled products.
    mask: True where a query may attend to a key, the same for all heads.
    causal: query i attends to keys up to its own position, `offset` + i; key j has position j.
    offset: position of the first query; one for all clips, or one a clip.
    window: keys at a distance below it are attended to: with `causal` the query's own and
      `window` - 1 before it, without as many on both sides.
    scale: of queries before the product; k^-0.5 where None, 1 for queries that are scaled.
    drop: dropout of the weights, in training. A TPU draws other numbers than XLA.

  Raises:
    InputError: key heads that do not divide the query heads.
  """
  heads, groups = q.shape[2], k.shape[2]
  check_groups(heads, groups)
  allowed: Mask | None = key_mask
  if causal or window is not None or mask is not None:
    allowed = mask
    if causal or window is not None:
      at = _positions(q.shape[1], offset)
      allowed = both(allowed, visible(at, jnp.arange(k.shape[1])[None], causal, window))
    allowed = both(allowed, key_mask)
  if implementation == 'cudnn' and drop is None:
    # cuDNN skips what lies above the diagonal where it is told of the order, not by a mask.
    whole = isinstance(offset, int) and offset == 0 and q.shape[1] == k.shape[1]
    known = causal and whole and window is None and mask is None
    allowed = key_mask if known else allowed
    return library(q, k, v, allowed, bias, scale, 'cudnn', is_causal=known)

  if implementation is None and tpu_attention.suits(q, k, allowed):
    return _on_chip(q, k, v, allowed, bias, scale, drop)
  if drop is None:
    return softmax_attention(q, k, v, allowed, bias, scale, implementation)
  if heads > groups:
    q = fold(q, groups)
    allowed, bias = fold_pairs(allowed, bias, heads, groups)
  scale = float(q.shape[-1] ** -0.5) if scale is None else scale
  logits = pair_products(q * np.asarray(scale, q.dtype), k)
  if bias is not None:
    logits = logits + full_bias(bias)
  if allowed is not None:
    logits = jnp.where(full_mask(allowed), logits, -1e30)
  weights = drop(jax.nn.softmax(logits)).astype(v.dtype)
  y = jnp.einsum('bhts,bshk->bthk', weights, v)
  return unfold(y, heads) if heads > groups else y


def _on_chip(q, k, v, mask, bias, scale, drop):
  words = None if drop is None else jax.random.bits(drop.key, (2,), jnp.uint32).astype(jnp.int32)
  gate, table = (None, None) if bias is None else bias
  scale = float(q.shape[-1] ** -0.5) if scale is None else scale
  rate = 0.0 if drop is None else drop.rate
  return tpu_attention.attention(q, k, v, mask, gate, table, words, scale, rate)


# -- Masks -------------------------------------------------------------------------------------


def visible(
  query: Int[Array, '#b t'], key: Int[Array, '#b s'], causal: bool, window: int | None
) -> Bool[Array, '#b 1 t s']:
  """Which keys a query may attend to by their positions.

  Args:
    query, key: positions.
    causal: keys at later positions than the query are hidden.
    window: keys at this distance or farther are hidden; None for no limit.
  """
  distance = query[:, :, None] - key[:, None, :]
  seen = distance >= 0 if causal else jnp.ones_like(distance, bool)
  if window is not None:
    seen &= jnp.abs(distance) < window
  return seen[:, None]


def both(a: Mask | None, b: Mask | None) -> Mask | None:
  """What two masks allow, each None for everything."""
  if a is None or b is None:
    return a if b is None else b
  return full_mask(a) & full_mask(b)


def _positions(count: int, offset: Offset) -> Int[Array, '#b t']:
  return jnp.asarray(offset, jnp.int32).reshape(-1, 1) + jnp.arange(count, dtype=jnp.int32)


def check_groups(heads: int, groups: int) -> None:
  """Raises InputError unless every key head has the same number of query heads."""
  if groups < 1 or heads % groups:
    raise InputError(
      f'{heads} query heads cannot share {groups} key heads: give a number of key heads that '
      f'divides {heads}.'
    )

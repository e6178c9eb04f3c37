"""Multi-head attention of decoders: causal or not, of one sequence or two, with a cache.

Letters: b batch, t tokens, s tokens of the other sequence, d width, h query heads, g key heads, k
size of a head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError
from research.nn.attention import attend, both, check_groups, visible
from research.nn.cache import EMPTY, Cache, Memory, append, token_positions
from research.nn.kernels import Dtype
from research.nn.kernels.attention import Bias, Drop, pair_products
from research.nn.layers import HeadProjection, HeadsOut
from research.nn.positions import Rotary, rotary_frequencies, rotate


class UseBias(NamedTuple):
  """Which projections have a bias (Whisper: all but the keys; Qwen2: all but the output)."""

  query: bool = True
  key: bool = True
  value: bool = True
  out: bool = True


class MultiHeadAttention(nn.Module):
  """Attention with projections of queries, keys and values of their own.

  Parameters: `query` [d, h, k], `key` and `value` [d, g, k], `out` [h, k, d], each a kernel and a
  bias.

  Attributes:
    width: d, of what comes out.
    heads: h.
    kv_heads: g, which divides h; None for h.
    head_dim: k; None for d / h.
    use_bias: see `UseBias`.
    causal: tokens do not attend to later ones.
    window: tokens attend to those at a distance below it, see `attention.attend`.
    rotary: turns queries and keys by their positions; None for no turn.
    scale: of the queries before the product; None for k^-0.5.
    dropout: rate of the weights in training, by rng 'dropout'.
    implementation: see `attention.attend`.
    kernel_init: of all four kernels; None for Xavier.
  """

  width: int
  heads: int
  kv_heads: int | None = None
  head_dim: int | None = None
  use_bias: UseBias = UseBias()
  causal: bool = False
  window: int | None = None
  rotary: Rotary | None = None
  scale: float | None = None
  dropout: float = 0.0
  dtype: Dtype = jnp.float32
  implementation: str | None = None
  kernel_init: Callable[..., Array] | None = None

  def __post_init__(self):
    check_groups(self.heads, self.heads if self.kv_heads is None else self.kv_heads)
    if self.head_dim is None and self.width % self.heads:
      raise InputError(
        f'A width of {self.width} does not divide into {self.heads} heads: give head_dim, or a '
        'number of heads that divides it.'
      )
    super().__post_init__()

  def setup(self):
    size = self.head_dim or self.width // self.heads
    groups = self.kv_heads or self.heads
    use, start = self.use_bias, self.kernel_init
    self.query = HeadProjection(self.heads, size, use.query, self.dtype, start)
    self.key = HeadProjection(groups, size, use.key, self.dtype, start)
    self.value = HeadProjection(groups, size, use.value, self.dtype, start)
    self.out = HeadsOut(self.dtype, start, self.width, use.out)
    if self.rotary is not None:
      self.frequencies = rotary_frequencies(self.rotary, size)

  def remember(
    self,
    context: Float[Array, 'b s d'],
    mask: Bool[Array, 'b s'] | None = None,
    dtype: Dtype | None = None,
  ) -> Memory:
    """Keys and values of the other sequence, computed once for all calls; kept in `dtype`, the
    layer's own where None."""
    k, v = (f(context).swapaxes(1, 2) for f in (self.key, self.value))
    return Memory(k.astype(dtype or k.dtype), v.astype(dtype or v.dtype), mask)

  def logits(self, x: Float[Array, 'b t d'], memory: Memory) -> Float[Array, 'b h t s']:
    """The scaled products of tokens with the keys of `memory`, before the softmax, float32."""
    q, k = self.query(x), memory.keys
    scale = self.scale if self.scale is not None else float(q.shape[-1] ** -0.5)
    k = jnp.repeat(k.swapaxes(1, 2).astype(q.dtype), len(q) // len(k), axis=0)
    k = jnp.repeat(k, q.shape[2] // k.shape[2], axis=2)
    return scale * pair_products(q, k)

  def __call__(
    self,
    x: Float[Array, 'b t d'],
    real: Bool[Array, 'b t'] | None = None,
    *,
    cache: Cache | None = None,
    memory: Memory | None = None,
    mask: Bool[Array, '#b 1 #t s'] | None = None,
    positions: Int[Array, '#b t'] | Float[Array, '#b t'] | None = None,
    frequencies: Float[Array, 'b pairs'] | None = None,
    query_scale: Float[Array, '#b t'] | None = None,
    bias: Bias | None = None,
    train: bool = False,
  ) -> tuple[Float[Array, 'b t d'], Cache | None]:
    """The tokens x attend to each other and to those in the cache, or to those of `memory`.

    Args:
      x: tokens; with a cache, those that come after it.
      real: True for real tokens of x, others are not attended to; None for all.
      cache: of this layer.
      memory: attends to another sequence, see `remember`; then there is no cache, and neither
        `causal` nor `window`. One of fewer rows is shared by as many neighbouring rows of x.
      mask: True where a token may attend to a key, on top of the other masks; with a cache the keys
        are its slots.
      positions: for the rotary turn; None counts the real tokens of a row from 0.
      frequencies: of the rotary turn, where rows have their own.
      query_scale: of each token's query, on top of `scale`.
      bias: added to the scaled products.
      train: whether dropout acts.

    Returns:
      y, and the cache with the new tokens (None without one).

    Raises:
      InputError: a cache or an order together with a memory; a ring shorter than the window.
    """
    t, rotary = x.shape[1], self.rotary
    q = self.query(x)
    drop = None
    if train and self.dropout > 0.0:
      drop = Drop(self.make_rng('dropout'), self.dropout)
    common: dict[str, Any] = dict(scale=self.scale, drop=drop)
    how = self.implementation, bias

    if memory is not None:
      if cache is not None or self.causal or self.window is not None or rotary is not None:
        raise InputError(
          'Attention to another sequence has no cache of its own, no order and no rotary '
          'positions: leave out cache, causal, window and rotary.'
        )
      k, v = (x.swapaxes(1, 2).astype(q.dtype) for x in (memory.keys, memory.values))
      # Rows that share a memory ask it together: it is read once for all of them.
      asked = q.reshape(len(k), -1, *q.shape[2:])
      y = attend(asked, k, v, memory.mask, *how, mask=mask, **common)
      return self.out(y.reshape(q.shape)), None

    k, v = self.key(x), self.value(x)
    order = token_positions(cache, t, real)
    if rotary is not None:
      turns = order if positions is None else positions
      rates = self.frequencies if frequencies is None else frequencies
      q, k = (rotate(x, turns, rates, rotary.interleaved) for x in (q, k))
    if query_scale is not None:
      q = q * query_scale[:, :, None, None].astype(q.dtype)
    if cache is None:
      common |= dict(causal=self.causal, window=self.window)
      return self.out(attend(q, k, v, real, *how, mask=mask, **common)), None

    if cache.ring and (self.window is None or self.window > cache.max_length):
      raise InputError(
        f'A ring of {cache.max_length} slots forgets tokens that a window of {self.window} sees: '
        'give the layer a window of at most as many slots.'
      )
    cache, seen = append(cache, k, v, real)
    allowed = both(visible(order, seen.positions, self.causal, self.window), mask)
    taken = seen.positions != EMPTY
    y = attend(q, seen.keys, seen.values, taken, *how, mask=allowed, **common)
    return self.out(y), cache

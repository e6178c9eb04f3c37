"""Attention of Jukebox's priors: a window as rows of a few positions, and which of them are seen.

A window of n positions is `blocks` rows of n / blocks; layers take turns in what a position attends
to (arXiv 2005.00341, §4; openai/jukebox, transformer/factored_attention.py):

  0 dense            all up to itself
  1 row              its row, up to itself
  2 column           its column, up to itself
  3 previous row     the whole row before; in the first row zero keys and values
  4 summary          a zero key, and the last position of every row that has ended
  6 lyrics           all states of the lyric encoder
  7 prime            the first P positions up to itself, P = (lyrics // blocks + 1) blocks

Step by step a layer keeps what later positions see: a ring of a row (1) or two (3), the lyrics (6),
P positions (7), otherwise all; 2 reads the column of a step alone. Nothing keeps what 4 needs.
Letters: b batch, n positions, s keys, d width, h heads, k size of a head, r rows, c columns.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError, unknown
from research.nn import cache as caches
from research.nn.attention import attend
from research.nn.cache import Cache, Memory
from research.nn.kernels import Dtype
from research.nn.layers import HeadsOut, product

DENSE, ROW, COLUMN, PREVIOUS, SUMMARY, LYRICS, PRIME = 0, 1, 2, 3, 4, 6, 7
FUNCTIONS = (DENSE, ROW, COLUMN, PREVIOUS, SUMMARY, LYRICS, PRIME)
_TURNS = (ROW, COLUMN, PREVIOUS)
# What layers take turns in, by attn_order. Function 5, the last positions of rows, is in none of
# the published models, and not built.
ORDERS: dict[int, tuple[int, ...]] = {
  0: (DENSE,),
  1: (ROW, COLUMN),
  2: _TURNS,  # prior_5b, upsamplers
  3: (ROW, SUMMARY),
  4: (ROW, 5),
  5: (ROW, SUMMARY, ROW, ROW),
  6: (*_TURNS, LYRICS),
  7: (*_TURNS * 5, LYRICS),
  8: (*_TURNS * 3, LYRICS),  # small_sep_enc_dec_prior
  9: (*_TURNS, DENSE),
  10: (*_TURNS * 3, *(*_TURNS * 3, LYRICS) * 7),  # prior_5b_lyrics
}
# Of layers 15, 31, 47, …, by attn_order; the others take turns in 1, 2, 3.
EVERY_16 = {11: (LYRICS, LYRICS, DENSE), 12: (PRIME, PRIME, DENSE)}  # 12: prior_1b_lyrics


def attn_functions(order: int, depth: int) -> tuple[int, ...]:
  """The function of every layer, see the module; raises InputError for an unknown order."""
  if order in EVERY_16:
    every = EVERY_16[order]
    return tuple(every[i % 3] if i % 16 == 15 else _TURNS[i % 3] for i in range(depth))
  if order not in ORDERS:
    raise unknown('attn_order', order, [str(each) for each in sorted({*ORDERS, *EVERY_16})])
  return tuple(ORDERS[order][i % len(ORDERS[order])] for i in range(depth))


class Window(NamedTuple):
  """The positions of a transformer.

  Attributes:
    length: n.
    blocks: rows; 0 where no layer needs them.
    prime: positions of lyrics in front, for function 7.
  """

  length: int
  blocks: int = 0
  prime: int = 0

  @property
  def columns(self) -> int:
    """Positions of a row."""
    return self.length // self.blocks if self.blocks else self.length

  @property
  def primed(self) -> int:
    """P: more than there are lyrics."""
    return min((self.prime // self.blocks + 1) * self.blocks, self.length)

  def check(self, functions: tuple[int, ...]) -> None:
    """Raises InputError where rows are needed and do not divide the window."""
    if set(functions) - set(FUNCTIONS):
      raise InputError('attn_order=4 has layers of function 5, which no published model has.')
    if set(functions) - {DENSE, LYRICS} and (self.blocks < 1 or self.length % self.blocks):
      raise InputError(
        f'A window of {self.length} positions was given with blocks={self.blocks}: give a number '
        'that divides it.'
      )

  def slots(self, function: int) -> int:
    """Positions that a layer keeps."""
    kept = {ROW: self.columns, PREVIOUS: min(2 * self.columns, self.length)}
    return kept.get(function, self.primed if function == PRIME else self.length)

  def sees(
    self, function: int, query: Int[Array, '#b n'], key: Int[Array, '#b s']
  ) -> Bool[Array, '#b 1 n s']:
    """Which keys queries attend to, by positions."""
    q, k = query[:, :, None], key[:, None, :]
    row, column, before = q // self.columns, q % self.columns, k <= q
    if function == PREVIOUS:
      return (k // self.columns == row - 1)[:, None]
    if function == ROW:
      before = before & (k // self.columns == row)
    elif function == COLUMN:
      before = before & (k % self.columns == column)
    elif function == PRIME:
      before = before & (k < self.primed)
    return before[:, None]


# -- All at once -------------------------------------------------------------------------------


def all_at_once(window: Window, function: int, q: Any, k: Any, v: Any) -> Float[Array, 'b n h k']:
  """Attention of positions 0 to n - 1, n at most the window's length; [b, n, h, k] each."""
  if function == DENSE:
    return attend(q, k, v, causal=True)
  if function == PRIME:
    return attend(q, k[:, : window.primed], v[:, : window.primed], causal=True)
  b, n = q.shape[:2]
  columns = window.columns
  pad = ((0, 0), (0, -n % columns), (0, 0), (0, 0))
  q, k, v = (jnp.pad(x, pad).reshape(b, -1, columns, *x.shape[2:]) for x in (q, k, v))
  rows = q.shape[1]

  def each(x):  # [b, r, c, …] -> [b r, c, …]
    return x.reshape(b * x.shape[1], *x.shape[2:])

  if function == COLUMN:
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    y = attend(each(q), each(k), each(v), causal=True)
    y = y.reshape(b, columns, rows, *y.shape[2:]).swapaxes(1, 2)
  elif function == SUMMARY:
    one: Any = ((0, 0), (1, 0), (0, 0), (0, 0))
    k, v = (jnp.pad(x[:, : window.blocks - 1, -1], one) for x in (k, v))
    at = jnp.arange(rows * columns)[:, None]
    ends = jnp.arange(k.shape[1])[None] * columns - 1
    y = attend(q.reshape(b, -1, *q.shape[3:]), k, v, mask=(at >= ends)[None, None])
  else:
    if function == PREVIOUS:
      edges = ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0))
      k, v = (jnp.pad(x[:, :-1], edges) for x in (k, v))
    y = attend(each(q), each(k), each(v), causal=function == ROW)
  return y.reshape(b, rows * columns, *y.shape[-2:])[:, :n]


# -- Step by step ------------------------------------------------------------------------------


def create(
  window: Window, function: int, rows: int, heads: int, size: int, dtype: Any
) -> Cache | None:
  """An empty cache of a layer; None for one that attends to lyrics.

  Raises:
    InputError: a layer of function 4, for which there is none.
  """
  if function == LYRICS:
    return None
  if function == SUMMARY:
    raise InputError('Layers that attend to summaries (attn_order 3 and 5) have no cache.')
  ring = function in (ROW, PREVIOUS)
  return caches.create(rows, window.slots(function), heads, size, dtype, ring=ring)


def further(
  window: Window, function: int, q: Any, k: Any, v: Any, cache: Cache, fresh: bool
) -> tuple[Float[Array, 'b n h k'], Cache]:
  """Attention of n further positions to those of a cache and each other, and the next cache.

  Args:
    window, function: of the layer.
    q, k, v: [b, n, h, k] of the new positions; all rows have got as far.
    cache: of the layer.
    fresh: there is nothing before them.
  """
  n, start = q.shape[1], cache.length
  at = caches.token_positions(cache, n, None)
  if function == PRIME:
    after = _append_prime(cache, k, v)
    keys, values = (x.swapaxes(1, 2).astype(q.dtype) for x in (after.keys, after.values))
    places = after.positions
  else:
    after, seen = caches.append(cache, k, v)
    keys, values, places = seen
  if fresh:
    return all_at_once(window, function, q, k, v), after
  if function == COLUMN and n == 1:
    # Its column alone: as many keys as there are rows.
    def column(x):
      parts = x.reshape(*x.shape[:-2], window.blocks, window.columns, x.shape[-1])
      place = start[0] % window.columns
      return jax.lax.dynamic_index_in_dim(parts, place, -2, keepdims=False)

    keys, values = (column(x).swapaxes(1, 2).astype(q.dtype) for x in (after.keys, after.values))
    places = jnp.arange(window.blocks)[None] * window.columns + start[:1, None] % window.columns
  taken = (places != caches.EMPTY)[:, None, None]
  allowed = window.sees(function, at, places) & taken
  y = attend(q, keys, values, mask=allowed)
  if function == PREVIOUS:  # nothing is before the first row
    y = jnp.where((at < window.columns)[:, :, None, None], jnp.zeros((), y.dtype), y)
  return y, after


def _append_prime(cache: Cache, k: Any, v: Any) -> Cache:
  """A cache that takes the first positions and no others."""
  n, m = k.shape[1], cache.max_length
  at = cache.slots + jnp.arange(n)
  place = jnp.where(at < m, at, m)
  positions = jnp.broadcast_to(at[None].astype(jnp.int32), (len(k), n))

  def put(old, new):
    return old.at[:, :, place].set(new.swapaxes(1, 2).astype(old.dtype), mode='drop')

  return dataclasses.replace(
    cache,
    keys=put(cache.keys, k),
    values=put(cache.values, v),
    positions=cache.positions.at[:, place].set(positions, mode='drop'),
    length=cache.length + n,
    slots=cache.slots + n,
  )


# -- The layer ---------------------------------------------------------------------------------


def normal(scale: float) -> Any:
  """Weights that start with that standard deviation, times 0.02; 0 for zeros."""
  return nn.initializers.normal(0.02 * scale) if scale else nn.initializers.zeros_init()


class Fused(nn.Module):
  """One projection to several parts of heads: kernel [d, parts, h, k], bias [parts, h, k]."""

  parts: int
  heads: int
  size: int
  scale: float
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> tuple[Float[Array, 'b n h k'], ...]:
    shape = self.parts, self.heads, self.size
    kernel = self.param('kernel', normal(self.scale), (x.shape[-1], *shape))
    bias = self.param('bias', nn.initializers.zeros_init(), shape)
    y = product(x, kernel, 1, self.dtype, bias)
    return tuple(part.squeeze(2) for part in jax.lax.split(y, (1,) * self.parts, axis=2))


class FactoredAttention(nn.Module):
  """One layer's attention. Parameters: `qkv` (function 6: `q`, and `kv` of the lyrics), `proj`.

  Attributes:
    window: of its positions.
    function: see the module.
    heads, size: h and k.
    scale: of the starting weights; `proj` of function 6 starts at 0.
  """

  window: Window
  function: int
  heads: int
  size: int
  scale: float = 1.0
  dtype: Dtype = jnp.float32

  def setup(self):
    how = self.heads, self.size, self.scale, self.dtype
    if self.function == LYRICS:
      self.q, self.kv = Fused(1, *how), Fused(2, *how)
    else:
      self.qkv = Fused(3, *how)

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    lyrics: Any = None,
    cache: Any = None,
    fresh: bool = False,
  ) -> tuple[Float[Array, 'b n d'], Any]:
    """(what x attends to, the next cache).

    Args:
      x: positions, from the first, or behind those of the cache.
      lyrics: states of the lyric encoder, for function 6 without its memory.
      cache: of the positions before; for function 6 the memory of `remember`.
      fresh: the cache is empty.
    """
    if self.function == LYRICS:
      (q,) = self.q(x)
      cache = self.remember(lyrics) if cache is None else cache
      keys, values = (kept.swapaxes(1, 2).astype(q.dtype) for kept in (cache.keys, cache.values))
      y = attend(q, keys, values)
    else:
      q, k, v = self.qkv(x)
      if cache is None:
        y = all_at_once(self.window, self.function, q, k, v)
      else:
        y, cache = further(self.window, self.function, q, k, v, cache, fresh)
    start = normal(0.0 if self.function == LYRICS else self.scale)
    return HeadsOut(self.dtype, start, x.shape[-1], name='proj')(y), cache

  def remember(self, lyrics: Float[Array, 'b s d']) -> Memory:
    """Keys and values of the lyrics, computed once."""
    k, v = self.kv(lyrics)
    return Memory(k.swapaxes(1, 2), v.swapaxes(1, 2))

  def empty(self, rows: int) -> Any:
    """The cache before the first position."""
    return create(self.window, self.function, rows, self.heads, self.size, self.dtype)

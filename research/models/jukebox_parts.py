"""Parts of Jukebox's priors: the transformer over codes, and what its windows are told.

Figures and starting weights are those of openai/jukebox, prior/autoregressive.py, conditioners.py
and transformer/transformer.py.
Letters: b batch, n positions, s lyrics, d width, v codes, u codes of the level above.
"""

import dataclasses
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.errors import InputError
from research.models import jukebox_attention as attention
from research.nn import cache as caches
from research.nn import layers
from research.nn.kernels import Dtype, similarities
from research.nn.residual_convolutions import (
  Conv,
  ConvTranspose,
  ResidualStack,
  inverse_root,
  stack_dilations,
)

EPSILON = 1e-5
# What a song can be asked for by, see `text.jukebox.Song`.
SONG_TEXTS = {
  'artist': 'a name',
  'genre': 'a word, or some',
  'lyrics': 'all lyrics of the song',
  'total_seconds': 'length of the song that the sample is of',
  'offset_seconds': 'where in the song the sample begins',
}


@flax.struct.dataclass
class WindowState(caches.State):
  """`caches.State` of a window that may be empty: `fresh`, known while a program is made."""

  fresh: bool = flax.struct.field(pytree_node=False, default=True)

  def after(self, caches: Any) -> 'WindowState':
    """The state with the caches of further positions."""
    return dataclasses.replace(self, caches=caches, fresh=False)


# -- Transformer -------------------------------------------------------------------------------


class Block(nn.Module):
  """x + a + MLP(norm(x + a)), a = attention(norm(x)); the activation is x sigmoid(1.702 x)."""

  window: attention.Window
  function: int
  heads: int
  size: int
  hidden: int
  scale: float
  dtype: Dtype = jnp.float32

  def setup(self):
    how = self.heads, self.size, self.scale, self.dtype
    self.norm1 = layers.LayerNorm(EPSILON, self.dtype)
    self.norm2 = layers.LayerNorm(EPSILON, self.dtype)
    self.attn = attention.FactoredAttention(self.window, self.function, *how)

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n d'], lyrics: Any = None, cache: Any = None, fresh: bool = False
  ) -> tuple[Float[Array, 'b n d'], Any]:
    """(x, the next cache), see `FactoredAttention`."""
    a, cache = self.attn(self.norm1(x), lyrics, cache, fresh)
    x = x + a
    start = attention.normal(self.scale)
    end = attention.normal(0.0 if self.function == attention.LYRICS else self.scale)
    y = layers.Dense(self.hidden, self.dtype, start, name='fc1')(self.norm2(x))
    y = y * jax.nn.sigmoid(y * jnp.asarray(1.702, y.dtype))
    return x + layers.Dense(x.shape[-1], self.dtype, end, name='fc2')(y), cache

  def remember(self, lyrics: Float[Array, 'b s d']) -> caches.Memory:
    """Keys and values of the lyrics."""
    return self.attn.remember(lyrics)


class Autoregressive(nn.Module):
  """A transformer over a window of codes, each predicted from those before it.

  Attributes:
    bins: v.
    window: its positions.
    width, depth, heads: of the transformer.
    attn_order: see `attention.attn_functions`.
    scale: init_scale.
    starts: the first position gets a vector of its own, a parameter; else one is given.
    tied: the output has the weights of the embedding, and the conditioning of positions is added
      once more before it (not in a `merged_decoder`).
    predicts: there is an output; else states are all there is.
    m_attn, m_mlp: widths of attention and MLP / `width`.
    remat: the backward pass computes every layer anew.
  """

  bins: int
  window: attention.Window
  width: int
  depth: int
  heads: int
  attn_order: int
  scale: float = 1.0
  starts: bool = False
  tied: bool = True
  predicts: bool = True
  m_attn: float = 0.25
  m_mlp: float = 1.0
  dtype: Dtype = jnp.float32
  remat: bool = False

  @property
  def functions(self) -> tuple[int, ...]:
    """What each layer attends to."""
    return attention.attn_functions(self.attn_order, self.depth)

  def setup(self):
    self.window.check(self.functions)
    attended = int(self.m_attn * self.width)
    if attended % self.heads:
      raise InputError(
        f'An attention of width {attended} ({self.m_attn:g} x {self.width}) has heads='
        f'{self.heads}: give a number that divides it.'
      )
    normal, table = nn.initializers.normal, (self.bins, self.width)
    self.embedding = self.param('embedding', normal(0.02 * self.scale), table)
    places = self.window.length, self.width
    self.positions = self.param('positions_embedding', normal(0.01 * self.scale), places)
    if self.starts:
      self.start_token = self.param('start_token', normal(0.01 * self.scale), (1, self.width))
    sizes = self.heads, attended // self.heads, int(self.m_mlp * self.width)
    block = nn.remat(Block, static_argnums=(4,)) if self.remat else Block
    self.blocks = [
      block(self.window, function, *sizes, self.scale, self.dtype) for function in self.functions
    ]
    if self.predicts and not self.tied:
      start = layers.uniform(float(self.width) ** -0.5)
      self.output = self.param('output_embedding', start, table)

  def __call__(
    self,
    codes: Int[Array, 'b n'],
    x_cond: Float[Array, 'b n d'] | None = None,
    y_cond: Float[Array, 'b d'] | None = None,
    lyrics: Float[Array, 'b s d'] | None = None,
  ) -> tuple[Float[Array, 'b n d'], list[Float[Array, 'b n d']]]:
    """(states behind the last layer, of which `logits` makes logits; outputs of all layers, and
    before them their input): at position i, of codes before i.

    Args:
      codes: of the window, from its first position.
      x_cond: added to positions.
      y_cond: what stands before the first code, unless `starts`.
      lyrics: for layers that attend to them.
    """
    n = codes.shape[1]
    self._check(n)
    first = self._first(len(codes), y_cond)
    x = jnp.concatenate([first, self.embedding[codes[:, :-1]]], axis=1) + self.positions[:n]
    x = (x if x_cond is None else x + x_cond).astype(self.dtype)
    states = [x]
    for block, function in zip(self.blocks, self.functions):
      x, _ = block(x, lyrics if function == attention.LYRICS else None, None, False)
      states.append(x)
    return self._end(x, x_cond), states

  def _end(self, x, x_cond):
    x = x.astype(jnp.float32)
    return x + x_cond if self.tied and x_cond is not None else x

  def _first(self, b: int, y_cond: Float[Array, 'b d'] | None) -> Float[Array, 'b 1 d']:
    first: Any = self.start_token if self.starts else y_cond
    return jnp.broadcast_to(first, (b, self.width))[:, None]

  def _check(self, n: int) -> None:
    if n > self.window.length:
      raise InputError(
        f'{n} codes were given, and a window of the prior has {self.window.length} positions: cut '
        'the clip, or sample in windows.'
      )

  def logits(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n v']:
    """Of states behind the last layer, float32."""
    return similarities(x, self.embedding if self.tied else self.output, self.dtype)

  def remember(self, lyrics: Any) -> tuple[Any, ...]:
    """Keys and values of the lyrics of every layer that attends to them, None of others."""
    return tuple(
      block.remember(lyrics) if function == attention.LYRICS else None
      for block, function in zip(self.blocks, self.functions)
    )

  def empty(self, rows: int) -> tuple[Any, ...]:
    """Caches before the first position."""
    size = int(self.m_attn * self.width) // self.heads
    how = rows, self.heads, size, jnp.dtype(self.dtype)
    return tuple(attention.create(self.window, f, *how) for f in self.functions)

  def further(
    self,
    tokens: Int[Array, 'b n'],
    state: WindowState,
  ) -> tuple[Float[Array, 'b n d'], tuple[Any, ...]]:
    """(states as of `__call__`, next caches) of further positions, by the tokens before each. The
    token before the first position may be any.

    Args:
      tokens: those before the new positions.
      state: caches, and as memories 'lyrics', which `remember` gave, 'x_cond' [b, s, d] of all
        positions of the window and 'y_cond', as of `__call__`.
    """
    n, x_cond, y_cond = tokens.shape[1], state.memories['x_cond'], state.memories['y_cond']
    self._check(n)
    at = caches.first_cache([c for c in state.caches if c is not None]).length[0]
    places = at + jnp.arange(n)
    first = self._first(len(tokens), y_cond)
    x = jnp.where((places == 0)[None, :, None], first, self.embedding[tokens])
    x = x + jax.lax.dynamic_slice_in_dim(self.positions, at, n)
    if x_cond is not None:
      x_cond = jax.lax.dynamic_slice_in_dim(x_cond, at, n, axis=1)
      x = x + x_cond
    x, made = x.astype(self.dtype), []
    for block, cache, memory in zip(
      self.blocks, state.caches, state.memories['lyrics'], strict=True
    ):
      x, cache = block(x, None, memory if cache is None else cache, state.fresh)
      made.append(cache if memory is None else None)
    return self._end(x, x_cond), tuple(made)


# -- Labels ------------------------------------------------------------------------------------


def range_bins(
  start: Float[Array, ' b'],
  end: Float[Array, ' b'] | None,
  count: int,
  bins: int,
  limits: tuple[float, float],
  clamp: bool = False,
) -> Int[Array, 'b n']:
  """Bins of `count` positions from start to just before end, of `bins` equal ones over `limits`.

  Positions beyond the limits, which the original refuses, get the first or last bin.
  """
  low, high = limits
  position = jnp.asarray(start, jnp.float32)[:, None]
  if end is not None and count > 1:
    stop = jnp.clip(end, low, high) if clamp else jnp.asarray(end, jnp.float32)
    way = np.arange(count, dtype=np.float32)[None] / np.float32(count)
    position = position + (stop[:, None] - position) * way
  part = (position - np.float32(low)) / np.float32(high - low)
  found = jnp.floor(np.float32(bins) * part).astype(jnp.int32)
  return jnp.clip(found, 0, bins - 1)


class LabelConditioner(nn.Module):
  """Artist and genres as the vector before the first code, and, in a top level, the place of a
  window in its song as one vector a position.

  Attributes:
    genres, artists: rows of the tables (y_bins).
    max_genres: max_bow_genre_size.
    width: d.
    positions: n of a window; 0: no times.
    t_bins: bins of each of the three times.
    limits: min_duration and max_duration x sample rate, samples.
  """

  genres: int
  artists: int
  max_genres: int
  width: int
  positions: int
  t_bins: int
  limits: tuple[float, float]
  scale: float = 1.0

  @nn.compact
  def __call__(
    self, y: Int[Array, 'b l']
  ) -> tuple[Float[Array, 'b d'], Float[Array, 'b n d'] | None]:
    """(vector, vectors of positions) of labels [total length, offset, window, artist, genres], the
    first three in samples, genres -1 where there is none."""
    start = nn.initializers.normal(0.01 * self.scale)

    def table(name: str, rows: int) -> Array:
      return self.param(f'{name}_embedding', start, (rows, self.width))

    genre = y[:, 4 : 4 + self.max_genres]
    named = jnp.take(table('genre', self.genres), jnp.maximum(genre, 0), axis=0, mode='clip')
    named = jnp.where((genre >= 0)[:, :, None], named, 0.0).sum(axis=1)
    named = named + jnp.take(table('artist', self.artists), y[:, 3], axis=0, mode='clip')
    if not self.positions:
      return named, None
    total, begin = (y[:, i].astype(jnp.float32) for i in (0, 1))
    end = begin + y[:, 2].astype(jnp.float32)
    n, bins = self.positions, self.t_bins
    whole = jnp.maximum(total, 1.0)
    times = {
      'total_length': range_bins(total, None, 1, bins, self.limits),
      'absolute_pos': range_bins(begin, end, n, bins, (0.0, self.limits[1])),
      'relative_pos': range_bins(begin / whole, end / whole, n, bins, (0.0, 1.0), clamp=True),
    }
    parts = [table(name, bins)[found] for name, found in times.items()]
    return named, parts[0] + parts[1] + parts[2]


def check_labels(y: Any, limits: tuple[float, float]) -> None:
  """Raises InputError where labels, a NumPy array, are of a song that is too short or too long, or
  of a window beyond it."""
  shortest, longest = int(y[:, 0].min()), int(y[:, 0].max())
  if shortest < limits[0] or longest >= limits[1]:
    raise InputError(
      f'Songs of {shortest} to {longest} samples were given; this prior knows lengths from '
      f'{limits[0]:.0f} to below {limits[1]:.0f} samples: change total_length.'
    )
  if (y[:, 1] < 0).any() or (y[:, 1] >= y[:, 0]).any():
    raise InputError('A window begins beyond its song: give offsets from 0 to below total_length.')


# -- Codes of the level above ------------------------------------------------------------------


class Conditioner(nn.Module):
  """Codes of the level above [b, u] to one vector a position [b, n, d]: embedding, dilated and
  transposed convolutions, norm.

  Attributes:
    bins: of the level above.
    down, stride: transposed convolutions, n = u stride^down.
    features: d.
    width, depth, dilation_growth_rate, dilation_cycle: of the residual stacks.
    res_scale: branches are divided by sqrt(depth).
  """

  bins: int
  down: int
  stride: int
  features: int
  width: int
  depth: int
  dilation_growth_rate: int = 3
  dilation_cycle: int | None = 8
  res_scale: bool = False
  scale: float = 1.0
  dtype: Dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, codes: Int[Array, 'b u'], real: Any = None) -> Float[Array, 'b n d']:
    """`real` [b, u]: which codes are; behind them anything."""
    start = nn.initializers.normal(0.02 * self.scale)
    table = self.param('embedding', start, (self.bins, self.features))
    x = table[codes].astype(self.dtype)
    x = Conv(self.width, 3, padding=1, dtype=self.dtype, name='in')(x, real)
    dilations = stack_dilations(self.depth, self.dilation_growth_rate, self.dilation_cycle)
    branch = inverse_root(self.depth) if self.res_scale else 1.0
    for j in range(self.down):
      stack = ResidualStack(
        dilations, self.width, branch, dtype=self.dtype, remat=self.remat, name=f'stack_{j}'
      )
      features = self.features if j == self.down - 1 else self.width
      x = ConvTranspose(features, self.stride, self.dtype, name=f'up_{j}')(stack(x, real), real)
      real = None if real is None else jnp.repeat(real, self.stride, axis=1)
    return layers.LayerNorm(EPSILON, jnp.float32, name='norm')(x)

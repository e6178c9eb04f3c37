"""Positions: fixed tables (NumPy constants), learned ones, rotary ones.

Letters: b batch, t tokens, h heads, k size of a head.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.errors import InputError

# -- Tables of grids ---------------------------------------------------------------------------


def sincos_2d(grid: tuple[int, int], width: int, prefix: int = 1) -> Float[np.ndarray, 'n d']:
  """2-D sine-cosine positions of a token grid, the first `prefix` rows (cls) all zeros.

  Row n stands for r = n // columns, c = n mod columns and holds
  [sin(c w), cos(c w), sin(r w), cos(r w)] with w_i = 10000^(-i / (width / 4)): the first half
  encodes the column. Computed in float64, returned as float32. As in MAE (arXiv 2111.06377).

  Args:
    grid: (rows, columns) of the table's geometry.
    width: of the table, a multiple of 4.
    prefix: number of zero rows before the grid.
  """
  rows, columns = grid
  omega = 10000.0 ** (-np.arange(width // 4, dtype=np.float64) / (width / 4))
  r, c = np.divmod(np.arange(rows * columns, dtype=np.float64), columns)
  angles = [np.outer(c, omega), np.outer(r, omega)]
  table = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)
  return np.concatenate([np.zeros((prefix, width)), table]).astype(np.float32)


def spectrogram_positions(
  grid: tuple[int, int], width: int, kind: str, overlap: bool
) -> Float[np.ndarray, 'n d']:
  """The position table of time-major spectrogram patches, one cls row first.

  Args:
    grid: (time rows, frequency columns) of the tokens; token n = columns * row + column.
    width: of the table.
    kind: 'time_frequency' gives every token its own row and column. 'published' repeats what the
      AudioMAE weights were trained with: for non-overlapping patches the upstream class reports its
      grid as (columns, rows), e.g. (8, 64) for 64 x 8 tokens, which scrambles the geometry
      (AudioMAE util/patch_embed.py); for overlapping patches the grid is right.
    overlap: whether the patches overlap.
  """
  swap = kind == 'published' and not overlap
  return sincos_2d(grid[::-1] if swap else grid, width)


def resize_table(
  table: Float[np.ndarray, 'n d'], old: tuple[int, int], new: tuple[int, int], prefix: int = 1
) -> Float[np.ndarray, 'm d']:
  """A learned table of positions for another grid of patches.

  Along each axis a shorter grid is cut from the middle, a longer one is interpolated linearly
  between the centres of patches, as AST does with tables of images and of other lengths
  (YuanGongND/ast, src/models/ast_models.py).

  Args:
    table: the rows of class tokens, then those of the patches, row by row of the grid.
    old, new: (rows, columns) of both grids.
    prefix: rows of class tokens, which stay.

  Raises:
    InputError: the table has another number of rows than the old grid.
  """
  if len(table) != prefix + old[0] * old[1]:
    raise InputError(
      f'A table of {len(table)} positions is not one of {prefix} class tokens and a grid of '
      f'{old[0]} x {old[1]} patches.'
    )
  grid = table[prefix:].reshape(*old, table.shape[1])
  for axis, size in enumerate(new):
    grid = _resized(grid, axis, size)
  return np.concatenate([table[:prefix], grid.reshape(-1, table.shape[1])])


def _resized(grid: Float[np.ndarray, '_ _ d'], axis: int, size: int) -> Float[np.ndarray, '_ _ d']:
  have = grid.shape[axis]
  if size <= have:
    first = have // 2 - size // 2
    return np.take(grid, range(first, first + size), axis)
  at = np.maximum((np.arange(size, dtype=np.float64) + 0.5) * have / size - 0.5, 0.0)
  low = at.astype(np.int64)
  part = np.expand_dims((at - low).astype(np.float32), [a for a in range(3) if a != axis])
  below, above = np.take(grid, low, axis), np.take(grid, np.minimum(low + 1, have - 1), axis)
  return below + (above - below) * part


# -- Positions of tokens -----------------------------------------------------------------------


def sinusoids(length: int, width: int, max_timescale: float = 10000.0) -> Float[np.ndarray, 'n d']:
  """Whisper's table (openai/whisper, model.py): sines of all timescales, then their cosines.

  Timescales go from 1 to `max_timescale`. As upstream angles are rounded to float32, which moves
  far entries by 1e-4. PyTorch's exp rounds 2 to 7 of the timescales of Whisper's sizes the other
  way, which moves theirs by up to 3e-5; published weights bring the table.

  Raises:
    InputError: a width that is odd or below 4.
  """
  if width % 2 or width < 4:
    raise InputError(f'width={width}: a table of sines and cosines needs an even width from 4.')
  step = np.float32(np.log(max_timescale) / (width // 2 - 1))
  rates = np.exp((-step * np.arange(width // 2, dtype=np.float32)).astype(np.float64))
  angles = np.arange(length, dtype=np.float32)[:, None] * rates.astype(np.float32)
  wide = angles.astype(np.float64)
  return np.concatenate([np.sin(wide), np.cos(wide)], axis=1).astype(np.float32)


class LearnedPositions(nn.Module):
  """A learned vector for every position; parameter `embedding` [skipped + length, d].

  Attributes:
    length: positions.
    width: of a vector.
    skipped: rows of the table before that of position 0 (OPT: 2).
  """

  length: int
  width: int
  skipped: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, positions: Int[Array, '*b t']) -> Float[Array, '*b t d']:
    """Vectors of positions; those beyond the table get its last one."""
    rows = self.skipped + self.length
    table = self.param('embedding', nn.initializers.normal(0.02), (rows, self.width))
    return jnp.take(table, positions + self.skipped, axis=0, mode='clip').astype(self.dtype)


# -- Rotary ------------------------------------------------------------------------------------


class Rotary(NamedTuple):
  """Rotary positions (arXiv 2104.09864): pairs of a head's dimensions turn with the position.

  Attributes:
    base: pair i of n turns by base^(-i / n) a position.
    dims: of a head that turn, the first ones; None for all.
    interleaved: pairs are neighbours (GPT-J, RoFormer), not one of each half (Llama, Qwen).
  """

  base: float = 10000.0
  dims: int | None = None
  interleaved: bool = False


def rotary_frequencies(rotary: Rotary, size: int) -> Float[np.ndarray, ' pairs']:
  """Angles a position of the pairs of a head of `size`.

  float32, rounded as transformers' are but for a last bit here and there.

  Raises:
    InputError: an odd number of dimensions, or more than a head has.
  """
  dims = size if rotary.dims is None else rotary.dims
  if dims % 2 or not 0 < dims <= size:
    raise InputError(
      f'Rotary positions of {dims} dimensions of a head of {size}: give an even number up to it.'
    )
  exponents = (np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)).astype(np.float64)
  return np.float32(1.0) / np.power(float(rotary.base), exponents).astype(np.float32)


def rotate(
  x: Float[Array, 'b t h k'],
  positions: Int[Array, '#b t'] | Float[Array, '#b t'],
  frequencies: Float[np.ndarray, ' pairs'] | Float[Array, ' pairs'] | Float[Array, 'b pairs'],
  interleaved: bool = False,
) -> Float[Array, 'b t h k']:
  """Turns the first dimensions of queries or keys, two for each frequency, by their positions.

  Angles, sines and cosines are float32, products of x's dtype.

  Args:
    x: queries or keys.
    positions: of the tokens, whole or not (times).
    frequencies: angles a position, see `rotary_frequencies`; the same for all rows, or a row's own.
    interleaved: see `Rotary`.
  """
  rates = jnp.asarray(frequencies)
  angles = positions.astype(jnp.float32)[:, :, None] * (
    rates if rates.ndim == 1 else rates[:, None]
  )
  cos, sin = (f(angles)[:, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
  n = angles.shape[-1]
  turned, rest = x[..., : 2 * n], x[..., 2 * n :]
  if interleaved:
    a, b = turned[..., ::2], turned[..., 1::2]
  else:
    a, b = turned[..., :n], turned[..., n:]
  a, b = a * cos - b * sin, b * cos + a * sin
  if interleaved:
    turned = jnp.stack([a, b], axis=-1).reshape(turned.shape)
  else:
    turned = jnp.concatenate([a, b], axis=-1)
  return turned if rest.shape[-1] == 0 else jnp.concatenate([turned, rest], axis=-1)


# -- Beyond the trained length -----------------------------------------------------------------


def ntk_factor(tokens: Int[Array, ' b'], trained: int) -> Float[Array, ' b']:
  """By how much dynamic NTK stretches rows of N tokens: 2^(1 + ceil(log2(N / trained))) - 1, and 1
  up to the trained length (Qwen-Audio, modeling_qwen.py, `get_ntk_alpha`)."""
  steps = trained * 2 ** np.arange(1, 16)
  doublings = (tokens[:, None] > steps).sum(axis=1).astype(jnp.float32)
  return jnp.where(tokens > trained, jnp.exp2(2.0 + doublings) - 1.0, 1.0)


def ntk_frequencies(
  rotary: Rotary, size: int, factor: Float[Array, ' b']
) -> Float[Array, 'b pairs']:
  """`rotary_frequencies` of rows with the base times factor^(k / (k - 2)), k turning dimensions."""
  own = jnp.asarray(rotary_frequencies(rotary, size))
  dims = 2 * len(own)
  exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
  base = rotary.base * factor ** np.float32(dims / (dims - 2))
  stretched = 1.0 / base[:, None] ** exponents
  return jnp.where(factor[:, None] == 1.0, own, stretched)


def logn_scale(positions: Int[Array, '#b t'], trained: int) -> Float[Array, '#b t']:
  """log N to the base of the trained length, for the query of the N-th token; 1 up to that length
  (Qwen-Audio, modeling_qwen.py, `logn_tensor`)."""
  counted = (positions + 1).astype(jnp.float32)
  return jnp.maximum(jnp.log(counted) / np.float32(np.log(trained)), 1.0)

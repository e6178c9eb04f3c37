"""Fixed position tables (NumPy constants)."""

import numpy as np
from jaxtyping import Float


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

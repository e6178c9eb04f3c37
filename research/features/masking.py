"""Token masks: random patches, or whole rows and columns, with exact counts.

All functions are pure functions of explicit noise: the mask is the same on every device, and
published draws give the published mask. Tokens are numbered row by row: token = time * columns +
column. Numbers from facebookresearch/AudioMAE (models_mae.py random_masking and random_masking_2d,
models_vit.py random_masking_2d).

Dimensions: b batch, n tokens; `rows` time steps and `columns` frequency steps of the patch grid;
`keep` kept tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from research.errors import InputError
from research.features.spectral import Array


class TokenMask(NamedTuple):
  """Kept and removed tokens.

  Attributes:
    ids_keep: [b, keep] tokens the encoder sees, in order.
    ids_restore: [b, n] position of each token in (kept tokens, then removed tokens): x_full =
      gather(concat, ids_restore).
    mask: [b, n] True = removed, to be reconstructed.
  """

  ids_keep: Int[jax.Array, 'b keep']
  ids_restore: Int[jax.Array, 'b n']
  mask: Bool[jax.Array, 'b n']


def keep_count(tokens: int, ratio: float) -> int:
  """int(tokens * (1 - ratio)), the published rounding: 102 of 512 at 0.8, 19 of 64 at 0.7."""
  if not 0.0 <= ratio < 1.0:
    raise InputError(f'The mask ratio is {ratio}: expected at least 0 and below 1.')
  return int(tokens * (1 - ratio))


def random_patch_mask(
  noise: Float[Array, 'b n'], keep: int, valid: Bool[Array, 'b n'] | None = None
) -> TokenMask:
  """Keeps the `keep` tokens with the smallest noise, in the order of the noise.

  Args:
    noise: one number per token, e.g. U[0, 1).
    keep: number of tokens to keep, the same in every row.
    valid: True for tokens with real audio. Padding tokens come last: they are kept only if a clip
      has fewer than `keep` real tokens. They are not in `mask`, so they get no loss.

  Raises:
    InputError: keep is not 1 to n.
  """
  n = noise.shape[-1]
  _check_keep(keep, n, 'tokens')
  ids_shuffle = _order(_padding_last(noise, valid))
  ids_restore = _order(ids_shuffle)
  mask = ids_restore >= keep
  return TokenMask(
    ids_shuffle[:, :keep], ids_restore, mask if valid is None else mask & jnp.asarray(valid)
  )


def proportional_patch_mask(
  noise: Float[Array, 'b n'], keep: int, valid: Bool[Array, 'b n']
) -> tuple[TokenMask, Bool[jax.Array, 'b keep']]:
  """`random_patch_mask`, but every clip keeps the same fraction of its real tokens.

  At least one token is kept of a clip that has any.

  Returns:
    the token mask, whose ids_keep has static width `keep`, and `kept` [b, keep]: True for used
    slots. The encoder must not attend to unused slots; the decoder replaces them by mask tokens.
  """
  n = noise.shape[-1]
  _check_keep(keep, n, 'tokens')
  valid = jnp.asarray(valid)
  ids_shuffle = _order(_padding_last(noise, valid))
  ids_restore = _order(ids_shuffle)
  real = jnp.sum(valid, axis=-1, keepdims=True, dtype=jnp.int32)
  count = jnp.minimum(jnp.maximum(real * keep // n, 1), real)
  kept = jnp.arange(keep, dtype=jnp.int32) < count
  return TokenMask(ids_shuffle[:, :keep], ids_restore, (ids_restore >= count) & valid), kept


def time_freq_mask(
  noise_t: Float[Array, 'b rows'],
  noise_f: Float[Array, 'b columns'],
  keep_t: int,
  keep_f: int,
  *,
  valid: Bool[Array, 'b rows'] | None = None,
  masked_offset: int | None = None,
) -> TokenMask:
  """Pre-training's 2-D mask: keeps tokens of kept rows in kept columns, in raster order.

  Args:
    noise_t: one number per time row; the `keep_t` rows with the smallest noise are kept.
    noise_f: one number per frequency column; the `keep_f` columns with the smallest noise are kept.
    keep_t: rows to keep.
    keep_f: columns to keep.
    valid: True for rows with real audio; the others come last and their tokens are not in `mask`.
    masked_offset: added to the index of removed tokens before sorting. None adds the number of
      tokens, which is correct for every grid. The published code adds 999. This is equivalent up to
      999 tokens, but on the overlapping 101 x 12 grid removed tokens below 213 sort among the kept
      ones: the encoder sees some of them, and misses as many kept tokens at the end. Give 999 to
      reproduce it; `mask` is the rows-and-columns mask in both cases, as published.

  Raises:
    InputError: keep_t or keep_f do not fit the grid.
  """
  rows, columns = noise_t.shape[-1], noise_f.shape[-1]
  _check_keep(keep_t, rows, 'time rows')
  _check_keep(keep_f, columns, 'frequency columns')
  removed_t = _order(_order(_padding_last(noise_t, valid))) >= keep_t
  removed_f = _order(_order(jnp.asarray(noise_f))) >= keep_f
  grid = (removed_t[:, :, None] | removed_f[:, None, :]).reshape(noise_t.shape[0], rows * columns)

  # Kept tokens first, both parts in raster order.
  offset = rows * columns if masked_offset is None else masked_offset
  token = jnp.arange(rows * columns, dtype=jnp.int32)
  ids_sorted = _order(token + jnp.where(grid, jnp.int32(offset), jnp.int32(0)))
  if valid is not None:
    grid = grid & jnp.repeat(jnp.asarray(valid), columns, axis=1)
  return TokenMask(ids_sorted[:, : keep_t * keep_f], _order(ids_sorted), grid)


def time_mask(
  noise_t: Float[Array, 'b rows'],
  keep_t: int,
  columns: int,
  *,
  valid: Bool[Array, 'b rows'] | None = None,
) -> TokenMask:
  """Keeps whole time rows (all `columns` of them), in raster order."""
  every = jnp.zeros((noise_t.shape[0], columns), jnp.float32)
  return time_freq_mask(noise_t, every, keep_t, columns, valid=valid)


def freq_mask(noise_f: Float[Array, 'b columns'], keep_f: int, rows: int) -> TokenMask:
  """Keeps whole frequency columns (all `rows` of them), in raster order."""
  every = jnp.zeros((noise_f.shape[0], rows), jnp.float32)
  return time_freq_mask(every, noise_f, rows, keep_f)


def time_freq_keep(
  noise_t: Float[Array, 'b rows'],
  noise_f: Float[Array, 'b columns'],
  keep_t: int,
  keep_f: int,
  *,
  valid: Bool[Array, 'b rows'] | None = None,
) -> Int[jax.Array, 'b keep']:
  """Fine-tuning's 2-D mask: ids of the kept tokens, kept rows and columns in shuffled order.

  Args: see `time_freq_mask`.
  """
  rows, columns = noise_t.shape[-1], noise_f.shape[-1]
  _check_keep(keep_t, rows, 'time rows')
  _check_keep(keep_f, columns, 'frequency columns')
  kept_t = _order(_padding_last(noise_t, valid))[:, :keep_t]
  kept_f = _order(jnp.asarray(noise_f))[:, :keep_f]
  return (kept_t[:, :, None] * columns + kept_f[:, None, :]).reshape(
    noise_t.shape[0], keep_t * keep_f
  )


def _order(values: Array) -> Int[jax.Array, 'b n']:
  """Stable ascending argsort of each row, int32."""
  return jnp.argsort(values, axis=-1, stable=True).astype(jnp.int32)


def _padding_last(noise: Array, valid: Array | None) -> jax.Array:
  """The noise, +inf for padding tokens."""
  noise = jnp.asarray(noise)
  return noise if valid is None else jnp.where(jnp.asarray(valid), noise, jnp.inf)


def _check_keep(keep: int, available: int, what: str) -> None:
  if not 0 < keep <= available:
    raise InputError(
      f'A mask that keeps {keep} of {available} {what} is impossible: expected 1 to {available}; '
      'change the mask ratio.'
    )

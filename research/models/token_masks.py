"""Which patches a masked autoencoder sees: one choice for four kinds of masking, with or without
padding."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError
from research.features import masking

MASKINGS = ('unstructured', 'time', 'frequency', 'time_frequency')
PUBLISHED_OFFSET = 999  # models_mae.py random_masking_2d


class Choice(NamedTuple):
  """Kept and removed patches.

  Attributes:
    ids_keep: [b, m] patches to encode, in order.
    ids_restore: [b, n] place of every patch in (kept, then removed).
    mask: [b, n] True for patches to reconstruct.
    used: [b, m] True for slots of ids_keep that hold a real kept patch; None when all do.
  """

  ids_keep: Int[Array, 'b m']
  ids_restore: Int[Array, 'b n']
  mask: Bool[Array, 'b n']
  used: Bool[Array, 'b m'] | None


class Counts(NamedTuple):
  """Kept patches, or kept time rows and frequency columns."""

  patches: int
  rows: int
  columns: int


def keep_counts(
  kind: str, grid: tuple[int, int], ratio: float, t_prob: float, f_prob: float
) -> Counts:
  """How much each kind of masking keeps of a (rows, columns) grid; refuses to keep nothing or
  all."""
  rows, columns = grid
  keep_t = keep_f = None
  if kind == 'time':
    keep_t, keep_f = masking.keep_count(rows, ratio), columns
  elif kind == 'frequency':
    keep_t, keep_f = rows, masking.keep_count(columns, ratio)
  elif kind == 'time_frequency':
    keep_t, keep_f = masking.keep_count(rows, t_prob), masking.keep_count(columns, f_prob)
  else:
    keep_t, keep_f = 0, 0
  kept = masking.keep_count(rows * columns, ratio) if kind == 'unstructured' else keep_t * keep_f
  if not 0 < kept < rows * columns:
    raise InputError(
      f'{kind} masking with mask_ratio={ratio}, mask_t_prob={t_prob}, mask_f_prob={f_prob} keeps '
      f'{kept} of {rows} x {columns} patches; at least one must be kept and one removed: change '
      'the ratio or frames.'
    )
  return Counts(kept, keep_t, keep_f)


def choose(
  kind: str,
  counts: Counts,
  grid: tuple[int, int],
  draws: Mapping[str, Any],
  uniform: Callable[[tuple[int, ...]], Array],
  batch_size: int,
  valid: Bool[Array, 'b n'] | None,
  published_order: bool,
) -> Choice:
  """Draws the masks of a batch.

  Args:
    kind: one of MASKINGS.
    counts: from `keep_counts`.
    grid: (rows, columns).
    draws: given noise: 'mask_noise' [b, n], 'mask_noise_t' [b, rows], 'mask_noise_f' [b, columns].
    uniform: shape -> U[0, 1) for the noise that is not given.
    batch_size: b.
    valid: True for patches with real audio, if padding is to be left out: every clip then keeps the
      same share of its own patches, and the remaining slots are unused.
    published_order: see `masking.time_freq_mask`.
  """
  rows, columns = grid

  def noise(name: str, n: int) -> Array:
    return draws[name] if name in draws else uniform((batch_size, n))

  if kind == 'unstructured':
    u = noise('mask_noise', rows * columns)
    if valid is None:
      return Choice(*masking.random_patch_mask(u, counts.patches), None)
    chosen, used = masking.proportional_patch_mask(u, counts.patches, valid)
    return Choice(*chosen, used)
  u_t = noise('mask_noise_t', rows) if counts.rows < rows else jnp.zeros((batch_size, rows))
  u_f = (
    noise('mask_noise_f', columns) if counts.columns < columns else jnp.zeros((batch_size, columns))
  )
  if valid is None:
    offset = PUBLISHED_OFFSET if published_order else None
    kept = masking.time_freq_mask(u_t, u_f, counts.rows, counts.columns, masked_offset=offset)
    return Choice(*kept, None)
  return _proportional_time_freq(u_t, u_f, counts, valid)


def _proportional_time_freq(
  u_t: Float[Array, 'b rows'],
  u_f: Float[Array, 'b columns'],
  counts: Counts,
  valid: Bool[Array, 'b n'],
) -> Choice:
  """`masking.time_freq_mask` where every clip keeps the same share of its own rows."""
  b, rows = u_t.shape
  columns = u_f.shape[1]
  real_rows = valid.reshape(b, rows, columns)[:, :, 0]
  count_t = jnp.maximum(real_rows.sum(-1, keepdims=True) * counts.rows // rows, 1)
  rank_t = jnp.argsort(jnp.argsort(jnp.where(real_rows, u_t, jnp.inf), axis=-1), axis=-1)
  rank_f = jnp.argsort(jnp.argsort(u_f, axis=-1), axis=-1)
  keep = (rank_t < count_t)[:, :, None] & (rank_f < counts.columns)[:, None, :]
  keep = keep.reshape(b, rows * columns) & valid
  # Kept patches first, then removed ones, then padding, each in raster order.
  order = jnp.argsort(jnp.where(keep, 0, jnp.where(valid, 1, 2)), axis=-1, stable=True)
  order = order.astype(jnp.int32)
  restore = jnp.argsort(order, axis=-1).astype(jnp.int32)
  used = jnp.arange(counts.patches) < keep.sum(-1, keepdims=True)
  return Choice(order[:, : counts.patches], restore, valid & ~keep, used)

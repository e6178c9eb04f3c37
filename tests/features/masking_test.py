"""Token masks: exact counts, published orders, padding."""

import jax
import numpy as np
import pytest

from research.errors import InputError
from research.features import masking


def uniform(*shape: int, seed: int = 0) -> np.ndarray:
  return np.random.RandomState(seed).rand(*shape).astype(np.float32)


def check_restores(chosen: masking.TokenMask) -> None:
  """ids_restore puts ids_keep and the removed tokens back in order."""
  keep, restore = np.asarray(chosen.ids_keep), np.asarray(chosen.ids_restore)
  n = restore.shape[1]
  order = np.argsort(restore, axis=1)
  np.testing.assert_array_equal(
    np.sort(restore, axis=1), np.broadcast_to(np.arange(n), restore.shape)
  )
  np.testing.assert_array_equal(order[:, : keep.shape[1]], keep)


@pytest.mark.parametrize(
  'tokens, ratio, want',
  [(512, 0.8, 102), (64, 0.7, 19), (8, 0.3, 5), (64, 0.2, 51), (8, 0.2, 6), (10, 0.0, 10)],
)
def test_published_counts(tokens, ratio, want):
  assert masking.keep_count(tokens, ratio) == want


@pytest.mark.parametrize('ratio', [-0.1, 1.0, 80])
def test_ratio_must_be_a_fraction(ratio):
  with pytest.raises(InputError, match='at least 0 and below 1'):
    masking.keep_count(512, ratio)


def test_random_patches_by_hand():
  noise = np.array([[0.5, 0.1, 0.9, 0.3], [0.2, 0.2, 0.1, 0.2]], np.float32)
  chosen = masking.random_patch_mask(noise, 2)
  # In the order of the noise; equal noise in the order of the tokens.
  np.testing.assert_array_equal(chosen.ids_keep, [[1, 3], [2, 0]])
  np.testing.assert_array_equal(chosen.ids_restore, [[2, 0, 3, 1], [1, 2, 0, 3]])
  np.testing.assert_array_equal(chosen.mask, [[1, 0, 1, 0], [0, 1, 0, 1]])


@pytest.mark.parametrize('keep', [1, 102, 512])
def test_random_patches_keep_exactly(keep):
  chosen = jax.jit(masking.random_patch_mask, static_argnums=1)(uniform(3, 512), keep)
  check_restores(chosen)
  np.testing.assert_array_equal(np.asarray(chosen.mask).sum(axis=1), 512 - keep)
  for row in range(3):
    assert not np.asarray(chosen.mask)[row, np.asarray(chosen.ids_keep)[row]].any()


def test_padding_is_kept_last_and_has_no_loss():
  noise = uniform(3, 20)
  valid = np.arange(20) < np.array([20, 12, 4])[:, None]
  noise[~valid] = np.nan
  chosen = masking.random_patch_mask(noise, 6, valid)
  check_restores(chosen)
  kept_real = np.take_along_axis(valid, np.asarray(chosen.ids_keep), axis=1)
  np.testing.assert_array_equal(kept_real.sum(axis=1), [6, 6, 4])
  assert kept_real[2].tolist() == [True] * 4 + [False] * 2
  np.testing.assert_array_equal(np.asarray(chosen.mask).sum(axis=1), [14, 6, 0])
  assert not np.asarray(chosen.mask)[~valid].any()
  # Padding does not change the other rows.
  alone = masking.random_patch_mask(noise[1:2, :12], 6)
  np.testing.assert_array_equal(chosen.ids_keep[1], alone.ids_keep[0])


def test_every_clip_keeps_the_same_fraction():
  noise = uniform(4, 40)
  lengths = np.array([40, 20, 3, 0])
  valid = np.arange(40) < lengths[:, None]
  chosen, kept = masking.proportional_patch_mask(noise, 8, valid)
  check_restores(chosen)
  np.testing.assert_array_equal(np.asarray(kept).sum(axis=1), [8, 4, 1, 0])
  np.testing.assert_array_equal(np.asarray(chosen.mask).sum(axis=1), lengths - [8, 4, 1, 0])
  for row in range(4):
    slots = np.asarray(chosen.ids_keep)[row][np.asarray(kept)[row]]
    assert valid[row, slots].all() and not np.asarray(chosen.mask)[row, slots].any()
  alone, alone_kept = masking.proportional_patch_mask(noise[1:2, :20], 4, valid[1:2, :20])
  np.testing.assert_array_equal(alone.ids_keep[0], np.asarray(chosen.ids_keep)[1, :4])
  assert np.asarray(alone_kept).all()


def published_2d(noise_t, noise_f, keep_t, keep_f, offset):
  """The published rule in NumPy: number the tokens, add `offset` to removed ones, sort."""
  rows, columns = len(noise_t), len(noise_f)
  kept_rows = np.argsort(noise_t, kind='stable')[:keep_t]
  kept_columns = np.argsort(noise_f, kind='stable')[:keep_f]
  removed = np.ones((rows, columns), bool)
  removed[np.ix_(kept_rows, kept_columns)] = False
  removed = removed.ravel()
  order = np.argsort(np.arange(rows * columns) + offset * removed, kind='stable')
  return order[: keep_t * keep_f], np.argsort(order, kind='stable'), removed


@pytest.mark.slow
@pytest.mark.parametrize(
  'rows, columns, keep_t, keep_f', [(64, 8, 19, 5), (101, 12, 30, 8), (6, 5, 6, 5), (7, 3, 1, 1)]
)
@pytest.mark.parametrize('masked_offset', [None, 999])
def test_time_and_frequency(rows, columns, keep_t, keep_f, masked_offset):
  noise_t, noise_f = uniform(3, rows), uniform(3, columns, seed=1)
  chosen = masking.time_freq_mask(noise_t, noise_f, keep_t, keep_f, masked_offset=masked_offset)
  check_restores(chosen)
  for row in range(3):
    offset = rows * columns if masked_offset is None else masked_offset
    want = published_2d(noise_t[row], noise_f[row], keep_t, keep_f, offset)
    for got, expected in zip(chosen, want):
      np.testing.assert_array_equal(np.asarray(got)[row], expected)
  mask = np.asarray(chosen.mask)
  np.testing.assert_array_equal(mask.sum(axis=1), rows * columns - keep_t * keep_f)
  kept = np.take_along_axis(mask, np.asarray(chosen.ids_keep), axis=1)
  if masked_offset is None or rows * columns <= 999:
    # Raster order, without removed tokens among the kept.
    assert not kept.any() and (np.diff(np.asarray(chosen.ids_keep)) > 0).all()
  else:
    # As published: on a large grid the encoder sees tokens that the loss counts as removed.
    assert kept.any()


def test_time_and_frequency_alone():
  whole_rows = masking.time_mask(uniform(2, 16), 4, 8)
  grid = np.asarray(whole_rows.mask).reshape(2, 16, 8)
  assert (grid.all(axis=2) | ~grid.any(axis=2)).all()
  np.testing.assert_array_equal((~grid[:, :, 0]).sum(axis=1), 4)
  whole_columns = masking.freq_mask(uniform(2, 8), 3, 16)
  grid = np.asarray(whole_columns.mask).reshape(2, 16, 8)
  assert (grid.all(axis=1) | ~grid.any(axis=1)).all()
  np.testing.assert_array_equal((~grid[:, 0]).sum(axis=1), 3)
  for chosen, keep in ((whole_rows, 4 * 8), (whole_columns, 3 * 16)):
    check_restores(chosen)
    assert chosen.ids_keep.shape == (2, keep)


def test_rows_of_padding_come_last():
  noise_t, noise_f = uniform(2, 10), uniform(2, 4, seed=1)
  valid = np.arange(10) < np.array([10, 5])[:, None]
  chosen = masking.time_freq_mask(noise_t, noise_f, 3, 2, valid=valid)
  rows = np.asarray(chosen.ids_keep) // 4
  assert np.take_along_axis(valid, rows, axis=1).all()
  np.testing.assert_array_equal(np.asarray(chosen.mask).sum(axis=1), [40 - 6, 20 - 6])
  kept = masking.time_freq_keep(noise_t, noise_f, 3, 2, valid=valid)
  assert np.take_along_axis(valid, np.asarray(kept) // 4, axis=1).all()


def test_fine_tuning_keeps_shuffled_rows_then_columns():
  noise_t = np.array([[0.9, 0.1, 0.5]], np.float32)
  noise_f = np.array([[0.2, 0.8, 0.1, 0.7]], np.float32)
  got = masking.time_freq_keep(noise_t, noise_f, 2, 3)
  np.testing.assert_array_equal(got, [[6, 4, 7, 10, 8, 11]])


@pytest.mark.parametrize('keep', [0, 9, -1])
def test_impossible_counts_are_refused(keep):
  with pytest.raises(InputError, match=f'keeps {keep} of 8 tokens is impossible: expected 1 to 8'):
    masking.random_patch_mask(uniform(1, 8), keep)
  with pytest.raises(InputError, match='of 8 time rows'):
    masking.time_freq_mask(uniform(1, 8), uniform(1, 2), keep, 1)
  with pytest.raises(InputError, match='of 8 frequency columns'):
    masking.time_freq_keep(uniform(1, 2), uniform(1, 8), 1, keep)

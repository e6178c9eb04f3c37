"""Crop, pad, repeat."""

import jax
import numpy as np
import pytest

from research.errors import InputError
from research.features import clips


def padded(lengths: list[int], samples: int) -> tuple[np.ndarray, np.ndarray]:
  audio = np.full((len(lengths), samples), np.nan, np.float32)
  for row, n in enumerate(lengths):
    audio[row, :n] = np.arange(1, n + 1)
  return audio, ~np.isnan(audio)


@pytest.mark.parametrize('align, before', [('start', 0), ('centre', 2)])
def test_crop_or_pad(align, before):
  audio, mask = padded([12, 7, 2], 12)
  run = jax.jit(clips.crop_or_pad, static_argnames=('samples', 'align'))
  got, real = run(audio, mask, np.array([4, 0, 3], np.int32), samples=7, align=align)
  np.testing.assert_array_equal(got[0], np.arange(5, 12))
  np.testing.assert_array_equal(got[1], np.arange(1, 8))
  # Five zeros to add: two before and three behind when centred; the start is for long clips only.
  want = np.zeros(7)
  want[before : before + 2] = [1, 2]
  np.testing.assert_array_equal(got[2], want)
  np.testing.assert_array_equal(real[2], want > 0)
  assert np.asarray(real[:2]).all()


def test_crop_or_pad_to_more_than_the_batch_has():
  got, real = clips.crop_or_pad(*padded([4], 4), np.zeros(1, np.int32), samples=9)
  np.testing.assert_array_equal(got[0], [1, 2, 3, 4, 0, 0, 0, 0, 0])
  assert real.sum() == 4


def test_repeat_pad():
  got = jax.jit(clips.repeat_pad, static_argnames='samples')(*padded([3, 8, 5], 10), samples=8)
  np.testing.assert_array_equal(got[0], [1, 2, 3, 1, 2, 3, 0, 0])
  np.testing.assert_array_equal(got[1], np.arange(1, 9))
  np.testing.assert_array_equal(got[2], [1, 2, 3, 4, 5, 0, 0, 0])
  np.testing.assert_array_equal(clips.repeat_pad(*padded([10], 10), samples=8)[0], np.arange(1, 9))


def test_repeat_and_cut():
  got = clips.repeat_pad(*padded([3, 8, 0], 10), samples=8, cut_last=True)
  np.testing.assert_array_equal(got[0], [1, 2, 3, 1, 2, 3, 1, 2])
  np.testing.assert_array_equal(got[1], np.arange(1, 9))
  np.testing.assert_array_equal(got[2], np.zeros(8))


def test_int16_round_trip_is_exact():
  x = np.random.RandomState(0).uniform(-1.2, 1.2, 5000).astype(np.float32)
  stored = (np.clip(x, -1, 1) * np.float32(32767)).astype(np.int16)
  want = (stored / 32767.0).astype(np.float32)
  np.testing.assert_array_equal(clips.int16_round_trip(x), want)
  np.testing.assert_array_equal(jax.jit(clips.int16_round_trip)(x), want)


def test_unknown_alignment_is_refused():
  with pytest.raises(InputError, match="Unknown alignment 'middle'"):
    clips.crop_or_pad(*padded([4], 4), np.zeros(1, np.int32), samples=9, align='middle')

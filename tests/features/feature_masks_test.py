"""SpecAug on features and the lengths of s3prl: draws stay in their ranges, lengths are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.features import feature_masks, lengths


def test_draws():
  mask = jnp.arange(90) < jnp.array([90, 41, 9])[:, None]
  draw = jax.jit(lambda key: feature_masks.draw_feature_masks(key, mask, 64))
  drawn = [draw(jax.random.key(i)) for i in range(50)]
  center, to, starts, widths, times, spans = (np.stack(x) for x in zip(*drawn))
  assert (center[:, 2] == -1).all() and (to[:, 2] == -1).all()  # too short for the window
  for row, length in ((0, 90), (1, 41)):
    assert center[:, row].min() >= 5 and center[:, row].max() < length - 5
    shift = to[:, row] - center[:, row] - 1
    assert shift.min() == -5 and shift.max() == 4
  assert (widths.min(), widths.max()) == (0, 49) and (spans.min(), spans.max()) == (0, 39)
  assert (starts + widths.max(axis=(1, 2), keepdims=True)).max() <= 64
  assert (times + spans.max(axis=(1, 2), keepdims=True)).max() <= 90
  assert widths.shape[1:] == (3, 4) and spans.shape[1:] == (3, 2)


@pytest.mark.slow
def test_no_masks():
  x = jax.random.normal(jax.random.key(0), (2, 30, 8))
  mask = jnp.arange(30) < jnp.array([30, 20])[:, None]
  off = dict(warp_window=0, time_width=0, feature_width=0)
  draws = feature_masks.draw_feature_masks(jax.random.key(1), mask, 8, **off)
  got = feature_masks.mask_features(jnp.where(mask[:, :, None], x, jnp.nan), mask, draws)
  np.testing.assert_array_equal(got, jnp.where(mask[:, :, None], x, 0.0))


def test_warp_keeps_lines():
  """A line stays nearly one where it is resized: this kernel is not exact for lines."""
  x = jnp.arange(40.0)[None, :, None]
  got = feature_masks.time_warp(x, jnp.array([40]), jnp.array([20]), jnp.array([16]))[0, :, 0]
  steps = np.diff(got)
  assert np.diff(got[3:13]).mean() == pytest.approx(20 / 16, rel=0.01)
  np.testing.assert_allclose(steps[3:13], 20 / 16, rtol=0.1)
  np.testing.assert_allclose(steps[19:36], 20 / 24, rtol=0.1)


def test_lengths():
  assert lengths.rounded_frames(16160, 320) == 50 and lengths.rounded_frames(16480, 320) == 52
  with pytest.raises(InputError, match='Check the rate'):
    lengths.batch_frames(np.array([16000]), 320, 99)
  x = np.arange(3.0, dtype=np.float32)[None, :, None]
  got = lengths.match_frames(x, 7, repeat=True)[0, :, 0]
  np.testing.assert_array_equal(got, [0, 0, 1, 1, 2, 2, 2])

"""Mixtures of clips at drawn levels."""

import jax
import numpy as np
import pytest

from research.errors import InputError
from research.features.augment import AUGMENTATIONS
from research.features.source_mixing import add_sources


def test_sums_of_clips_and_rejected_ones():
  audio = np.array([[0.1, 0.2], [0.3, -0.4], [0.8, 9.0]], np.float32)
  mask = np.array([[1, 1], [1, 1], [1, 0]], bool)
  gain = np.array([[2.0, 1.0, 1.0], [0.5, 1.0, 1.0], [9.0, 9.0, 9.0]], np.float32)
  mixed = add_sources(audio, mask, np.array([1, 2, 2]), gain)
  # 0.3 + 0.1 and -0.4 + 0.2; 0.8 + 0.3 leaves [-1, 1].
  want = [[0.2, 0.4], [0.4, -0.2], [0.8, 9.0]]
  np.testing.assert_allclose(mixed, want, atol=1e-6)


def test_draws():
  batch = {'audio': np.full((300, 2), 0.1, np.float32), 'audio_mask': np.ones((300, 2), bool)}
  mix = AUGMENTATIONS['mix_sources']
  plain = np.asarray(mix(jax.random.key(0), batch, two=0.0, three=0.0)['audio'])
  decibels = 20 * np.log10(plain[:, 0] / 0.1)
  assert -10 <= decibels.min() < -8 and 4 < decibels.max() <= 6
  even = mix(jax.random.key(0), batch, two=0.3, three=0.2, low=0.0, high=0.0)['audio']
  counts = np.bincount(np.round(np.asarray(even)[:, 0] / 0.1).astype(int), minlength=4)
  np.testing.assert_allclose(counts[1:] / 300, [0.5, 0.3, 0.2], atol=0.1)
  with pytest.raises(InputError, match=r'two=0\.9, three=0\.2'):
    mix(jax.random.key(0), batch, two=0.9, three=0.2)

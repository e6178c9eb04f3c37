"""Cepstra against librosa; deltas by hand and at the end of each clip."""

import jax
import librosa
import numpy as np
import pytest

from research.errors import InputError
from research.features.fbank import kaldi_fbank
from research.features.mfcc import cepstra, deltas, kaldi_mfcc, kaldi_mfcc_deltas


def clip(samples: int, seed: int = 0) -> np.ndarray:
  return (0.1 * np.random.RandomState(seed).randn(samples)).astype(np.float32)


def whole(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  return x[None], np.ones((1, len(x)), bool)


def test_cepstra_equal_librosa():
  db = np.random.RandomState(0).randn(2, 9, 40).astype(np.float32) * 20
  got = cepstra(db, 13)
  for row in range(2):
    want = librosa.feature.mfcc(S=db[row].T, n_mfcc=13).T
    np.testing.assert_allclose(got[row], want, atol=1e-4)


def test_mfcc_is_the_liftered_transform_of_the_filter_bank():
  log_mel, _ = kaldi_fbank(*whole(clip(4000)), num_mel_bins=23, window='povey')
  got, _ = kaldi_mfcc(*whole(clip(4000)))
  plain, _ = kaldi_mfcc(*whole(clip(4000)), cepstral_lifter=0.0)
  lifter = 1 + 11 * np.sin(np.pi * np.arange(13) / 22)
  want = librosa.feature.mfcc(S=np.asarray(log_mel[0]).T, n_mfcc=13).T
  np.testing.assert_allclose(plain[0], want, atol=1e-4)
  np.testing.assert_allclose(got[0], want * lifter, atol=1e-3)


@pytest.mark.slow
def test_energy_and_the_old_order():
  plain, _ = kaldi_mfcc(*whole(clip(2000)))
  energy, _ = kaldi_mfcc(*whole(clip(2000)), use_energy=True, energy_floor=0.0)
  fbank, _ = kaldi_fbank(*whole(clip(2000)), use_energy=True, energy_floor=0.0, window='povey')
  np.testing.assert_array_equal(energy[..., 0], fbank[..., 0])
  np.testing.assert_array_equal(energy[..., 1:], plain[..., 1:])
  htk, _ = kaldi_mfcc(*whole(clip(2000)), htk_compat=True)
  np.testing.assert_array_equal(htk[..., :-1], plain[..., 1:])
  np.testing.assert_allclose(htk[..., -1], plain[..., 0] * np.sqrt(2), rtol=1e-6)


def test_deltas_of_a_line_are_its_slope():
  line = np.arange(9, dtype=np.float32)[None, :, None] * 3.0
  got = np.asarray(deltas(line, np.ones((1, 9), bool)))[0, :, 0]
  np.testing.assert_allclose(got[2:-2], 3.0, atol=1e-5)
  # At the edge the first value is repeated: (1 (3 - 0) + 2 (6 - 0)) / 10.
  np.testing.assert_allclose([got[0], got[-1]], 1.5, atol=1e-5)


@pytest.mark.parametrize('win_length', [3, 5, 9])
def test_deltas_stop_at_each_clips_own_end(win_length):
  rng = np.random.RandomState(0)
  lengths = [20, 13, 1]
  values = rng.randn(3, 20, 4).astype(np.float32)
  mask = np.arange(20) < np.array(lengths)[:, None]
  got = np.asarray(deltas(np.where(mask[..., None], values, np.nan), mask, win_length=win_length))
  half = win_length // 2
  for row, n in enumerate(lengths):
    padded = np.pad(values[row, :n], ((half, half), (0, 0)), mode='edge')
    weights = np.arange(-half, half + 1) / (2 * sum(i * i for i in range(1, half + 1)))
    want = sum(w * padded[i : i + n] for i, w in enumerate(weights))
    np.testing.assert_allclose(got[row, :n], want, atol=1e-5)
    assert not got[row, n:].any()


def test_39_dimensions_alone_and_padded():
  alone, mask = jax.jit(kaldi_mfcc_deltas)(*whole(clip(3210)))
  assert alone.shape == (1, 18, 39) and np.asarray(mask).all()
  audio = np.full((2, 5000), np.nan, np.float32)
  audio[0, :3210], audio[1] = clip(3210), clip(5000, seed=1)
  batch, mask = jax.jit(kaldi_mfcc_deltas)(audio, ~np.isnan(audio))
  np.testing.assert_allclose(batch[0, :18], alone[0], atol=1e-3)
  assert not np.asarray(batch[0, 18:]).any() and mask[0].sum() == 18


def test_impossible_settings_are_refused():
  with pytest.raises(InputError, match='expected 1 to the number of mel bins, 23'):
    kaldi_mfcc(*whole(clip(1000)), num_ceps=24)
  with pytest.raises(InputError, match='expected an odd number, at least 3'):
    kaldi_mfcc_deltas(*whole(clip(1000)), delta_win_length=4)

"""Kaldi's filter bank: published values, an independent float64 computation, options."""

import jax
import numpy as np
import pytest

from research.errors import InputError
from research.features import filters
from research.features.fbank import EPSILON, kaldi_fbank

RUN = jax.jit(kaldi_fbank, static_argnames=('window', 'scale', 'sample_rate', 'num_mel_bins'))


def sine(samples: int, rate: int = 16000) -> np.ndarray:
  t = np.arange(samples) / rate
  wave = 0.5 * np.sin(2 * np.pi * 440 * t) + 0.25 * np.sin(2 * np.pi * 1234.5 * t + 0.3)
  return wave.astype(np.float32)


def noise(samples: int) -> np.ndarray:
  return (0.1 * np.random.RandomState(0).randn(samples)).astype(np.float32)


def whole(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  return clip[None], np.ones((1, len(clip)), bool)


def test_published_values_of_a_sine_and_of_noise():
  got = np.asarray(RUN(*whole(sine(160000)))[0][0])
  assert got.shape == (998, 128)
  np.testing.assert_allclose([got.mean(), got.std()], [-11.548309, 5.846053], atol=5e-5)
  first = [-12.959620, -15.347479, -11.904078, -15.942385, -11.387999]
  np.testing.assert_allclose(got[0, :5], first, atol=2e-3)
  middle = [-11.199598, -9.631285, -8.892805, -8.983948, -9.632092]
  np.testing.assert_allclose(got[500, 40:45], middle, atol=2e-3)
  assert np.unravel_index(got.argmax(), got.shape)[1] == 50
  np.testing.assert_allclose(got.max(), 4.891518, atol=1e-4)

  got = np.asarray(RUN(*whole(noise(160000)))[0][0])
  np.testing.assert_allclose([got.mean(), got.std()], [-0.915487, 3.500489], atol=5e-5)
  np.testing.assert_allclose(got[0, :4], [-6.511430, -9.516561, -6.073161, -15.942385], atol=2e-3)


def test_published_values_of_the_beats_variant():
  got = np.asarray(RUN(*whole(sine(160000)), window='povey', scale=2.0**15)[0])
  # At this scale the bins next to a pure tone are rounding noise, which differs between FFTs.
  np.testing.assert_allclose([got.mean(), got.std()], [7.687844, 8.017591], atol=1e-3)


@pytest.mark.parametrize('rate', [8000, 22050, 44100, 48000])
def test_other_sample_rates_equal_float64_arithmetic(rate):
  clip = (sine(rate // 2, rate) + noise(rate // 2)).astype(np.float32)
  got, mask = RUN(*whole(clip), sample_rate=rate, num_mel_bins=40)
  size, shift = int(rate * 0.025), int(rate * 0.01)
  frames = np.lib.stride_tricks.sliding_window_view(clip.astype(np.float64), size)[::shift]
  frames = frames - frames.mean(axis=1, keepdims=True)
  frames[:, 1:] = frames[:, 1:] - 0.97 * frames[:, :-1]
  frames *= 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
  n_fft = 2 ** int(np.ceil(np.log2(size)))
  matrix = filters.mel_filterbank(
    sample_rate=rate, n_fft=n_fft, num_mel_bins=40, f_min=20.0, scale='kaldi'
  )
  energy = np.abs(np.fft.rfft(frames, n_fft)) ** 2 @ matrix.astype(np.float64)
  assert np.asarray(mask).all()
  np.testing.assert_allclose(got[0], np.log(np.maximum(energy, EPSILON)), atol=1e-3)


def test_digital_silence_is_the_floor():
  got, _ = RUN(*whole(np.zeros(1000, np.float32)))
  np.testing.assert_allclose(got, np.log(EPSILON), atol=1e-6)


def test_a_constant_offset_changes_nothing():
  clip = noise(4000)
  got, want = RUN(*whole(clip + np.float32(0.25)))[0], RUN(*whole(clip))[0]
  np.testing.assert_allclose(got, want, atol=5e-2)
  assert np.abs(np.asarray(got) - np.asarray(want)).mean() < 1e-3


def test_energy_column():
  clip = noise(1000)
  plain, _ = kaldi_fbank(*whole(clip))
  first, _ = kaldi_fbank(*whole(clip), use_energy=True, energy_floor=0.0)
  last, _ = kaldi_fbank(*whole(clip), use_energy=True, energy_floor=0.0, htk_compat=True)
  frames = np.lib.stride_tricks.sliding_window_view(clip.astype(np.float64), 400)[::160]
  want = np.log(((frames - frames.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))
  np.testing.assert_allclose(first[0, :, 0], want, atol=1e-4)
  np.testing.assert_array_equal(first[..., 1:], plain)
  np.testing.assert_array_equal(last[..., :-1], plain)
  np.testing.assert_array_equal(last[..., -1], first[..., 0])
  floored, _ = kaldi_fbank(*whole(clip), use_energy=True, energy_floor=1e9)
  np.testing.assert_allclose(floored[..., 0], np.log(1e9), rtol=1e-6)


@pytest.mark.slow
def test_without_snipping_the_ends_are_mirrored():
  clip = noise(1000)
  got, mask = kaldi_fbank(*whole(clip), snip_edges=False)
  longer = np.concatenate([clip[:120][::-1], clip, clip[::-1]])
  want, _ = kaldi_fbank(*whole(longer))
  assert got.shape[1] == mask.sum() == (1000 + 80) // 160
  np.testing.assert_allclose(got, want[:, : got.shape[1]], atol=1e-4)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'high_freq': 9000.0}, 'do not fit audio of 16000 Hz'),
    ({'frame_shift_ms': 0.01}, 'are 400 and 0 samples'),
    ({'window': 'hann_'}, 'Unknown window'),
  ],
)
def test_impossible_settings_are_refused(change, message):
  with pytest.raises(InputError, match=message):
    kaldi_fbank(*whole(noise(1000)), **change)


def test_too_short_says_how_long_in_seconds():
  with pytest.raises(InputError, match=r'399 samples \(0.02494 s at 16000 Hz\).*400 samples'):
    kaldi_fbank(*whole(noise(399)))

"""Windows, mel filters and the cosine transform against librosa and SciPy."""

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.signal

from research.errors import InputError
from research.features import filters


@pytest.mark.parametrize('name', ['hann', 'hamming', 'blackman'])
@pytest.mark.parametrize('size', [400, 401])
def test_windows_equal_scipy(name, size):
  for periodic in (True, False):
    want = scipy.signal.get_window(name, size, fftbins=periodic)
    np.testing.assert_allclose(
      filters.window_values(name, size, periodic=periodic), want, atol=1e-7
    )


def test_povey_is_the_symmetric_hann_to_a_power():
  povey = filters.window_values('povey', 400, periodic=False)
  hann = scipy.signal.get_window('hann', 400, fftbins=False)
  np.testing.assert_allclose(povey, hann**0.85, atol=1e-7)
  np.testing.assert_array_equal(
    filters.window_values('hanning', 7), filters.window_values('hann', 7)
  )
  np.testing.assert_array_equal(filters.window_values('rectangular', 3), np.ones(3, np.float32))
  np.testing.assert_array_equal(filters.window_values('hann', 1), np.ones(1, np.float32))


@pytest.mark.parametrize(
  'rate, n_fft, bins, low, high',
  [
    (16000, 400, 80, 0.0, None),  # Whisper
    (16000, 400, 128, 0.0, None),  # Whisper large-v3
    (16000, 1024, 64, 60.0, 7800.0),  # BYOL-A
    (48000, 1024, 64, 50.0, 14000.0),  # CLAP
    (22050, 2048, 128, 0.0, None),
  ],
)
def test_slaney_filters_equal_librosa_bit_for_bit(rate, n_fft, bins, low, high):
  for norm, theirs in (('slaney', 'slaney'), ('none', None)):
    want = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=bins, fmin=low, fmax=high, norm=theirs)
    got = filters.mel_filterbank(
      sample_rate=rate, n_fft=n_fft, num_mel_bins=bins, f_min=low, f_max=high, norm=norm
    )
    np.testing.assert_array_equal(got, want.T)


def test_htk_filters_equal_librosa():
  settings = {'n_fft': 1024, 'fmin': 60.0, 'fmax': 7800.0}
  want = librosa.filters.mel(sr=16000, n_mels=64, htk=True, norm=None, **settings)
  got = filters.mel_filterbank(
    sample_rate=16000, n_fft=1024, num_mel_bins=64, f_min=60.0, f_max=7800.0, scale='htk'
  )
  np.testing.assert_allclose(got, want.T, atol=1e-6)
  assert got.max() > 0.95


def test_kaldi_filters_by_hand():
  rate, n_fft, bins = 16000, 512, 128
  matrix = filters.mel_filterbank(
    sample_rate=rate, n_fft=n_fft, num_mel_bins=bins, f_min=20.0, scale='kaldi'
  )
  low, high = 1127 * np.log1p(20 / 700), 1127 * np.log1p(8000 / 700)
  step = (high - low) / (bins + 1)
  for k, f in [(5, 6), (50, 58), (100, 82), (255, 127)]:
    mel = 1127 * np.log1p(k * 31.25 / 700)
    left = low + f * step
    want = max(0.0, min((mel - left) / step, (left + 2 * step - mel) / step))
    np.testing.assert_allclose(matrix[k, f], want, atol=1e-5)
  assert not matrix[256].any()
  # A narrow filter between two bins is all zeros, as in the published front-end.
  assert not matrix[:, 3].any() and matrix[:, 2].any() and matrix[:, 4].any()


@pytest.mark.parametrize('scale', filters.MEL_SCALES)
def test_mel_scales_are_invertible_and_equal_librosa(scale):
  hz = np.array([0.0, 20.0, 440.0, 999.0, 1000.0, 1234.5, 8000.0, 22050.0])
  mel = filters.hz_to_mel(hz, scale)
  np.testing.assert_allclose(filters.mel_to_hz(mel, scale), hz, atol=1e-8)
  if scale != 'kaldi':
    np.testing.assert_allclose(mel, librosa.hz_to_mel(hz, htk=scale == 'htk'), rtol=1e-12)


def test_dct_equals_scipy():
  values = np.random.RandomState(0).randn(5, 23)
  want = scipy.fft.dct(values, norm='ortho')[:, :13]
  np.testing.assert_allclose(values @ filters.dct_matrix(23, 13), want, atol=1e-6)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'scale': 'slany'}, "Did you mean 'slaney'"),
    ({'norm': 'area'}, 'Unknown mel norm'),
    ({'f_max': 9000.0}, 'from 0 to 9000 Hz do not fit audio of 16000 Hz'),
    ({'f_min': 500.0, 'f_max': 400.0}, 'lowest < highest'),
  ],
)
def test_impossible_filters_are_refused(change, message):
  settings = {'sample_rate': 16000, 'n_fft': 512, 'num_mel_bins': 40} | change
  with pytest.raises(InputError, match=message):
    filters.mel_filterbank(**settings)


def test_unknown_window_is_refused():
  with pytest.raises(InputError, match="Unknown window 'han'"):
    filters.window_values('han', 10)

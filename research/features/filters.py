"""Windows, mel filters and the cosine transform: float32 constants, computed in float64.

Dimensions: f mel bins.
"""

import numpy as np
from jaxtyping import Float

from research.errors import InputError, unknown

WINDOWS = ('hann', 'hanning', 'hamming', 'povey', 'blackman', 'rectangular')
MEL_SCALES = ('kaldi', 'htk', 'slaney')
MEL_NORMS = ('none', 'slaney')


def window_values(name: str, size: int, *, periodic: bool = True) -> Float[np.ndarray, 'size']:
  """A window of `size` samples.

  Args:
    name: 'hann' (or 'hanning'), 'hamming', 'povey' (symmetric Hann to the power 0.85), 'blackman'
      (a0 = 0.42) or 'rectangular'.
    size: length in samples.
    periodic: True for spectral analysis (torch.stft, librosa), False for Kaldi's symmetric windows.

  Raises:
    InputError: the window's name is unknown.
  """
  if name not in WINDOWS:
    raise unknown('window', name, WINDOWS)
  if size == 1:
    return np.ones(1, np.float32)
  phase = 2 * np.pi * np.arange(size) / (size if periodic else size - 1)
  hann = 0.5 - 0.5 * np.cos(phase)
  values = {
    'hann': hann,
    'hanning': hann,
    'hamming': 0.54 - 0.46 * np.cos(phase),
    'povey': np.maximum(hann, 0.0) ** 0.85,
    'blackman': 0.42 - 0.5 * np.cos(phase) + 0.08 * np.cos(2 * phase),
    'rectangular': np.ones(size),
  }[name]
  return values.astype(np.float32)


def hz_to_mel(hz: float | np.ndarray, scale: str) -> np.ndarray:
  """Hz -> mel.

  'kaldi': 1127 ln(1 + f/700); 'htk': 2595 log10(1 + f/700); 'slaney': linear to 1 kHz, then
  logarithmic (Auditory Toolbox).
  """
  hz = np.asarray(hz, np.float64)
  if scale == 'kaldi':
    return np.asarray(1127.0 * np.log(1.0 + hz / 700.0))
  if scale == 'htk':
    return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))
  if scale != 'slaney':
    raise unknown('mel scale', scale, MEL_SCALES)
  step = np.log(6.4) / 27.0
  above = 15.0 + np.log(np.maximum(hz, 1e-9) / 1000.0) / step
  return np.where(hz >= 1000.0, above, 3.0 * hz / 200.0)


def mel_to_hz(mel: float | np.ndarray, scale: str) -> np.ndarray:
  """mel -> Hz, the inverse of `hz_to_mel`."""
  mel = np.asarray(mel, np.float64)
  if scale == 'kaldi':
    return np.asarray(700.0 * (np.exp(mel / 1127.0) - 1.0))
  if scale == 'htk':
    return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
  if scale != 'slaney':
    raise unknown('mel scale', scale, MEL_SCALES)
  step = np.log(6.4) / 27.0
  return np.where(mel >= 15.0, 1000.0 * np.exp(step * (mel - 15.0)), 200.0 / 3.0 * mel)


def mel_filterbank(
  *,
  sample_rate: int,
  n_fft: int,
  num_mel_bins: int,
  f_min: float = 0.0,
  f_max: float | None = None,
  scale: str = 'slaney',
  norm: str = 'none',
) -> Float[np.ndarray, 'bins f']:
  """Triangular mel filters as a matrix [n_fft // 2 + 1, f].

  'htk' and 'slaney' draw the triangles over Hz, as torchaudio.functional.melscale_fbanks and
  librosa.filters.mel do (equal to librosa's bit for bit). 'kaldi' draws them over mel and gives the
  Nyquist bin no weight (torchaudio.compliance.kaldi.get_mel_banks). A filter narrower than the bin
  spacing may be all zeros; published front-ends have such filters.

  Args:
    sample_rate: Hz.
    n_fft: FFT size in samples.
    num_mel_bins: number of filters.
    f_min: lower edge of the first filter, Hz.
    f_max: upper edge of the last filter, Hz; None is half the sample rate.
    scale: 'kaldi', 'htk' or 'slaney'.
    norm: 'none', or 'slaney' for triangles of constant area.

  Raises:
    InputError: unknown scale or norm, or edges that are not 0 <= f_min < f_max <= sample_rate / 2.
  """
  nyquist = sample_rate / 2
  f_max = nyquist if f_max is None else f_max
  if norm not in MEL_NORMS:
    raise unknown('mel norm', norm, MEL_NORMS)
  if not 0 <= f_min < f_max <= nyquist:
    raise InputError(
      f'Mel filters from {f_min:g} to {f_max:g} Hz do not fit audio of {sample_rate} Hz: expected '
      f'0 <= lowest < highest <= {nyquist:g}.'
    )
  edges = np.linspace(hz_to_mel(f_min, scale), hz_to_mel(f_max, scale), num_mel_bins + 2)
  edges_hz = mel_to_hz(edges, scale)
  bins_hz: np.ndarray
  if n_fft % 2 == 0:
    bins_hz = np.linspace(0.0, nyquist, n_fft // 2 + 1)
  else:
    bins_hz = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)

  # The triangles, over mel or over Hz.
  points, axis = (edges, hz_to_mel(bins_hz, scale)) if scale == 'kaldi' else (edges_hz, bins_hz)
  widths = np.diff(points)
  rise = (axis[:, None] - points[:-2]) / widths[:-1]
  fall = (points[2:] - axis[:, None]) / widths[1:]
  # Two roundings, as in librosa (float32 triangles times float64 areas): the matrices are equal.
  weights = np.maximum(0.0, np.minimum(rise, fall)).astype(np.float32)
  if scale == 'kaldi':
    weights[bins_hz >= nyquist] = 0.0
  if norm == 'slaney':
    weights = (weights * (2.0 / (edges_hz[2:] - edges_hz[:-2]))).astype(np.float32)
  return weights


def dct_matrix(num_mel_bins: int, num_ceps: int) -> Float[np.ndarray, 'f ceps']:
  """The first `num_ceps` columns of the orthonormal DCT-II over mel bins."""
  n, k = np.arange(num_mel_bins)[:, None] + 0.5, np.arange(num_ceps)[None]
  matrix = np.cos(np.pi / num_mel_bins * n * k) * np.sqrt(2.0 / num_mel_bins)
  matrix[:, 0] = np.sqrt(1.0 / num_mel_bins)
  return matrix.astype(np.float32)


def dft_matrix(size: int, n_fft: int) -> Float[np.ndarray, 'size parts']:
  """Cosines, then sines, of the real DFT of `size` samples zero-padded to `n_fft`."""
  turns = np.outer(np.arange(size), np.arange(n_fft // 2 + 1)) % n_fft
  angles = 2 * np.pi * turns / n_fft
  return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

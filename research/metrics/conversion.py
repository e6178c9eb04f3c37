"""Converted voices against recordings of the target: mel-cepstral distortion and pitch (Voice
Conversion Challenge 2020; figures of s3prl a2o-vc-vcc2020/vc_evaluate.py).

The WORLD vocoder analyses the waveforms: pip install -e '.[conversion]'.
Letters: t samples, n frames, c coefficients.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import signal, stats

from research.errors import InputError

# Mel-cepstrum at 24 kHz.
ORDER, ALPHA, SHIFT_MS, FFT, FRAMES_DB, LOW_CUT = 39, 0.466, 5.0, 1024, -20.0, 70
# Pitch ranges of the target speakers, Hz (data/f0.yaml).
PITCH_RANGES = {'TEF1': (127, 405), 'TEF2': (108, 361), 'TEM1': (71, 227), 'TEM2': (57, 182)}


@dataclasses.dataclass(frozen=True)
class Analysis:
  """What WORLD finds in a waveform: mel-cepstra [n, c], pitch [n] in Hz (0: unvoiced), power [n] in
  dB above the mean."""

  cepstra: np.ndarray
  pitch: np.ndarray
  power: np.ndarray


@dataclasses.dataclass(frozen=True)
class Distortion:
  """Distances of two utterances.

  Attributes:
    mcd: mel-cepstral distortion, dB.
    f0_rmse: of the pitch of voiced frames, Hz; nan without any.
    f0_correlation: Pearson's, of the same frames.
    duration: difference of the lengths without silence at the ends, seconds.
  """

  mcd: float
  f0_rmse: float
  f0_correlation: float
  duration: float


def analyse(
  audio: Float[np.ndarray, ' t'], sample_rate: int, pitch_range: tuple[float, float]
) -> Analysis:
  """WORLD's pitch (harvest) and envelope (cheaptrick), the envelope as mel-cepstra.

  Args:
    audio: in [-1, 1].
    sample_rate: Hz; the figures of this module are for 24000.
    pitch_range: lowest and highest pitch, Hz.

  Raises:
    InputError: pyworld is missing.
  """
  try:
    import pyworld
  except ImportError as error:  # of pyworld itself, or of the old setuptools that it imports
    raise InputError(
      f"Voice conversion metrics need pyworld: pip install -e '.[conversion]' ({error})."
    ) from None
  x = np.asarray(audio, np.float64) * np.iinfo(np.int16).max
  band = signal.firwin(255, LOW_CUT / (sample_rate // 2), pass_zero=False)
  x = signal.lfilter(band, 1, x)
  low, high = pitch_range
  pitch, times = pyworld.harvest(x, sample_rate, f0_floor=low, f0_ceil=high, frame_period=SHIFT_MS)
  envelope = pyworld.cheaptrick(x, pitch, times, sample_rate, fft_size=FFT)
  power = (envelope[:, 0] + envelope[:, -1] + 2 * envelope[:, 1:-1].sum(1)) / FFT
  power = 10.0 * np.log10(power / power.mean())
  return Analysis(mel_cepstra(envelope), pitch, power)


def mel_cepstra(
  envelope: Float[np.ndarray, 'n f'], order: int = ORDER, alpha: float = ALPHA
) -> Float[np.ndarray, 'n c']:
  """Cepstra of power spectra on the frequency scale of an all-pass filter (SPTK's sp2mc: freqt of
  Oppenheim and Johnson 1972)."""
  cepstra = np.fft.irfft(np.log(envelope))[:, : envelope.shape[1]]
  cepstra[:, 0] /= 2.0
  return cepstra @ _warp(cepstra.shape[1], order, alpha)


def _warp(size: int, order: int, alpha: float) -> np.ndarray:
  """[size, order + 1]: what each coefficient gives on the warped scale."""
  now = np.zeros((order + 1, size))
  for i in reversed(range(size)):  # the recursion of freqt takes coefficients from the last on
    before = now.copy()
    now[0] = alpha * before[0]
    now[0, i] += 1.0
    now[1] = (1.0 - alpha**2) * before[0] + alpha * before[1]
    for m in range(2, order + 1):
      now[m] = before[m - 1] + alpha * (before[m] - now[m - 1])
  return now.T


def distortion(
  converted: Float[np.ndarray, ' t'],
  reference: np.ndarray,
  sample_rate: int = 24000,
  pitch_range: tuple[float, float] = (71, 365),
) -> Distortion:
  """Distances between a converted and a recorded utterance of one text.

  Frames 20 dB below the mean power are left out; `fast_alignment` warps the rest.

  Args:
    converted: in [-1, 1].
    reference: the recording, of any length.
    sample_rate: Hz, of both.
    pitch_range: of the target speaker, see PITCH_RANGES.

  Raises:
    InputError: pyworld is missing, or one of the two is silent.
  """
  import librosa

  pair = [analyse(x, sample_rate, pitch_range) for x in (converted, reference)]
  loud = [x.cepstra[x.power > FRAMES_DB] for x in pair]
  if not all(map(len, loud)):
    raise InputError('distortion got a silent utterance: speech is expected in both.')
  # The official function aligns the second to the first.
  path = fast_alignment(loud[1], loud[0])
  squares = ((loud[1][path[:, 0]] - loud[0][path[:, 1]]) ** 2).sum(1)
  mcd = float(np.mean(10.0 / np.log(10.0) * np.sqrt(2.0 * squares)))
  voiced = [x.cepstra[x.pitch > 0] for x in pair]
  rmse = correlation = float('nan')
  if all(len(x) > 1 for x in voiced):
    path = fast_alignment(voiced[1], voiced[0])
    pitch = [x.pitch[x.pitch > 0][path[:, i]] for i, x in ((1, pair[0]), (0, pair[1]))]
    rmse = float(np.sqrt(np.mean((pitch[0] - pitch[1]) ** 2)))
    correlation = float(stats.pearsonr(*pitch)[0])
  trimmed = [len(librosa.effects.trim(np.asarray(x))[0]) for x in (converted, reference)]
  return Distortion(mcd, rmse, correlation, abs(trimmed[0] - trimmed[1]) / sample_rate)


def fast_alignment(x: np.ndarray, y: np.ndarray, radius: int = 1) -> np.ndarray:
  """FastDTW (Salvador and Chan 2007): an alignment near the one of least Euclidean distance.

  Both are halved until they are short, aligned, and the path is refined `radius` cells around.

  Args:
    x: [n, c].
    y: [m, c].
    radius: cells.

  Returns:
    int [steps, 2]: frames of x and y that belong together.
  """
  if min(len(x), len(y)) < radius + 2:
    return _align(x, y, [(0, len(y))] * len(x))
  coarse = fast_alignment(_halve(x), _halve(y), radius)
  return _align(x, y, _window(coarse, len(x), len(y), radius))


def _halve(x: np.ndarray) -> np.ndarray:
  even = len(x) - len(x) % 2
  return (x[0:even:2] + x[1:even:2]) / 2


def _window(path: np.ndarray, rows: int, columns: int, radius: int) -> Sequence[tuple[int, int]]:
  """First and last + 1 column of each row that is near a path of half the size."""
  near: dict[int, list[int]] = {}
  for i, j in path.tolist():
    for row in range(i - radius, i + radius + 1):
      near.setdefault(row, []).append(j)
  window, start = [], 0
  for row in range(rows):
    around = near.get(row // 2)
    if around is None:  # behind the path of the coarse rows: as the row before
      around = near[max(near)]
    low = max(2 * (min(around) - radius), start)
    high = min(2 * (max(around) + radius) + 2, columns)
    window.append((low, high))
    start = low
  return window


def _align(x: np.ndarray, y: np.ndarray, window: Sequence[tuple[int, int]]) -> np.ndarray:
  """Dynamic time warping inside a window; of equal ways, x moves on before y before both."""
  cost: list[np.ndarray] = []
  for i, (low, high) in enumerate(window):
    local = np.sqrt(((y[low:high] - x[i]) ** 2).sum(1))
    row = np.empty(high - low)
    for j in range(low, high):
      ways = [_cost(cost, window, i - 1, j), row[j - low - 1] if j > low else np.inf]
      ways.append(_cost(cost, window, i - 1, j - 1))
      row[j - low] = local[j - low] + (min(ways) if i or j else 0.0)
    cost.append(row)
  i, j, path = len(x) - 1, len(y) - 1, []
  while i or j:
    path.append((i, j))
    steps = ((i - 1, j), (i, j - 1), (i - 1, j - 1))
    i, j = min(steps, key=lambda step: _cost(cost, window, *step))
  return np.array([*path, (0, 0)])[::-1]


def _cost(cost: list[np.ndarray], window: Sequence[tuple[int, int]], i: int, j: int) -> float:
  if i < 0 or not window[i][0] <= j < window[i][1]:
    return np.inf
  return cost[i][j - window[i][0]]

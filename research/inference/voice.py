"""Where there is voice in a recording, and windows that are cut in its pauses.

A frame is loud where its level lies above the floor of the half minute around it and not far below
its peaks; periodic where its autocorrelation has a peak at the pitch of a voice. What is loud is
voice where enough of it is periodic. Steady noise is not loud, bursts of noise are not periodic;
music is both, and counts as voice.
Letters: t samples, s frames of 10 ms.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

FRAME, HOP = 0.032, 0.01  # seconds
BAND = (100.0, 4000.0)  # Hz: where voice is
PITCH = (70.0, 400.0)  # Hz
# Frames that are computed at a time.
BLOCK = 6000


@dataclasses.dataclass(frozen=True)
class Detector:
  """How voice is found; levels in dB, times in seconds.

  Attributes:
    above_floor: of a loud frame over the 10th percentile of the half minute around it.
    below_peak: and at most so far below its 98th percentile.
    lowest: and above this, relative to full scale.
    periodic: normalised autocorrelation of a periodic frame.
    min_periodic: what is loud for a time is voice with so much of it periodic.
    max_pause: shorter pauses are part of an utterance.
    pad: put before and behind every utterance.
  """

  above_floor: float = 6.0
  below_peak: float = 30.0
  lowest: float = -75.0
  periodic: float = 0.5
  min_periodic: float = 0.06
  max_pause: float = 0.3
  pad: float = 0.2

  def utterances(self, audio: Float[np.ndarray, ' t'], rate: int) -> list[tuple[float, float]]:
    """(start, end) of what is voice in a recording, in seconds, in order and apart.

    Args:
      audio: one channel in [-1, 1].
      rate: its sample rate, Hz.
    """
    level, periodicity = measures(audio, rate)
    loud = self._loud(level)
    found = []
    for start, end in _runs(_closed(loud, round(self.max_pause / HOP))):
      periodic = (periodicity[start:end] > self.periodic) & loud[start:end]
      if periodic.sum() * HOP >= self.min_periodic:
        found.append((start * HOP, end * HOP))
    whole = len(audio) / rate
    padded = [(max(0.0, a - self.pad), min(whole, b + self.pad)) for a, b in found]
    # Neighbours that now meet share the pause in its middle.
    for i, ((a, b), (c, d)) in enumerate(itertools.pairwise(padded)):
      if b > c:
        padded[i], padded[i + 1] = (a, (b + c) / 2), ((b + c) / 2, d)
    return padded

  def _loud(self, level: Float[np.ndarray, ' s']) -> Bool[np.ndarray, ' s']:
    second, around = round(1 / HOP), round(15 / HOP)
    found = np.zeros(len(level), bool)
    for i in range(0, len(level), second):
      near = level[max(0, i - around) : i + second + around]
      low, high = np.percentile(near, (10, 98))
      limit = max(low + self.above_floor, high - self.below_peak, self.lowest)
      found[i : i + second] = level[i : i + second] > limit
    return found


def measures(
  audio: Float[np.ndarray, ' t'], rate: int
) -> tuple[Float[np.ndarray, ' s'], Float[np.ndarray, ' s']]:
  """(level in the band of voice, dB relative to full scale; periodicity in [0, 1]) of frames."""
  size, hop = round(FRAME * rate), round(HOP * rate)
  count = max(1, len(audio) // hop)
  n = 1 << (2 * size - 1).bit_length()
  frequency = np.fft.rfftfreq(n, 1 / rate)
  band = (frequency >= BAND[0]) & (frequency <= BAND[1])
  lags = slice(round(rate / PITCH[1]), round(rate / PITCH[0]) + 1)
  window = np.hanning(size).astype(np.float32)
  # A windowed frame correlates less with itself the farther it is moved.
  taper = np.fft.irfft(np.abs(np.fft.rfft(window, n)) ** 2)
  taper = (taper / taper[0])[lags]
  scale = n * np.square(window).sum() / 2
  level, periodicity = np.empty(count, np.float32), np.empty(count, np.float32)
  for first in range(0, count, BLOCK):
    last = min(first + BLOCK, count)
    part = np.zeros((last - first - 1) * hop + size, np.float32)
    own = audio[first * hop : first * hop + len(part)]
    part[: len(own)] = own
    frames = np.lib.stride_tricks.sliding_window_view(part, size)[::hop]
    power = np.abs(np.fft.rfft((frames - frames.mean(1, keepdims=True)) * window, n)) ** 2
    power[:, ~band] = 0.0
    level[first:last] = 10 * np.log10(power.sum(axis=1) / scale + 1e-12)
    same = np.fft.irfft(power)
    shifted = same[:, lags] / taper
    periodicity[first:last] = shifted.max(axis=1) / np.maximum(same[:, 0], 1e-20)
  return level, periodicity


def cut(
  audio: Float[np.ndarray, ' t'], rate: int, longest: float = 30.0, detector: Detector = Detector()
) -> list[tuple[int, int]]:
  """(first sample, end) of windows that hold all voice, in order and apart: neighbouring utterances
  together while they fit. Where they do not, the longest pause in the second half of a window is
  where it ends. What speaks longer without a pause is cut where it is quietest.

  Args:
    audio, rate: see `Detector.utterances`.
    longest: seconds of a window.
    detector: how voice is found.
  """
  pieces = [
    piece
    for start, end in detector.utterances(audio, rate)
    for piece in _pieces(audio, rate, start, end, longest)
  ]
  windows, first, limit = [], 0, int(longest * rate)
  while first < len(pieces):
    start, behind = pieces[first][0], first + 1
    while behind < len(pieces) and pieces[behind][1] - start <= longest:
      behind += 1
    if behind < len(pieces):
      late = [i for i in range(first + 1, behind + 1) if pieces[i - 1][1] - start >= longest / 2]
      behind = max(late, key=lambda i: (pieces[i][0] - pieces[i - 1][1], i), default=behind)
    low, high = round(start * rate), min(round(pieces[behind - 1][1] * rate), len(audio))
    windows.append((low, min(high, low + limit)))
    first = behind
  return windows


def _pieces(
  audio: np.ndarray, rate: int, start: float, end: float, longest: float
) -> list[tuple[float, float]]:
  """An utterance, or pieces of it that are not too long: cut in the quietest moment of the second
  half of the time that a piece may take."""
  found = []
  while end - start > longest:
    low, high = start + longest / 2, start + longest - FRAME
    level, _ = measures(audio[round(low * rate) : round(high * rate)], rate)
    smooth = np.convolve(level, np.ones(9) / 9, mode='same')
    smooth[:4] = smooth[-4:] = np.inf  # the ends see less
    at = low + (int(smooth.argmin()) + 0.5) * HOP
    found.append((start, at))
    start = at
  return [*found, (start, end)]


def fixed(samples: int, rate: int, longest: float, overlap: float) -> list[tuple[int, int]]:
  """(first sample, end) of windows of one length that share `overlap` seconds."""
  size, step = int(longest * rate), int((longest - overlap) * rate)
  starts = range(0, max(samples - int(overlap * rate), 1), step)
  return [(start, min(start + size, samples)) for start in starts]


def _closed(loud: Bool[np.ndarray, ' s'], pause: int) -> Bool[np.ndarray, ' s']:
  """Pauses that are not longer are filled."""
  found = loud.copy()
  runs = _runs(loud)
  for (_, end), (start, _) in itertools.pairwise(runs):
    if start - end <= pause:
      found[end:start] = True
  return found


def _runs(x: Bool[np.ndarray, ' s']) -> Sequence[tuple[int, int]]:
  """(first, end) of every run of True."""
  steps = np.diff(np.concatenate([[False], x, [False]]).astype(np.int8))
  return list(zip(np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist()))

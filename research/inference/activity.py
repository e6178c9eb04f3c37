"""Where somebody speaks, by the energy of frames: no weights, and no word of what is heard.

Steady noise as loud as speech counts as speech. Letters: t samples, n frames.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

# Frames of 25 ms, one every 10 ms.
WINDOW_SECONDS, FRAME_SECONDS = 0.025, 0.01
BLOCK = 6000  # frames at once: a minute


@dataclasses.dataclass(frozen=True)
class Energy:
  """A frame is active where its level is near the loud ones of the recording (the 95th percentile),
  and away from its quiet ones (the 10th).

  Attributes:
    range: dB below the loud ones at which activity ends.
    rise: fraction of the way from the quiet to the loud ones below which there is none.
    near: dB below the loud ones above which there always is.
    silence: dB of full scale below which there is none.
    pause: seconds; shorter gaps are closed.
    shortest: seconds; what is active for less is left out.
  """

  range: float = 30.0
  rise: float = 0.3
  near: float = 6.0
  silence: float = -60.0
  pause: float = 0.3
  shortest: float = 0.1

  def frames(self, audio: Float[np.ndarray, ' t'], sample_rate: int) -> Bool[np.ndarray, ' n']:
    """Which frames are active, gaps closed; frame i is from i to i + 1 hundredths of a second."""
    level = levels(audio, sample_rate)
    if not len(level):
      return np.zeros(0, bool)
    quiet, loud = np.percentile(level, [10, 95])
    limit = min(quiet + self.rise * (loud - quiet), loud - self.near)
    active = level >= max(loud - self.range, limit, self.silence)
    _change(active, False, self.pause, inside=True)
    _change(active, True, self.shortest)
    return active

  def regions(self, audio: Float[np.ndarray, ' t'], sample_rate: int) -> list[tuple[float, float]]:
    """Start and end of every active part, seconds."""
    seconds = len(audio) / sample_rate
    found = [
      (a * FRAME_SECONDS, b * FRAME_SECONDS) for a, b in runs(self.frames(audio, sample_rate))
    ]
    return [(a, min(b, seconds)) for a, b in found]


def levels(audio: Float[np.ndarray, ' t'], sample_rate: int) -> Float[np.ndarray, ' n']:
  """dB of full scale of frames, their mean taken out; the last one is cut at the end."""
  hop, size = round(FRAME_SECONDS * sample_rate), round(WINDOW_SECONDS * sample_rate)
  starts = np.arange(0, len(audio), hop)
  parts = [starts[i : i + BLOCK] for i in range(0, len(starts), BLOCK)]
  found = [_powers(audio[own[0] : own[-1] + size], own - own[0], size) for own in parts]
  return 10 * np.log10(np.maximum(np.concatenate([np.zeros(0), *found]), 1e-12))


def _powers(audio: np.ndarray, starts: np.ndarray, size: int) -> np.ndarray:
  x = np.concatenate([[0.0], np.asarray(audio, np.float64)])
  sums, squares = np.cumsum(x), np.cumsum(x * x)
  ends = np.minimum(starts + size, len(audio))
  mean, power = ((c[ends] - c[starts]) / (ends - starts) for c in (sums, squares))
  return power - mean * mean


def runs(active: Bool[np.ndarray, ' n']) -> list[tuple[int, int]]:
  """First and behind the last frame of every run of active ones."""
  steps = np.diff(np.asarray(active, np.int8), prepend=0, append=0)
  return list(zip(np.flatnonzero(steps > 0).tolist(), np.flatnonzero(steps < 0).tolist()))


def _change(
  active: Bool[np.ndarray, ' n'], value: bool, seconds: float, inside: bool = False
) -> None:
  """Turns runs of a value that last less than `seconds` into the other; those `inside` alone are
  not at an end."""
  for first, last in runs(active == value):
    short = (last - first) * FRAME_SECONDS < seconds - 1e-9
    if short and not (inside and (first == 0 or last == len(active))):
      active[first:last] = not value

"""What recipes do to samples: levels, activity, lengths, 16-bit samples."""

import numpy as np
from jaxtyping import Float, Int

# LibriMix (scripts/create_librimix_metadata.py): maximum amplitude of mixtures.
MAX_AMPLITUDE = 0.9
# Energy-based activity: frames of 20 ms above a level under the loudest frame; shorter pauses are
# closed, shorter runs are dropped (seconds).
FRAME, BELOW_DB, CLOSED, SHORTEST = 0.02, 38.0, 0.3, 0.1


def rms(audio: Float[np.ndarray, 't']) -> float:
  """Root mean square."""
  return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))


def at_level(audio: Float[np.ndarray, 't'], level: float) -> Float[np.ndarray, 't']:
  """The audio with a root mean square of `level` dB of full scale."""
  return (audio * (10 ** (level / 20) / max(rms(audio), 1e-9))).astype(np.float32)


def headroom(*parts: Float[np.ndarray, 't']) -> float:
  """The factor that brings the sum of some parts, and each of them, to MAX_AMPLITUDE at most."""
  peak = max(float(np.abs(sum(parts)).max()), *(float(np.abs(part).max()) for part in parts))
  return min(1.0, MAX_AMPLITUDE / peak) if peak > 0 else 1.0


def runs(audio: Float[np.ndarray, 't'], rate: int) -> list[tuple[int, int]]:
  """(start, end) in samples of the stretches in which somebody speaks, by their energy."""
  size = round(FRAME * rate)
  count = len(audio) // size
  if not count:
    return [(0, len(audio))] if len(audio) else []
  frames = np.sqrt(np.mean(np.square(audio[: count * size].reshape(count, size)), axis=1))
  loud = np.flatnonzero(frames > frames.max() * 10 ** (-BELOW_DB / 20))
  if not len(loud) or frames.max() == 0:
    return []
  breaks = np.flatnonzero(np.diff(loud) > round(CLOSED / FRAME))
  starts, ends = loud[np.r_[0, breaks + 1]], loud[np.r_[breaks, len(loud) - 1]] + 1
  found = [(int(a) * size, int(b) * size) for a, b in zip(starts, ends)]
  kept = [run for run in found if run[1] - run[0] >= SHORTEST * rate]
  return kept or found


def fit(audio: Float[np.ndarray, 't'], length: int) -> Float[np.ndarray, 'n']:
  """The audio cut, or filled with zeros, to a number of samples."""
  return np.pad(audio[:length], (0, max(0, length - len(audio))))


def fade(audio: Float[np.ndarray, 't'], rate: int, seconds: float = 0.01) -> np.ndarray:
  """The audio with raised-cosine ramps at both ends, so that a cut does not click."""
  size = min(round(seconds * rate), len(audio) // 2)
  ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(size) + 0.5) / max(size, 1))).astype(np.float32)
  audio = audio.copy()
  audio[:size] *= ramp
  audio[len(audio) - size :] *= ramp[::-1]
  return audio


def pcm16(audio: Float[np.ndarray, 't']) -> Int[np.ndarray, 't']:
  """16-bit samples as libsndfile writes floats to a .wav: scaled to 32 bits, clipped, cut off. So
  .wav and .flac of one mixture have the same samples, those of the published scripts."""
  scaled = np.rint(audio.astype(np.float64) * 2.0**31)
  return (np.clip(scaled, -(2**31), 2**31 - 1).astype(np.int64) >> 16).astype(np.int16)

"""Log-mel spectrograms on the CPU, as targets of voice conversion, and waveforms of them.

Figures of s3prl's a2o-vc-vcc2020 (ESPnet's): magnitudes at 24 kHz in 80 bands of Slaney's scale,
log10. Letters: t samples, s frames, f bands.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

FLOOR = 1e-10


@dataclasses.dataclass(frozen=True)
class LogMel:
  """Settings.

  Attributes:
    sample_rate: Hz.
    n_fft: samples of a Hann window.
    hop: samples from frame to frame.
    bands: f.
    lowest, highest: edges of the bands, Hz.
    iterations: of Griffin and Lim's algorithm.
  """

  sample_rate: int = 24_000
  n_fft: int = 1024
  hop: int = 256
  bands: int = 80
  lowest: float = 80.0
  highest: float = 7600.0
  iterations: int = 64

  def frames(self, samples: int) -> int:
    """Frames of t samples: the first and the last lie on the ends."""
    return 1 + samples // self.hop

  def spectrogram(self, audio: Float[np.ndarray, ' t']) -> Float[np.ndarray, 's f']:
    """log10 of the magnitudes in bands, float32; both ends are mirrored."""
    import librosa

    x = np.asarray(audio, np.float32)
    # A mirror is not longer than what it shows.
    mode: Any = 'reflect' if len(x) > self.n_fft // 2 else 'constant'
    spectra = np.abs(librosa.stft(x, n_fft=self.n_fft, hop_length=self.hop, pad_mode=mode))
    found = np.log10(np.maximum(FLOOR, spectra.T @ _filters(self).T))
    return found.astype(np.float32)

  def waveform(self, mel: Float[np.ndarray, 's f'], seed: int = 0) -> Float[np.ndarray, ' t']:
    """The waveform of a spectrogram by Griffin and Lim's algorithm (1984; librosa's fast one, with
    a momentum of 0.99), float32.

    Args:
      mel: as `spectrogram` gives it.
      seed: of the phases that the algorithm starts from.
    """
    import librosa

    spectra = np.maximum(FLOOR, 10.0 ** np.asarray(mel, np.float64) @ _inverse(self).T)
    return librosa.griffinlim(
      spectra.T, n_iter=self.iterations, hop_length=self.hop, n_fft=self.n_fft, random_state=seed
    ).astype(np.float32)


@functools.lru_cache(8)
def _filters(how: LogMel) -> np.ndarray:
  import librosa

  return librosa.filters.mel(
    sr=how.sample_rate, n_fft=how.n_fft, n_mels=how.bands, fmin=how.lowest, fmax=how.highest
  )


@functools.lru_cache(8)
def _inverse(how: LogMel) -> np.ndarray:
  return np.linalg.pinv(_filters(how).astype(np.float64))


def statistics(
  spectrograms: Iterable[np.ndarray],
) -> tuple[Float[np.ndarray, ' f'], Float[np.ndarray, ' f']]:
  """(mean, standard deviation) of every band over the frames of all spectrograms [s, f]; 1 as the
  deviation where a band is constant."""
  count, total, squares = 0, np.float64(0.0), np.float64(0.0)
  for x in spectrograms:
    wide = np.asarray(x, np.float64)
    count, total, squares = count + len(wide), total + wide.sum(0), squares + (wide**2).sum(0)
  mean = total / max(count, 1)
  deviation = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0.0))
  return np.asarray(mean), np.where(deviation > 1e-6, deviation, 1.0)

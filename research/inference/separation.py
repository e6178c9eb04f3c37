"""Signals from masks of a mixture's spectrogram (SUPERB-SG enhancement and separation; s3prl
downstream/enhancement_stft/expert.py). Letters: b batch, k signals, m frames, f bins, t samples.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from research.features import stft

# Of the rule for the ends of signals, samples: it looks at the last WINDOW before the last one that
# is not zero, unless zeros fill more than SILENCE at the end.
WINDOW, SILENCE = 512, 2048


def signals(
  masks: Float[np.ndarray, 'b k m f'],
  mixture: Float[np.ndarray, 'b m f 2'],
  lengths: Sequence[int] | np.ndarray,
  *,
  hop: int = 320,
  clear_ends: bool = True,
) -> list[Float[np.ndarray, 'k t']]:
  """Waveforms of masked spectra with the phase of the mixture, one array for each clip.

  Args:
    masks: of head masks.
    mixture: spectra, real and imaginary parts, of the same head.
    lengths: samples of each clip.
    hop: of the head.
    clear_ends: whether `clear_end` is applied, as SUPERB does.
  """
  masks, mixture = np.asarray(masks), np.asarray(mixture)
  spectra = masks * (mixture[..., 0] + 1j * mixture[..., 1])[:, None]
  found = []
  for row, samples in zip(spectra, np.asarray(lengths).tolist(), strict=True):
    own = jnp.asarray(row[:, : stft.stft_frames(samples, hop)].astype(np.complex64))
    waves = np.asarray(stft.istft(own, samples, hop=hop))
    found.append(np.stack([clear_end(x) for x in waves]) if clear_ends else waves)
  return found


def clear_end(audio: Float[np.ndarray, ' t']) -> Float[np.ndarray, ' t']:
  """A signal without an impulse at its end, where inverse transforms may leave one.

  Within the last 512 samples before its last one that is not zero, all from the first on that is
  louder than everything before are set to 0. A signal of 512 samples or less, or with more than
  2048 zeros at its end, stays as it is.
  """
  used = np.flatnonzero(audio)
  if not len(used) or len(audio) - used[-1] > SILENCE or used[-1] <= WINDOW:
    return audio
  start = used[-1] - WINDOW
  loud = np.flatnonzero(np.abs(audio[start : used[-1]]) > np.abs(audio[:start]).max())
  if len(loud):
    audio = audio.copy()
    audio[start + loud[0] :] = 0.0
  return audio

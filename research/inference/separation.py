"""Signals from masks of a mixture's spectrogram (SUPERB-SG enhancement and separation; s3prl
downstream/enhancement_stft/expert.py). Letters: b batch, k signals, m frames, f bins, t samples.
"""

from collections.abc import Iterable, Iterator, Sequence

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


def clear_end(
  audio: Float[np.ndarray, ' t'], loudest: float | None = None
) -> Float[np.ndarray, ' t']:
  """A signal without an impulse at its end, where inverse transforms may leave one.

  Within the last 512 samples before its last one that is not zero, all from the first on that is
  louder than everything before are set to 0. A signal of 512 samples or less, or with more than
  2048 zeros at its end, stays as it is.

  Args:
    audio: the signal, or its end: more than the last 2560 samples.
    loudest: magnitude of what is before that end.
  """
  used = np.flatnonzero(audio)
  whole = loudest is None
  if not len(used) or len(audio) - used[-1] > SILENCE or (whole and used[-1] <= WINDOW):
    return audio
  start = used[-1] - WINDOW
  before = max(np.abs(audio[:start]).max(initial=0.0), loudest or 0.0)
  loud = np.flatnonzero(np.abs(audio[start : used[-1]]) > before)
  if len(loud):
    audio = audio.copy()
    audio[start + loud[0] :] = 0.0
  return audio


def cleared(pieces: Iterable[Float[np.ndarray, 'k a _']]) -> Iterator[Float[np.ndarray, 'k a _']]:
  """Signals that come in pieces, as `clear_end` leaves them; their ends are held back."""
  held, loudest = None, None
  for piece in pieces:
    held = piece if held is None else np.concatenate([held, piece], axis=-1)
    done = held.shape[-1] - (SILENCE + WINDOW + 2)
    if done > 0:
      yield held[..., :done]
      peak = np.abs(held[..., :done]).max(axis=-1)
      loudest = peak if loudest is None else np.maximum(loudest, peak)
      held = held[..., done:]
  if held is not None:
    flat = held.reshape(-1, held.shape[-1])
    before = [None] * len(flat) if loudest is None else loudest.ravel().tolist()
    ends = [clear_end(x, peak) for x, peak in zip(flat, before)]
    yield np.stack(ends).reshape(held.shape)


def common_mask(
  signals: Float[np.ndarray, 'k t'], mixture: Float[np.ndarray, ' t'],
  channels: Float[np.ndarray, 'a t'], *, n_fft: int = 512, hop: int = 128,
) -> Float[np.ndarray, 'k a t']:  # fmt: skip
  """Signals of every channel by one mask for all: |signal| / |mixture|, 1 at most, of spectra. The
  directions in which sounds are heard stay.

  Args:
    signals: of the mean of the channels.
    mixture: that mean.
    channels: what is masked.
    n_fft, hop: samples of a window, and from one to the next.
  """
  found, whole, each = (stft.stft(x, n_fft=n_fft, hop=hop) for x in (signals, mixture, channels))
  masks = jnp.minimum(jnp.abs(found) / jnp.maximum(jnp.abs(whole), 1e-8), 1.0)
  samples = channels.shape[-1]
  return np.asarray(stft.istft(masks[:, None].astype(each.dtype) * each, samples, hop=hop))

"""The complex short-time Fourier transform and its inverse, frames centred on their times (as
librosa's with zeros at both ends), in float32, inside jit.

Letters: b batch, t samples, n frames, f bins. Leading axes before the last are free.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float

from research.errors import InputError
from research.features.spectral import Array


def hann(size: int) -> np.ndarray:
  """The periodic Hann window [size], float32."""
  return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)


def stft_frames(samples: Any, hop: int) -> Any:
  """Frames of clips, one number or an array: 1 + samples // hop."""
  return 1 + samples // hop


def stft(
  audio: Float[Array, '*batch t'], *, n_fft: int = 512, hop: int = 320
) -> Complex[jax.Array, '*batch n f']:
  """Spectra of Hann-windowed frames of n_fft samples, one every `hop`, zeros beyond both ends.

  A clip that is padded with zeros has the frames that it has alone, and more.
  """
  audio = jnp.asarray(audio).astype(jnp.float32)
  count, size = stft_frames(audio.shape[-1], hop), n_fft
  total = (count - 1) * hop + size
  side = n_fft // 2
  width = [(0, 0)] * (audio.ndim - 1) + [(side, max(0, total - audio.shape[-1] - side))]
  padded = jnp.pad(audio, width)[..., :total]
  at = hop * np.arange(count)[:, None] + np.arange(size)
  return jnp.fft.rfft(padded[..., at] * hann(size))


def magnitudes(
  audio: Float[Array, '*batch t'], n_fft: int, hop: int, window: int
) -> Float[jax.Array, '*batch n f']:
  """|STFT| as torch.stft's: a Hann window in the middle of n_fft samples, the signal mirrored at
  both ends. The gradient of a magnitude of 0 is 0.

  Args:
    audio: more than n_fft / 2 samples.
    n_fft, hop, window: samples of a frame, from frame to frame, and of the window.

  Raises:
    InputError: too few samples to mirror.
  """
  audio = jnp.asarray(audio).astype(jnp.float32)
  side = n_fft // 2
  if audio.shape[-1] <= side:
    raise InputError(
      f'Spectra of {n_fft} samples need clips of more than {side}, not {audio.shape[-1]}: give '
      'longer ones.'
    )
  padded = jnp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(side, side)], mode='reflect')
  count, left = stft_frames(audio.shape[-1], hop), (n_fft - window) // 2
  # The window at the start of a frame instead of its middle: only phases differ.
  frames = _frames(padded[..., left:], count, hop, window)
  spectra = jnp.fft.rfft(frames * hann(window), n=n_fft)
  power = jnp.square(spectra.real) + jnp.square(spectra.imag)
  return jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1.0)), 0.0)


def istft(
  spectra: Complex[Array, '*batch n f'],
  samples: int,
  *,
  hop: int = 320,
  real: Bool[Array, '*#batch n'] | None = None,
) -> Float[jax.Array, '*batch t']:
  """The signal whose `stft` is nearest: windowed frames added up, by the sum of squared windows.

  Args:
    spectra: as `stft` gives them.
    samples: t.
    hop: samples from frame to frame; below the window's length.
    real: frames of each signal, where others are only there to fill up a batch: it ends as alone.

  Raises:
    InputError: frames do not overlap, so that samples between them are lost.
  """
  spectra = jnp.asarray(spectra)
  count, size = spectra.shape[-2], 2 * (spectra.shape[-1] - 1)
  if hop >= size:
    raise InputError(f'istft got hop={hop} and frames of {size} samples: they have to overlap.')
  frames = jnp.fft.irfft(spectra, n=size) * hann(size)
  weights = jnp.broadcast_to(jnp.asarray(hann(size) ** 2), (count, size))
  if real is not None:
    counted = jnp.asarray(real)[..., None]
    frames, weights = (jnp.where(counted, x, 0.0) for x in (frames, weights))
  signal, weight = _overlap(frames, hop), _overlap(weights, hop)
  tiny = jnp.finfo(jnp.float32).tiny
  signal = jnp.where(weight > tiny, signal / jnp.maximum(weight, tiny), signal)[..., size // 2 :]
  short = max(0, samples - signal.shape[-1])
  return jnp.pad(signal, [(0, 0)] * (signal.ndim - 1) + [(0, short)])[..., :samples]


def _frames(
  audio: Float[Array, '*batch t'], count: int, hop: int, size: int
) -> Float[jax.Array, '*batch n m']:
  """Frames of `size` samples, one every `hop`, as blocks of a hop side by side: the gradient of
  indices would add up sample by sample."""
  parts = -(-size // hop)
  total = (count + parts - 1) * hop
  lead = [(0, 0)] * (audio.ndim - 1)
  blocks = jnp.pad(audio, [*lead, (0, max(0, total - audio.shape[-1]))])[..., :total]
  blocks = blocks.reshape(*audio.shape[:-1], -1, hop)
  each = [blocks[..., i : i + count, :] for i in range(parts)]
  return jnp.concatenate(each, axis=-1)[..., :size]


def _overlap(frames: Float[Array, '*batch n m'], hop: int) -> Float[jax.Array, '*batch t']:
  """The sum of frames, each `hop` after the one before: one addition for each hop of a frame."""
  count, size = frames.shape[-2:]
  parts = -(-size // hop)
  lead = [(0, 0)] * (frames.ndim - 2)
  blocks = jnp.pad(frames, [*lead, (0, 0), (0, parts * hop - size)])
  blocks = blocks.reshape(*frames.shape[:-2], count, parts, hop)
  total = sum(jnp.pad(blocks[..., i, :], [*lead, (i, parts - 1 - i), (0, 0)]) for i in range(parts))
  return jnp.asarray(total).reshape(*frames.shape[:-2], -1)

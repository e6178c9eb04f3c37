"""Crop, pad and repeat clips to a fixed length, as published front-ends do.

Batched and mask-aware; draws (crop starts) are explicit. Dimensions: b batch, t samples.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from research.errors import unknown
from research.features import spectral
from research.features.spectral import Array

ALIGNMENTS = ('start', 'centre')


def crop_or_pad(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  start: Int[Array, 'b'],
  *,
  samples: int,
  align: str = 'start',
) -> tuple[Float[jax.Array, 'b samples'], Bool[jax.Array, 'b samples']]:
  """Crops or zero-pads every clip to `samples`.

  Args:
    audio: waveform; may hold NaN behind the mask.
    audio_mask: True for real samples.
    start: first sample of the crop, for clips longer than `samples`.
    samples: output length.
    align: placement of shorter clips: 'start' (zeros after the clip; BYOL-A v2), or 'centre' (zeros
      on both sides, the odd one after; BYOL-A v1).

  Returns:
    audio and its mask, True for samples of the clip. Published BYOL-A front-ends treat the zeros as
    audio.
  """
  if align not in ALIGNMENTS:
    raise unknown('alignment', align, ALIGNMENTS)
  lengths = spectral.clip_lengths(audio_mask)[:, None]
  before = jnp.maximum(samples - lengths, 0) // 2 if align == 'centre' else jnp.zeros_like(lengths)
  offset = jnp.where(lengths > samples, jnp.asarray(start).astype(jnp.int32)[:, None], -before)
  source = offset + jnp.arange(samples, dtype=jnp.int32)
  real = (source >= 0) & (source < lengths)
  signal = spectral.masked_float(audio, audio_mask)
  taken = jnp.take_along_axis(signal, jnp.clip(source, 0, audio.shape[1] - 1), axis=1)
  return jnp.where(real, taken, 0.0), real


def repeat_pad(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  *,
  samples: int,
  cut_last: bool = False,
) -> Float[jax.Array, 'b samples']:
  """Repeats every clip to `samples` (LAION-CLAP training/data.py).

  A whole number of repetitions, then zeros ('repeatpad'). With cut_last the last repetition is cut
  instead of dropped ('repeat'). Clips longer than `samples` lose their end: crop them first.
  """
  lengths = spectral.clip_lengths(audio_mask)[:, None]
  position = jnp.arange(samples, dtype=jnp.int32)
  whole = samples // jnp.maximum(lengths, 1) * lengths
  filled = jnp.where((lengths > samples) | (cut_last & (lengths > 0)), samples, whole)
  signal = spectral.masked_float(audio, audio_mask)
  taken = jnp.take_along_axis(signal, position % jnp.maximum(lengths, 1), axis=1)
  return jnp.where(position < filled, taken, 0.0)


def int16_round_trip(audio: Float[Array, '*shape']) -> Float[jax.Array, '*shape']:
  """The audio as read back from a 16-bit file (LAION-CLAP hook.py).

  Clipped to [-1, 1], times 32767, rounded towards zero, divided by 32767.
  """
  whole = jnp.trunc(jnp.clip(jnp.asarray(audio).astype(jnp.float32), -1.0, 1.0) * 32767.0)
  # XLA would replace the division by a product with the inverse, which is one bit off.
  return whole / jax.lax.optimization_barrier(jnp.full_like(whole, 32767.0))


def full_scale(audio: Float[Array, '*b t'], mask: Bool[Array, '*b t']) -> Float[jax.Array, '*b t']:
  """Clips at full scale, zero behind their masks (NVIDIA/audio-flamingo, `load_audio`).

  Divided by the highest absolute value, or those without a negative sample as 2 x / max - 1.
  Silence stays silence, where upstream divides by zero.
  """
  audio = jnp.where(mask, audio.astype(jnp.float32), 0.0)
  high = jnp.where(mask, audio, -jnp.inf).max(axis=-1, keepdims=True)
  low = jnp.where(mask, audio, jnp.inf).min(axis=-1, keepdims=True)
  peak = jnp.abs(audio).max(axis=-1, keepdims=True)
  scaled = audio / jnp.where(peak > 0, peak, 1.0)
  raised = (low >= 0) & (high > 0)
  return jnp.where(mask, jnp.where(raised, 2 * scaled - 1.0, scaled), 0.0)

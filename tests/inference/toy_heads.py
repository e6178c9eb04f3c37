"""A model that hears tones: who speaks, the voice and the masks are exact, and its outputs come in
an order that depends on what it hears, as those of a trained head may."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from research.capabilities import Embedding, audio_example
from research.features.stft import stft, stft_frames
from research.features.waveform import Waveform

RATE, HOP, WINDOW = 16_000, 320, 400
HERTZ = (480.0, 1520.0, 4000.0)
EDGE = 32  # the bin of 1 kHz, between the first two tones


class ToyHeads(nn.Module):
  """Energy at each of three tones."""

  EMBEDDING: ClassVar[Embedding] = Embedding()
  frame_speakers: ClassVar[int] = 2
  signals: ClassVar[int] = 2
  mask_hop: ClassVar[int] = HOP
  frontend: Any = Waveform()

  def example(self):
    return audio_example(self.frontend)

  @nn.compact
  def embed(self, audio, audio_mask):
    audio = jnp.where(audio_mask, audio, 0.0)
    n = self.frontend.frames(audio.shape[1])
    real = jnp.arange(n) * HOP + WINDOW <= audio_mask.sum(axis=1)[:, None]
    frames = audio[:, np.arange(n)[:, None] * HOP + np.arange(WINDOW)]
    angles = 2 * np.pi * np.array(HERTZ) * np.arange(WINDOW)[:, None] / RATE
    parts = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    energy = sum(jnp.square(frames @ p) for p in parts) / (WINDOW / 2) ** 2
    scale = self.param('scale', nn.initializers.ones_init(), (), jnp.float32)
    return jnp.where(real[..., None], scale * energy, 0.0)[None], real

  def __call__(self, batch, train=False):
    audio = jnp.where(batch['audio_mask'], batch['audio'], 0.0)
    tokens, real = self.embed(audio, batch['audio_mask'])
    active = tokens[0][..., :2] > 0.003
    first = jnp.where(active.any(axis=1), active.argmax(axis=1), active.shape[1])
    swapped = first[:, 1] < first[:, 0]  # who speaks first is first
    order = jnp.where(swapped[:, None], jnp.array([1, 0]), jnp.array([0, 1]))
    logits = jnp.where(active, 5.0, -5.0)
    logits = jnp.take_along_axis(logits, order[:, None], axis=2)
    spectra = stft(audio, hop=HOP)
    low = (np.arange(spectra.shape[-1]) < EDGE).astype(np.float32)
    masks = jnp.broadcast_to(np.stack([low, 1 - low])[:, None], (len(audio), 2, *spectra.shape[1:]))
    masks = jnp.take_along_axis(masks, order[:, :, None, None], axis=1)
    frames = stft_frames(batch['audio_mask'].sum(axis=1), HOP)
    return {
      'logits': logits,
      'logits_mask': real,
      'masks': masks,
      'mask_frames': jnp.arange(spectra.shape[1]) < frames[:, None],
      'mixture': jnp.stack([spectra.real, spectra.imag], axis=-1),
    }


VARIABLES = {'params': {'scale': np.float32(1.0)}}


def tone(seconds, place, loud=0.3):
  """One voice."""
  t = np.arange(round(seconds * RATE)) / RATE
  return (loud * np.sin(2 * np.pi * HERTZ[place] * t)).astype(np.float32)


def talk(turns, seconds):
  """Samples of (start, end, voice)."""
  audio = np.zeros(round(seconds * RATE), np.float32)
  for start, end, place in turns:
    first = round(start * RATE)
    part = tone(end - start, place)
    audio[first : first + len(part)] += part
  return audio

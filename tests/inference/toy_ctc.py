"""A model that spells tones: every letter has its frequency, and silence is CTC's blank."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from research.capabilities import audio_example
from research.features.waveform import Waveform
from research.text.characters import BOUNDARY, CHARACTERS, is_special

RATE, HOP, WINDOW = 16_000, 320, 400
TONE, PAUSE = 0.06, 0.04


def hertz(place):
  """Frequency of a symbol: whole periods in a frame, so that symbols do not leak into others."""
  return 320.0 + 200.0 * place


class ToyCTC(nn.Module):
  """Energy at every letter's frequency, averaged over `reach` frames to both sides."""

  vocabulary: Sequence[str] = CHARACTERS
  blank: int = 0
  reach: int = 0
  frontend: Any = Waveform()

  def __post_init__(self):
    object.__setattr__(self, 'vocabulary', tuple(self.vocabulary))
    if isinstance(self.frontend, dict):
      object.__setattr__(self, 'frontend', Waveform.from_dict(self.frontend))
    super().__post_init__()

  def example(self):
    return audio_example(self.frontend)

  @nn.compact
  def __call__(self, batch, train=False):
    audio = self.frontend(batch['audio'], batch['audio_mask'])
    n = self.frontend.frames(audio.shape[1])
    lengths = batch['audio_mask'].sum(axis=1)
    real = jnp.arange(n) * HOP + WINDOW <= lengths[:, None]
    frames = audio[:, np.arange(n)[:, None] * HOP + np.arange(WINDOW)]
    angles = 2 * np.pi * hertz(np.arange(len(self.vocabulary))) * np.arange(WINDOW)[:, None] / RATE
    parts = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    energy = sum(jnp.square(frames @ p) for p in parts) / (WINDOW / 2) ** 2
    energy = jnp.where(real[..., None], energy, 0.0)
    if self.reach:
      side = np.ones(2 * self.reach + 1, np.float32) / np.float32(2 * self.reach + 1)
      padded = jnp.pad(energy, ((0, 0), (self.reach, self.reach), (0, 0)))
      energy = sum(w * padded[:, i : i + n] for i, w in enumerate(side))
    scale = self.param('scale', nn.initializers.constant(400.0), (), jnp.float32)
    letters = np.array([not is_special(s) for s in self.vocabulary])
    logits = jnp.where(letters, scale * energy, -10.0).at[..., self.blank].set(4.0)
    certain = jnp.where(jnp.arange(len(self.vocabulary)) == self.blank, 0.0, -jnp.inf)
    return {'logits': jnp.where(real[..., None], logits, certain), 'frame_mask': real}


def speak(text, rate=RATE, symbols=CHARACTERS, loud=0.3):
  """Samples f32 that say a text: a tone of 60 ms a letter with 40 ms of silence behind it."""
  t = np.arange(round(TONE * rate)) / rate
  quiet = np.zeros(round(PAUSE * rate))
  letters = [BOUNDARY if x == ' ' else x for x in text] + [BOUNDARY]
  parts = [loud * np.sin(2 * np.pi * hertz(symbols.index(x)) * t) for x in letters]
  return np.concatenate([x for part in parts for x in (part, quiet)] or [quiet]).astype(np.float32)


def variables(model):
  """The one weight of the toy."""
  return {'params': {'scale': np.float32(400.0)}}

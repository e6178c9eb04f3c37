"""Mixtures of clips of a batch at drawn levels (EnCodec, arXiv 2210.13438, §4.1).

Dimensions: b batch, t samples.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from research.errors import InputError
from research.features.spectral import Array

SOURCES = 3  # of a mixture, at most


def add_sources(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  count: Int[Array, 'b'],
  gain: Float[Array, 'k b'],
) -> Float[jax.Array, 'b t']:
  """Every clip, and in the first `count` - 1 of the places before it in the batch other clips.

  A mixture that leaves [-1, 1] is rejected: the clip stays as it is. So are samples behind its
  mask.

  Args:
    audio, audio_mask: clips.
    count: clips in each mixture, 1 to k.
    gain: factor of each of them.
  """
  audio, audio_mask = jnp.asarray(audio), jnp.asarray(audio_mask)
  sounds = jnp.where(audio_mask, audio, 0.0)
  mixed = jnp.zeros_like(sounds)
  for i in range(len(gain)):
    factor = jnp.where(jnp.asarray(count) > i, jnp.asarray(gain)[i], 0.0).astype(audio.dtype)
    mixed += factor[:, None] * jnp.roll(sounds, i, axis=0)
  mixed = jnp.where(audio_mask, mixed, 0.0)
  clipped = jnp.abs(mixed).max(axis=1, keepdims=True) > 1.0
  return jnp.where(audio_mask & ~clipped, mixed, audio)


def mix_sources(
  key: PRNGKeyArray,
  batch: Mapping[str, Any],
  *,
  two: float = 0.24,
  three: float = 0.12,
  low: float = -10.0,
  high: float = 6.0,
) -> dict[str, Any]:
  """Clips by themselves, or mixtures of two and three of them, each at its own gain.

  Args:
    key: of the draws.
    batch: 'audio', 'audio_mask'.
    two, three: probabilities of such a mixture.
    low, high: dB, between which gains are drawn uniformly.

  Raises:
    InputError: probabilities above 1 in all, or low > high.
  """
  if not (two >= 0 and three >= 0 and two + three <= 1 and low <= high):
    raise InputError(
      f'mix_sources has two={two}, three={three}, low={low}, high={high}: expected probabilities '
      'of 1 at most together, and low <= high.'
    )
  rows = batch['audio'].shape[0]
  of_count, of_gain = jax.random.split(key)
  draws = jax.random.uniform(of_count, (rows,))
  count = 1 + (draws < two + three).astype(jnp.int32) + (draws < three).astype(jnp.int32)
  decibels = jax.random.uniform(of_gain, (SOURCES, rows), minval=low, maxval=high)
  audio = add_sources(batch['audio'], batch['audio_mask'], count, 10.0 ** (decibels / 20.0))
  return {**batch, 'audio': audio}

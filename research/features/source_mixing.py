"""Mixtures of clips of a batch at drawn levels (EnCodec, arXiv 2210.13438, §4.1), with noise, and
with the sources that a model is to find again.

Dimensions: b batch, t samples, k sources.
"""

import math
from collections.abc import Mapping, Sequence
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


# -- Mixtures with their sources: enhancement and separation ---------------------------------------


def at_ratio(
  signal: Float[Array, 'b t'], other: Float[Array, 'b t'], ratio: Float[Array, 'b']
) -> Float[jax.Array, 'b t']:
  """`other` at a level at which the energy of `signal` is `ratio` dB above its own; zeros where it
  is silent."""
  energy, power = (jnp.square(x).sum(axis=1) for x in (signal, other))
  wanted = energy / 10.0 ** (jnp.asarray(ratio) / 10.0)
  scale = jnp.where(power > 0, jnp.sqrt(wanted / jnp.where(power > 0, power, 1.0)), 0.0)
  return scale[:, None] * other


def add_noise(
  key: PRNGKeyArray,
  batch: Mapping[str, Any],
  *,
  noise_prob: float = 1.0,
  snr: Sequence[float] = (-5.0, 20.0),
  level: Sequence[float] = (0.0, 0.0),
) -> dict[str, Any]:
  """Adds the field `noise` to clips, and keeps them as the sources that are to be found again.

  Args:
    key: of the draws.
    batch: 'audio', 'audio_mask', 'noise', 'noise_mask'; short noise is repeated. Where it has
      'sources' (of `reverberate`, or a field), they stay, at the level of the clip.
    noise_prob: probability that a clip gets noise.
    snr: dB, between which energies over real samples are drawn.
    level: dB, by which mixture and sources are raised together, drawn too.

  Raises:
    InputError: a range that is none, or no noise.
  """
  _check('add_noise', noise_prob, snr=snr, level=level)
  if 'noise' not in batch:
    raise InputError('add_noise needs noise: set config.data.fields.noise to a folder or data set.')
  mask, noise_mask = (jnp.asarray(batch[name]) for name in ('audio_mask', 'noise_mask'))
  audio = jnp.where(mask, jnp.asarray(batch['audio']), 0.0).astype(jnp.float32)
  rows, t = audio.shape
  of_prob, of_ratio, of_level, of_start = jax.random.split(key, 4)
  size = jnp.maximum(noise_mask.sum(axis=1), 1)[:, None]
  start = jax.random.randint(of_start, (rows, 1), 0, size)
  noise = jnp.where(noise_mask, jnp.asarray(batch['noise']), 0.0).astype(jnp.float32)
  noise = jnp.take_along_axis(noise, (jnp.arange(t) + start) % size, axis=1)
  ratio = jax.random.uniform(of_ratio, (rows,), minval=snr[0], maxval=snr[1])
  added = at_ratio(audio, jnp.where(mask, noise, 0.0), ratio)
  noisy = jax.random.bernoulli(of_prob, noise_prob, (rows, 1))
  return _mixture(of_level, batch, audio + jnp.where(noisy, added, 0.0), audio[:, None], level)


def remix_noise(
  key: PRNGKeyArray,
  batch: Mapping[str, Any],
  *,
  snr: Sequence[float] | None = None,
  level: Sequence[float] = (0.0, 0.0),
) -> dict[str, Any]:
  """Gives every clip the noise of another of the batch: what is left of a mixture without its
  sources is moved on by a drawn number of rows (Remix of Defossez et al., arXiv 2006.12847).

  Args:
    key: of the draws.
    batch: 'audio', 'audio_mask' and 'sources' [b, k, t].
    snr: dB, between which the energy of the sources over that noise is drawn; None leaves levels.
    level: dB, by which mixture and sources are raised together, drawn too.

  Raises:
    InputError: a range that is none, or no sources.
  """
  _check('remix_noise', 1.0, level=level, **({} if snr is None else {'snr': snr}))
  if 'sources' not in batch:
    raise InputError("remix_noise needs sources: set config.data.fields.sources, as to 'clean'.")
  mask, sources = jnp.asarray(batch['audio_mask']), jnp.asarray(batch['sources'])
  sources = jnp.where(mask[:, None], sources, 0.0).astype(jnp.float32)
  clean = sources.sum(axis=1)
  noise = jnp.where(mask, jnp.asarray(batch['audio']).astype(jnp.float32) - clean, 0.0)
  of_shift, of_ratio, of_level = jax.random.split(key, 3)
  noise = jnp.roll(noise, jax.random.randint(of_shift, (), 0, len(noise)), axis=0)
  noise = jnp.where(mask, noise, 0.0)
  if snr is not None:
    ratio = jax.random.uniform(of_ratio, (len(noise),), minval=snr[0], maxval=snr[1])
    noise = at_ratio(clean, noise, ratio)
  return _mixture(of_level, batch, clean + noise, sources, level)


def mix_speakers(
  key: PRNGKeyArray,
  batch: Mapping[str, Any],
  *,
  count: int = 2,
  ratio: Sequence[float] = (-5.0, 5.0),
) -> dict[str, Any]:
  """Every clip with those before it in the batch over it, which become its sources too. A shorter
  one ends earlier, a longer one is cut. Nothing prevents that two clips are of one speaker.

  Args:
    key: of the draws.
    batch: 'audio', 'audio_mask'.
    count: clips in a mixture.
    ratio: dB, between which the energy of a clip over each of the others is drawn.

  Raises:
    InputError: a range that is none, or fewer than two clips in a mixture.
  """
  _check('mix_speakers', 1.0, ratio=ratio)
  if count < 2:
    raise InputError(f'mix_speakers has count={count}: expected clips of a mixture, 2 or more.')
  mask = jnp.asarray(batch['audio_mask'])
  audio = jnp.where(mask, jnp.asarray(batch['audio']), 0.0).astype(jnp.float32)
  ratios = jax.random.uniform(key, (count, len(audio)), minval=ratio[0], maxval=ratio[1])
  parts = [audio]
  for i in range(1, count):
    other = jnp.where(mask, jnp.roll(audio, i, axis=0), 0.0)
    parts.append(at_ratio(audio, other, ratios[i]))
  sources = jnp.stack(parts, axis=1)
  return {**batch, 'audio': sources.sum(axis=1), 'sources': sources}


def _mixture(
  key: PRNGKeyArray,
  batch: Mapping[str, Any],
  audio: Float[Array, 'b t'],
  sources: Float[Array, 'b k t'],
  level: Sequence[float],
) -> dict[str, Any]:
  """The batch with a mixture, zeros behind its mask, and its sources, where it has none before."""
  decibels = jax.random.uniform(key, (len(audio), 1), minval=level[0], maxval=level[1])
  gain = 10.0 ** (decibels / 20.0)
  sources = jnp.asarray(batch['sources']) if 'sources' in batch else sources
  mask = jnp.asarray(batch['audio_mask'])[:, None]
  sources = jnp.where(mask, sources, 0.0)
  return {**batch, 'audio': gain * audio, 'sources': gain[:, None] * sources}


def _check(name: str, probability: float, **ranges: Sequence[float]) -> None:
  if not 0.0 <= probability <= 1.0:
    raise InputError(f'{name} has the probability {probability}: expected 0 to 1.')
  for key, ends in ranges.items():
    numbers = len(ends) == 2 and all(isinstance(x, int | float) for x in ends)
    if not numbers or not -math.inf < ends[0] <= ends[1] < math.inf:
      raise InputError(f'{name} has {key} {ends}: expected two numbers in dB, low, high.')


def add_noise_needs(args: Mapping[str, Any]) -> dict[str, str]:
  """Fields that `add_noise` reads, and what to do if one is missing."""
  del args
  return {'noise': 'add_noise needs noise: set config.data.fields.noise to a folder or data set.'}


def remix_noise_needs(args: Mapping[str, Any]) -> dict[str, str]:
  """Fields that `remix_noise` reads, and what to do if one is missing."""
  del args
  return {'sources': "remix_noise needs sources: set config.data.fields.sources, as to 'clean'."}

"""Utterance mixing of WavLM: adds a stretch of noise or of another clip to part of a clip.

Labels stay those of the original clip: the model learns to ignore the interference. Chen et al.,
WavLM (arXiv 2110.13900); microsoft/unilm, utterance_mixing_dataset.py.

Dimensions: b batch, t samples.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from research.errors import InputError
from research.features import spectral
from research.features.spectral import Array


class Draws(NamedTuple):
  """Random draws for every row of a batch.

  Attributes:
    mixed: whether the row is mixed.
    noisy: whether the interference is noise; if False, it is another row.
    partner: index of that row, possibly the row itself.
    snr: mean power of the row over that of the interference, dB.
    length: length of the stretch, samples.
    source: start of the stretch in the interference, samples.
    target: start of the stretch in the row, samples.
  """

  mixed: Bool[Array, 'b']
  noisy: Bool[Array, 'b']
  partner: Int[Array, 'b']
  snr: Float[Array, 'b']
  length: Int[Array, 'b']
  source: Int[Array, 'b']
  target: Int[Array, 'b']


def mix_stretches(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  draws: Draws,
  noise: Float[Array, 'b t'] | None = None,
  noise_mask: Bool[Array, 'b t'] | None = None,
) -> Float[jax.Array, 'b t']:
  """Adds a stretch of interference to every mixed row, row by row: a later row may get a part of an
  earlier row that is already mixed.

  The stretch is scaled so that the whole rows have the drawn ratio of mean powers over their real
  samples; a silent one adds nothing. Samples behind the mask do not change.

  Args:
    audio, audio_mask: clips; real samples come first.
    draws: see `Draws`.
    noise, noise_mask: noise for every row; required if any draw is noisy.
  """
  audio, audio_mask = jnp.asarray(audio), jnp.asarray(audio_mask)
  mixed, drawn_noisy, partner, snr, length, source, start = map(jnp.asarray, draws)
  b, t = audio.shape
  signal, size = spectral.masked_float(audio, audio_mask), spectral.clip_lengths(audio_mask)
  if noise is None or noise_mask is None:
    hum, hum_size, noisy = None, size, jnp.zeros(b, bool)
  else:
    hum, hum_size = spectral.masked_float(noise, noise_mask), spectral.clip_lengths(noise_mask)
    noisy = drawn_noisy
  reference = _power(signal, size)
  other_size = jnp.where(noisy, hum_size, size[partner])

  # Position of the stretch in a row, and the rotation that moves the interference there.
  position, target = jnp.arange(t), start[:, None]
  inside = (position >= target) & (position < target + length[:, None])
  inside &= audio_mask & mixed[:, None]
  turn = (source - start) % t

  # Row by row would need b exchanges between devices. Instead, all rows that do not depend on an
  # unfinished earlier row are mixed at once. The result is the same: later rows and unmixed rows
  # are still unchanged. A few rounds are enough for any batch.
  behind = ~noisy & (partner < jnp.arange(b))

  def mix(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    current, waiting = state
    due = waiting & ~(behind & waiting[partner])
    other = current[partner]
    if hum is not None:
      other = jnp.where(noisy[:, None], hum, other)
    power = _power(other, other_size) * 10.0 ** (snr / 10.0)
    scale = jnp.where(power > 0, jnp.sqrt(reference / jnp.where(power > 0, power, 1.0)), 0.0)
    added = scale[:, None] * _turned(other, turn)
    return jnp.where(inside & due[:, None], current + added, current), waiting & ~due

  out, _ = jax.lax.while_loop(lambda state: state[1].any(), mix, (signal, mixed))
  return jnp.where(inside, out.astype(audio.dtype), audio)


def _power(signal: Float[jax.Array, 'b t'], size: Int[jax.Array, 'b']) -> Float[jax.Array, 'b']:
  """Mean square of the first `size` samples; the rest are zeros."""
  return jnp.sum(jnp.square(signal), axis=1) / jnp.maximum(size, 1).astype(jnp.float32)


def _turned(signal: Float[jax.Array, 'b t'], turn: Int[jax.Array, 'b']) -> Float[jax.Array, 'b t']:
  """Rotates every row to the left by its number of samples."""
  t = signal.shape[1]
  # A slice of the doubled row is a contiguous copy; a gather by index would not be.
  return jax.vmap(lambda row, start: jax.lax.dynamic_slice(row, (start,), (t,)))(
    jnp.concatenate([signal, signal], axis=1), turn
  )


def draw(
  key: PRNGKeyArray,
  size: Int[Array, 'b'],
  noise_size: Int[Array, 'b'] | None = None,
  *,
  prob: float,
  noise_prob: float,
  snr: Sequence[float],
  noise_snr: Sequence[float],
  divisor: int,
) -> Draws:
  """Draws for clips of `size` real samples and noise of `noise_size`; other arguments are those of
  `mix_utterances`."""
  size = jnp.asarray(size)
  rows = size.shape
  keys = jax.random.split(key, 8)
  mixed = jax.random.bernoulli(keys[0], prob, rows)
  # Rows without audio come last: they fill up a batch.
  partner = jax.random.randint(keys[1], rows, 0, jnp.maximum((size > 0).sum(), 1))
  ratio = jax.random.uniform(keys[2], rows, jnp.float32, snr[0], snr[1])
  noisy, there = jnp.zeros(rows, bool), size[partner]
  if noise_size is not None:
    noisy = jax.random.bernoulli(keys[3], noise_prob, rows)
    noise_ratio = jax.random.uniform(keys[4], rows, jnp.float32, noise_snr[0], noise_snr[1])
    ratio = jnp.where(noisy, noise_ratio, ratio)
    there = jnp.where(noisy, jnp.asarray(noise_size), there)
  length = jnp.minimum(jax.random.randint(keys[5], rows, 0, size // divisor + 1), there)
  source = jax.random.randint(keys[6], rows, 0, there - length + 1)
  target = jax.random.randint(keys[7], rows, 0, size - length + 1)
  return Draws(mixed, noisy, partner, ratio, length, source, target)


def mix_utterances(
  key: PRNGKeyArray,
  batch: Mapping[str, Any],
  *,
  prob: float = 0.2,
  noise_prob: float = 0.0,
  snr: Sequence[float] = (-5.0, 5.0),
  noise_snr: Sequence[float] = (-5.0, 20.0),
  divisor: int = 2,
) -> dict[str, Any]:
  """Adds a stretch of another clip of the batch, or of noise, to some clips.

  The length of the stretch is uniform in 0 to 1 / `divisor` of the clip's real samples; its
  positions in both clips are uniform. Without padding this is the published procedure. With
  padding, the published code counts padding in lengths and mean powers, and does not cut noise to
  the length of the batch. Published batches are normalised before and again after mixing; here the
  front-end in the model normalises after it. `snr` is a ratio, so only the means differ.

  Args:
    key: random key.
    batch: with `audio`, `audio_mask`, and with noise_prob also `noise`, `noise_mask` (of
      `config.data.fields.noise`). Only `audio` changes; labels and units do not. `clip_stats` of
      mixed clips become NaN.
    prob: probability that a clip is mixed. 0.2 in the paper, 0.5 by default in the published task.
    noise_prob: probability that a mixed clip is mixed with noise. 0 for WavLM Base, 0.1 for Base+
      and Large.
    snr: range (low, high) of the power ratio of a clip to another clip, dB.
    noise_snr: the same for noise.
    divisor: the maximum length of a stretch is 1 / divisor of the clip.

  Raises:
    InputError: invalid values, or noise_prob without noise in the batch.
  """
  for name, value in (('prob', prob), ('noise_prob', noise_prob)):
    if not 0.0 <= value <= 1.0:
      raise InputError(f'mix_utterances has {name} {value}: expected a probability, 0 to 1.')
  for name, ends in (('snr', snr), ('noise_snr', noise_snr)):
    numbers = len(ends) == 2 and all(isinstance(x, int | float) for x in ends)
    if not numbers or not -math.inf < ends[0] <= ends[1] < math.inf:
      raise InputError(f'mix_utterances has {name} {ends}: expected two numbers in dB, low, high.')
  if divisor < 1:
    raise InputError(f'mix_utterances has divisor {divisor}: expected a whole number of 1 or more.')
  if noise_prob and 'noise' not in batch:
    raise InputError(
      f'mix_utterances has noise_prob {noise_prob}, but the batch holds no noise: set '
      'config.data.fields.noise to a data set or a folder of audio.'
    )
  noise = noise_mask = noise_size = None
  if noise_prob:
    noise, noise_mask = batch['noise'], batch['noise_mask']
    noise_size = spectral.clip_lengths(noise_mask)
  draws = draw(
    key,
    spectral.clip_lengths(batch['audio_mask']),
    noise_size,
    prob=prob,
    noise_prob=noise_prob,
    snr=snr,
    noise_snr=noise_snr,
    divisor=divisor,
  )
  mixed = mix_stretches(batch['audio'], batch['audio_mask'], draws, noise, noise_mask)
  out = {**batch, 'audio': mixed}
  if 'clip_stats' in batch:
    # As published, a mixed crop is normalised by its own statistics.
    out['clip_stats'] = jnp.where(draws.mixed[:, None], jnp.nan, batch['clip_stats'])
  return out


def mix_utterances_needs(args: Mapping[str, Any]) -> dict[str, str]:
  """Fields that `mix_utterances` reads with these arguments, and what to do if one is missing."""
  if not args.get('noise_prob'):
    return {}
  return {
    'noise': 'An augmentation has noise_prob above 0, but there is no noise: set '
    'config.data.fields.noise to a data set or a folder of audio, or noise_prob to 0.'
  }

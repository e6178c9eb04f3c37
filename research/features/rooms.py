"""Rooms: clips convolved with impulse responses, drawn or measured.

Drawn responses are a direct path and noise that decays exponentially behind it (Polack's model;
Lebart, Boucher and Denbigh, Acta Acustica 87, 2001). Letters: b batch, t samples, r samples of a
response.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from research.errors import InputError
from research.features.spectral import Array


def response(
  noise: Float[Array, 'b r'], t60: Float[Array, 'b'], drr: Float[Array, 'b'], rate: float
) -> Float[jax.Array, 'b r']:
  """A pulse of 1 at the first sample, and noise behind it that falls by 60 dB in `t60` seconds.

  Args:
    noise: white.
    t60: seconds.
    drr: energy of the pulse over that of the noise, dB.
    rate: Hz.
  """
  n = jnp.arange(noise.shape[1], dtype=jnp.float32)
  decay = jnp.exp(-math.log(1000.0) * n / (jnp.asarray(t60)[:, None] * rate))
  tail = jnp.where(n > 0, noise * decay, 0.0)
  energy = jnp.maximum(jnp.square(tail).sum(axis=1), 1e-12) * 10.0 ** (jnp.asarray(drr) / 10.0)
  return jnp.where(n == 0, 1.0, tail * jax.lax.rsqrt(energy)[:, None])


def convolve(audio: Float[Array, 'b t'], responses: Float[Array, 'b r']) -> Float[jax.Array, 'b t']:
  """The first t samples of every clip convolved with its response."""
  t = audio.shape[1]
  size = 1 << (t + responses.shape[1] - 1).bit_length()
  spectra = jnp.fft.rfft(audio, size) * jnp.fft.rfft(responses, size)
  return jnp.fft.irfft(spectra, size)[:, :t]


def reverberate(
  key: PRNGKeyArray,
  batch: Mapping[str, Any],
  *,
  prob: float = 0.5,
  t60: Sequence[float] = (0.2, 0.8),
  drr: Sequence[float] = (0.0, 12.0),
  early: float = 0.05,
  sample_rate: int = 16_000,
  responses: str | None = None,
) -> dict[str, Any]:
  """Puts some clips into rooms. With what arrives within `early` seconds they are the 'sources'
  that are to be found again: the rest of the room is to be taken away.

  Args:
    key: of the draws.
    batch: 'audio', 'audio_mask'.
    prob: probability that a clip is in a room.
    t60: seconds, between which reverberation times are drawn; the second is the length of a
      response.
    drr: dB, between which direct-to-reverberant ratios are drawn.
    early: seconds behind the direct path that stay in the sources.
    sample_rate: Hz, of the clips.
    responses: a field of measured responses, which are taken in the place of drawn ones: from the
      loudest sample on, which becomes 1.

  Raises:
    InputError: numbers that cannot be, or no such field.
  """
  good = 0 < t60[0] <= t60[1] and drr[0] <= drr[1] and 0 <= prob <= 1 and early >= 0
  if len(t60) != 2 or len(drr) != 2 or not good:
    raise InputError(
      f'reverberate has prob={prob}, t60={t60}, drr={drr}, early={early}: expected a probability, '
      'two ranges low, high, and seconds.'
    )
  mask = jnp.asarray(batch['audio_mask'])
  audio = jnp.where(mask, jnp.asarray(batch['audio']), 0.0).astype(jnp.float32)
  rows, length = len(audio), math.ceil(t60[1] * sample_rate)
  of_prob, of_noise, of_time, of_ratio = jax.random.split(key, 4)
  if responses is None:
    time = jax.random.uniform(of_time, (rows,), minval=t60[0], maxval=t60[1])
    ratio = jax.random.uniform(of_ratio, (rows,), minval=drr[0], maxval=drr[1])
    found = response(jax.random.normal(of_noise, (rows, length)), time, ratio, sample_rate)
  else:
    if responses not in batch:
      raise InputError(f'reverberate reads the field {responses!r}, which the batch lacks.')
    given = jnp.where(jnp.asarray(batch[f'{responses}_mask']), jnp.asarray(batch[responses]), 0.0)
    found = _from_peak(given.astype(jnp.float32))[:, :length]
  wet = jax.random.bernoulli(of_prob, prob, (rows, 1))
  near = jnp.arange(found.shape[1]) < max(1, round(early * sample_rate))

  def heard(r: Array) -> Array:
    return jnp.where(mask, jnp.where(wet, convolve(audio, r), audio), 0.0)

  sources = heard(jnp.where(near, found, 0.0))[:, None]
  return {**batch, 'audio': heard(found), 'sources': sources}


def _from_peak(x: Float[Array, 'b r']) -> Float[jax.Array, 'b r']:
  """Responses from their loudest sample on, which becomes 1; a silent one is a pulse."""
  first = jnp.abs(x).argmax(axis=1)[:, None]
  place = jnp.arange(x.shape[1]) + first
  moved = jnp.take_along_axis(x, jnp.minimum(place, x.shape[1] - 1), axis=1)
  moved = jnp.where(place < x.shape[1], moved, 0.0)
  peak = moved[:, :1]
  pulse = (jnp.arange(x.shape[1]) == 0).astype(x.dtype)
  return jnp.where(peak == 0, pulse, moved / jnp.where(peak == 0, 1.0, peak))


def reverberate_needs(args: Mapping[str, Any]) -> dict[str, str]:
  """Fields that `reverberate` reads with these arguments, and what to do if one is missing."""
  name = args.get('responses')
  if name is None:
    return {}
  return {
    name: f'reverberate has responses={name!r}: set config.data.fields.{name} to '
    "dict(name='noise', args=dict(source=FOLDER, crop='start'))."
  }

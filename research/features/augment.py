"""Augmentations of waveforms and spectrograms.

Each comes as a pure function of explicit draws (published draws give the published result) and as a
function of a key that makes the draws. The functions in AUGMENTATIONS map batches to batches,
`(key, batch, **args) -> batch`; training configs name them. SpecAug and noise work on spectrograms,
inside a model. Numbers from facebookresearch/AudioMAE, dataset.py.

Dimensions: b batch, t samples, s spectrogram frames, f mel bins, c classes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from research.errors import InputError
from research.features import spectral
from research.features.mixing import mix_utterances, mix_utterances_needs
from research.features.rooms import reverberate, reverberate_needs
from research.features.source_mixing import (
  add_noise,
  add_noise_needs,
  mix_sources,
  mix_speakers,
  remix_noise,
  remix_noise_needs,
)
from research.features.spectral import Array

Batch = Mapping[str, Any]
# Zero crossings on each side of the filter of `change_speed`.
CROSSINGS = 6


# ---------------------------------------------------------------------------------------------
# Waveforms: explicit draws.


def apply_gain(audio: Float[Array, 'b t'], gain: Float[Array, 'b']) -> Float[jax.Array, 'b t']:
  """Multiplies every clip by its factor."""
  return jnp.asarray(audio) * jnp.asarray(gain)[:, None].astype(audio.dtype)


def change_speed(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  factor: Float[Array, 'b'],
  fastest: float = 2.0,
) -> tuple[Float[jax.Array, 'b t'], Bool[jax.Array, 'b t']]:
  """Every clip played `factor` times as fast, with pitch and formants shifted; and its new mask.

  The output has t samples: a clip is slowed only as far as it fits. The filter is a Hann-windowed
  sinc; for faster clips, frequencies above the new Nyquist frequency are removed.

  Args:
    audio, audio_mask: clips; real samples come first.
    factor: speed factor, `fastest` at most.
    fastest: maximum of `factor`; the number of taps grows with it.
  """
  audio, audio_mask = jnp.asarray(audio), jnp.asarray(audio_mask)
  t, reach = audio.shape[1], math.ceil(CROSSINGS * max(fastest, 1.0))
  size = audio_mask.sum(axis=1).astype(jnp.float32)
  factor = jnp.maximum(jnp.asarray(factor, jnp.float32), size / t)

  # Position of each new sample among the old ones, and the taps around it.
  at = jnp.arange(t, dtype=jnp.float32) * factor[:, None]
  first = jnp.floor(at).astype(jnp.int32)
  stretch = jnp.maximum(factor, 1.0)[:, None]
  padded = jnp.pad(jnp.where(audio_mask, audio, 0.0), ((0, 0), (reach, reach)))
  out = jnp.zeros(audio.shape, jnp.float32)
  for tap in range(1 - reach, reach + 1):
    values = jnp.take_along_axis(padded, jnp.clip(first + tap, -reach, t) + reach, axis=1)
    distance = (at - (first + tap).astype(jnp.float32)) / stretch
    window = jnp.square(jnp.cos(jnp.clip(distance / CROSSINGS, -1.0, 1.0) * (jnp.pi / 2)))
    out += values * jnp.sinc(distance) * window / stretch

  new_size = jnp.minimum(jnp.round(size / factor).astype(jnp.int32), t)
  mask = jnp.arange(t) < new_size[:, None]
  return jnp.where(mask, out, 0.0).astype(audio.dtype), mask


def subtract_mean(
  audio: Float[Array, 'b t'], audio_mask: Bool[Array, 'b t']
) -> Float[jax.Array, 'b t']:
  """Every clip minus its mean over real samples, float32; 0 behind the mask."""
  signal = spectral.masked_float(audio, audio_mask)
  count = jnp.maximum(spectral.clip_lengths(audio_mask), 1).astype(jnp.float32)
  return jnp.where(
    jnp.asarray(audio_mask), signal - (jnp.sum(signal, axis=1) / count)[:, None], 0.0
  )


def mix_waveforms(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  partner: Float[Array, 'b t'],
  partner_mask: Bool[Array, 'b t'],
  weight: Float[Array, 'b'],
) -> Float[jax.Array, 'b t']:
  """weight * audio + (1 - weight) * partner, with means subtracted before and after.

  The partner is zero-padded or cut to the length of the first clip. The mask of the first clip is
  that of the mix.
  """
  weight = jnp.asarray(weight)[:, None]
  mixed = weight * subtract_mean(audio, audio_mask) + (1 - weight) * subtract_mean(
    partner, partner_mask
  )
  return subtract_mean(mixed, audio_mask)


def mix_labels(
  label: Float[Array, 'b c'], partner_label: Float[Array, 'b c'], weight: Float[Array, 'b']
) -> Float[jax.Array, 'b c']:
  """weight * label + (1 - weight) * partner's label; a label of both clips stays 1."""
  weight = jnp.asarray(weight)[:, None]
  return weight * jnp.asarray(label) + (1 - weight) * jnp.asarray(partner_label)


# ---------------------------------------------------------------------------------------------
# Waveforms: batches, by key.


def gain(
  key: PRNGKeyArray, batch: Batch, *, alpha: float = 10.0, beta: float = 10.0, offset: float = 0.5
) -> dict[str, Any]:
  """Multiplies each clip by offset + Beta(alpha, beta): 0.5 to 1.5 with the published values.

  roll_mag_aug in the published code, whose roll is always by 0 samples and is left out here.
  """
  draws = jax.random.beta(key, alpha, beta, (batch['audio'].shape[0],), jnp.float32)
  return {**batch, 'audio': apply_gain(batch['audio'], draws + offset)}


def speed(
  key: PRNGKeyArray, batch: Batch, *, low: float = 0.9, high: float = 1.1
) -> dict[str, Any]:
  """Plays each clip faster by a factor between `low` and `high`, uniform in its logarithm.

  Speed perturbation (Ko et al., Audio augmentation for speech recognition, Interspeech 2015: 0.9, 1
  and 1.1). Clips that fill the batch are not slowed, see `change_speed`.

  Raises:
    InputError: not 0.5 <= low <= high <= 2.
  """
  if not 0.5 <= low <= high <= 2.0:
    raise InputError(f'speed has low {low} and high {high}: expected 0.5 <= low <= high <= 2.')
  rows = batch['audio'].shape[0]
  factor = jnp.exp(jax.random.uniform(key, (rows,), minval=math.log(low), maxval=math.log(high)))
  audio, mask = change_speed(batch['audio'], batch['audio_mask'], factor, high)
  return {**batch, 'audio': audio, 'audio_mask': mask}


def mixup(
  key: PRNGKeyArray,
  batch: Batch,
  *,
  rate: float = 0.5,
  alpha: float = 10.0,
  beta: float = 10.0,
  num_classes: int | None = None,
) -> dict[str, Any]:
  """Mixes waveforms and labels of a random fraction `rate` of the clips.

  Each is mixed with the previous clip of the (shuffled) batch, with a weight Beta(alpha, beta). For
  other clips only the mean is subtracted.

  Args:
    key: random key.
    batch: with `audio`, `audio_mask` and optionally `label`, multi-hot float [b, c] or integer [b].
    rate: probability that a clip is mixed.
    alpha, beta: parameters of the weight's distribution.
    num_classes: required if `label` is integer; mixed labels are soft, [b, c].

  Raises:
    InputError: integer labels without num_classes, or a rate that is not a probability.
  """
  if not 0.0 <= rate <= 1.0:
    raise InputError(f'rate of mixup is {rate}: expected a probability, 0 to 1.')
  audio, audio_mask = jnp.asarray(batch['audio']), jnp.asarray(batch['audio_mask'])
  weight_key, choice_key = jax.random.split(key)
  weight = jax.random.beta(weight_key, alpha, beta, (audio.shape[0],), jnp.float32)
  weight = jnp.where(jax.random.bernoulli(choice_key, rate, weight.shape), weight, 1.0)

  # A roll by one moves a single clip between devices; a permutation would gather the batch on all.
  def partner(x):
    return jnp.roll(x, 1, axis=0)

  mixed = mix_waveforms(audio, audio_mask, partner(audio), partner(audio_mask), weight)
  out = {**batch, 'audio': mixed.astype(audio.dtype)}
  if 'label' in batch:
    label = _soft_labels(jnp.asarray(batch['label']), num_classes)
    out['label'] = mix_labels(label, partner(label), weight)
  return out


def _soft_labels(label: jax.Array, num_classes: int | None) -> Float[jax.Array, 'b c']:
  """Labels as float32 [b, c]."""
  if label.ndim == 2:
    return label.astype(jnp.float32)
  if num_classes is None:
    raise InputError(
      'mixup got integer labels without num_classes: give num_classes, or multi-hot labels.'
    )
  return jax.nn.one_hot(label, num_classes, dtype=jnp.float32)


# ---------------------------------------------------------------------------------------------
# Spectrograms: explicit draws.


def spec_augment(
  spectrogram: Float[Array, 'b s f'], draws: Float[Array, 'b 4'], *, freq: int, time: int
) -> Float[jax.Array, 'b s f']:
  """SpecAug: zeros in one frequency band and one time span.

  torchaudio FrequencyMasking, then TimeMasking: width = u * limit, start = int(u' * (size -
  width)), end = start + int(width). Published on log-mel before normalisation, after padding to the
  model's length: masked values are 0, not silence.

  Args:
    spectrogram: un-normalised.
    draws: U[0, 1) per clip: frequency width, frequency start, time width, time start.
    freq: maximum width in bins.
    time: maximum width in frames.
  """
  spectrogram, draws = jnp.asarray(spectrogram), jnp.asarray(draws).astype(jnp.float32)
  freq_hole = _hole(draws[:, 0], draws[:, 1], freq, spectrogram.shape[2])[:, None, :]
  time_hole = _hole(draws[:, 2], draws[:, 3], time, spectrogram.shape[1])[:, :, None]
  return jnp.where(freq_hole | time_hole, jnp.zeros((), spectrogram.dtype), spectrogram)


def _hole(
  width_draw: jax.Array, start_draw: jax.Array, limit: int, size: int
) -> Bool[jax.Array, 'b size']:
  """True inside [start, start + int(width))."""
  width = width_draw * float(limit)
  start = (start_draw * (float(size) - width)).astype(jnp.int32)[:, None]
  position = jnp.arange(size, dtype=jnp.int32)
  return (position >= start) & (position < start + width.astype(jnp.int32)[:, None])


def noise_and_roll(
  spectrogram: Float[Array, 'b s f'],
  noise: Float[Array, 'b s f'],
  scale: Float[Array, 'b'],
  shift: Int[Array, 'b'],
) -> Float[jax.Array, 'b s f']:
  """Adds noise * scale / 10 and rolls each clip by its number of frames.

  Published on the normalised spectrogram.
  """
  noisy = jnp.asarray(spectrogram) + jnp.asarray(noise) * jnp.asarray(scale)[:, None, None] / 10.0
  frames = noisy.shape[1]
  source = (
    jnp.arange(frames, dtype=jnp.int32) - jnp.asarray(shift).astype(jnp.int32)[:, None]
  ) % frames
  return jnp.take_along_axis(noisy, source[:, :, None], axis=1)


# ---------------------------------------------------------------------------------------------
# Spectrograms: by key.


def random_spec_augment(
  key: PRNGKeyArray, spectrogram: Float[Array, 'b s f'], *, freq: int, time: int
) -> Float[jax.Array, 'b s f']:
  """`spec_augment` with random draws per clip. AudioSet fine-tuning: 48 and 192."""
  draws = jax.random.uniform(key, (spectrogram.shape[0], 4), jnp.float32)
  return spec_augment(spectrogram, draws, freq=freq, time=time)


def spec_augment_in_training(
  batch: Mapping[str, Any],
  make_rng: Callable[[str], PRNGKeyArray],
  spectrogram: Float[Array, 'b s f'],
  *,
  freq: int,
  time: int,
) -> Float[jax.Array, 'b s f']:
  """`spec_augment` with the draws 'spec_augment_u' of the batch, else of rng 'augment'; as it is
  where both limits are 0."""
  if not (freq or time):
    return jnp.asarray(spectrogram)
  if 'spec_augment_u' in batch:
    return spec_augment(spectrogram, batch['spec_augment_u'], freq=freq, time=time)
  return random_spec_augment(make_rng('augment'), spectrogram, freq=freq, time=time)


def random_noise_and_roll(
  key: PRNGKeyArray, spectrogram: Float[Array, 'b s f'], *, reach: int = 10
) -> Float[jax.Array, 'b s f']:
  """`noise_and_roll` with random draws per clip, on a normalised spectrogram.

  Noise and its strength are U[0, 1); the roll is a whole number of frames in [-reach, reach). Of
  src/dataloader.py of AST and dataset.py of AudioMAE.
  """
  noise_key, scale_key, shift_key = jax.random.split(key, 3)
  rows = (spectrogram.shape[0],)
  noise = jax.random.uniform(noise_key, spectrogram.shape, jnp.float32)
  scale = jax.random.uniform(scale_key, rows, jnp.float32)
  shift = jax.random.randint(shift_key, rows, -reach, reach)
  return noise_and_roll(spectrogram, noise, scale, shift)


# Augmentations of training configs: (key, batch, **args) -> batch.
AUGMENTATIONS: dict[str, Callable[..., dict[str, Any]]] = {
  'gain': gain,
  'speed': speed,
  'mixup': mixup,
  'mix_utterances': mix_utterances,
  'mix_sources': mix_sources,
  'add_noise': add_noise,
  'remix_noise': remix_noise,
  'mix_speakers': mix_speakers,
  'reverberate': reverberate,
}
# Fields of a batch that they read: (args) -> {field: what to do if it is missing}.
NEEDS = {
  'mix_utterances': mix_utterances_needs,
  'add_noise': add_noise_needs,
  'remix_noise': remix_noise_needs,
  'reverberate': reverberate_needs,
}


def needs(name: str, args: Mapping[str, Any]) -> dict[str, str]:
  """The fields that an augmentation reads with these arguments, and what to do if missing."""
  return NEEDS[name](args) if name in NEEDS else {}

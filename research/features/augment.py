"""Augmentations of waveforms and spectrograms.

Each is a pure function of explicit draws (a published draw gives the published result) and a
function of a key that draws for a batch. The ones in AUGMENTATIONS take and give a whole batch,
`(key, batch, **args) -> batch`: a training config names them. SpecAug and noise work on
spectrograms, inside a model. Numbers from facebookresearch/AudioMAE, dataset.py.

Shape letters: b batch, t samples, s spectrogram frames, f mel bins, c classes.
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
from research.features.spectral import Array

Batch = Mapping[str, Any]
# Zero crossings of the filter of `change_speed` to each side.
CROSSINGS = 6


# ---------------------------------------------------------------------------------------------
# Waveforms: explicit draws.


def apply_gain(audio: Float[Array, 'b t'], gain: Float[Array, 'b']) -> Float[jax.Array, 'b t']:
  """Every clip times its own factor."""
  return jnp.asarray(audio) * jnp.asarray(gain)[:, None].astype(audio.dtype)


def change_speed(
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  factor: Float[Array, 'b'],
  fastest: float = 2.0,
) -> tuple[Float[jax.Array, 'b t'], Bool[jax.Array, 'b t']]:
  """Every clip played `factor` times as fast, pitch and formants with it, and its new mask.

  Clips keep their place in t samples: one that would not fit any more is slowed only as far as it
  does. The filter is a sinc under a Hann window; what a faster clip would have above half the
  sample rate is cut off.

  Args:
    audio, audio_mask: clips; real samples come first.
    factor: of the speed, up to `fastest`.
    fastest: how fast any clip gets: the number of taps grows with it.
  """
  audio, audio_mask = jnp.asarray(audio), jnp.asarray(audio_mask)
  t, reach = audio.shape[1], math.ceil(CROSSINGS * max(fastest, 1.0))
  size = audio_mask.sum(axis=1).astype(jnp.float32)
  factor = jnp.maximum(jnp.asarray(factor, jnp.float32), size / t)

  # Where each new sample is among the old ones, and the taps around it.
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
  """weight * audio + (1 - weight) * partner, without means before and after.

  The partner is zero-padded or cut to the length of the first clip, whose mask stays the mask of
  the mix.
  """
  weight = jnp.asarray(weight)[:, None]
  mixed = weight * subtract_mean(audio, audio_mask) + (1 - weight) * subtract_mean(
    partner, partner_mask
  )
  return subtract_mean(mixed, audio_mask)


def mix_labels(
  label: Float[Array, 'b c'], partner_label: Float[Array, 'b c'], weight: Float[Array, 'b']
) -> Float[jax.Array, 'b c']:
  """weight * label + (1 - weight) * partner's label; a label both clips have sums to 1."""
  weight = jnp.asarray(weight)[:, None]
  return weight * jnp.asarray(label) + (1 - weight) * jnp.asarray(partner_label)


# ---------------------------------------------------------------------------------------------
# Waveforms: batches, by key.


def gain(
  key: PRNGKeyArray, batch: Batch, *, alpha: float = 10.0, beta: float = 10.0, offset: float = 0.5
) -> dict[str, Any]:
  """Multiplies each clip by offset + Beta(alpha, beta): 0.5 to 1.5 with the published values.

  The published code calls it roll_mag_aug; its roll is always by 0 samples, so there is none.
  """
  draws = jax.random.beta(key, alpha, beta, (batch['audio'].shape[0],), jnp.float32)
  return {**batch, 'audio': apply_gain(batch['audio'], draws + offset)}


def speed(
  key: PRNGKeyArray, batch: Batch, *, low: float = 0.9, high: float = 1.1
) -> dict[str, Any]:
  """Plays each clip faster by a factor between `low` and `high`, uniform in its logarithm.

  Speech of another rate and of another voice (Ko et al., Audio augmentation for speech recognition,
  Interspeech 2015: 0.9, 1 and 1.1). Clips that fill the batch are not slowed, see `change_speed`.

  Raises:
    InputError: a range that is none, or that reaches beyond half or double speed.
  """
  if not 0.5 <= low <= high <= 2.0:
    raise InputError(f'The speeds are {low} to {high}: expected 0.5 <= low <= high <= 2.')
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
  """Mixes a share `rate` of the clips, waveforms and labels.

  Each is mixed with the clip before it in the (shuffled) batch, with a weight Beta(alpha, beta).
  Clips that are not mixed only lose their mean.

  Args:
    key: random key.
    batch: with `audio`, `audio_mask` and optionally `label`, multi-hot float [b, c] or integer [b].
    rate: probability that a clip is mixed.
    alpha, beta: of the weight's distribution.
    num_classes: needed when `label` is integer: the labels of the mix are soft, [b, c].

  Raises:
    InputError: integer labels without num_classes, or a rate that is not a probability.
  """
  if not 0.0 <= rate <= 1.0:
    raise InputError(f'The rate of mixup is {rate}: expected a probability, 0 to 1.')
  audio, audio_mask = jnp.asarray(batch['audio']), jnp.asarray(batch['audio_mask'])
  weight_key, choice_key = jax.random.split(key)
  weight = jax.random.beta(weight_key, alpha, beta, (audio.shape[0],), jnp.float32)
  weight = jnp.where(jax.random.bernoulli(choice_key, rate, weight.shape), weight, 1.0)

  # A roll by one sends a single clip from device to device; a permutation would gather the batch
  # everywhere.
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
      'mixup got integer labels and does not know how many classes there are: give it num_classes, '
      'or multi-hot labels.'
    )
  return jax.nn.one_hot(label, num_classes, dtype=jnp.float32)


# ---------------------------------------------------------------------------------------------
# Spectrograms: explicit draws.


def spec_augment(
  spectrogram: Float[Array, 'b s f'], draws: Float[Array, 'b 4'], *, freq: int, time: int
) -> Float[jax.Array, 'b s f']:
  """SpecAug: zeros in one band of frequencies and one stretch of time.

  torchaudio FrequencyMasking, then TimeMasking: width = u * limit, start = int(u' * (size -
  width)), end = start + int(width). Published on log-mel before normalisation, after padding to the
  model's length: the hole is 0, not silence.

  Args:
    spectrogram: un-normalised.
    draws: U[0, 1) per clip: frequency width, frequency start, time width, time start.
    freq: limit of the width in bins.
    time: limit of the width in frames.
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
  """Adds noise * scale / 10 and rolls each clip by its own number of frames.

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
  """`spec_augment` with draws of its own for each clip. AudioSet fine-tuning: 48 and 192."""
  draws = jax.random.uniform(key, (spectrogram.shape[0], 4), jnp.float32)
  return spec_augment(spectrogram, draws, freq=freq, time=time)


# What a training config may name: (key, batch, **args) -> batch.
AUGMENTATIONS: dict[str, Callable[..., dict[str, Any]]] = {
  'gain': gain,
  'speed': speed,
  'mixup': mixup,
  'mix_utterances': mix_utterances,
}
# Fields of a batch that they read: (args) -> {field: what to do where it is absent}.
NEEDS = {'mix_utterances': mix_utterances_needs}


def needs(name: str, args: Mapping[str, Any]) -> dict[str, str]:
  """The fields that an augmentation reads with these arguments, with what to do without them."""
  return NEEDS[name](args) if name in NEEDS else {}

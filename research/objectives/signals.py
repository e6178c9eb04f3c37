"""Objectives of models that give the signals of a mixture as waveforms, in any order: enhancement
(one signal) and separation.

Letters: b batch, k signals, t samples, n frames, f bins. Signals of a batch are 'sources' [b, k,
t]: of the field `sources`, or of an augmentation that mixes.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.errors import InputError
from research.objectives.permutation import orders

Metrics = dict[str, Float[Array, '']]
EPS = 1e-8
# Augmentations that give sources.
MIXERS = ('add_noise', 'mix_speakers')


def si_sdr(
  estimate: Float[Array, '... t'], reference: Float[Array, '... t'],
  real: Bool[Array, '... t'],
) -> Float[Array, '...']:  # fmt: skip
  """10 log10(|a s|^2 / |a s - e|^2) with a = <e, s> / |s|^2, of signals without their means over
  real samples, in dB (arXiv 1811.02508)."""
  count = jnp.maximum(real.sum(axis=-1, keepdims=True), 1).astype(jnp.float32)

  def centred(x: Array) -> Array:
    x = jnp.where(real, x.astype(jnp.float32), 0.0)
    return jnp.where(real, x - x.sum(axis=-1, keepdims=True) / count, 0.0)

  e, s = centred(estimate), centred(reference)
  target = (e * s).sum(-1, keepdims=True) / (jnp.square(s).sum(-1, keepdims=True) + EPS) * s
  power, error = jnp.square(target).sum(-1), jnp.square(e - target).sum(-1)
  return 10.0 * (jnp.log10(power + EPS) - jnp.log10(error + EPS))


def negative_si_sdr(
  out: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[Float[Array, ''], Metrics]:
  """min over orders of the sources of -SI-SDR, mean over signals and clips (Conv-TasNet, arXiv
  1809.07454, with permutation invariance, 1607.00325).

  Args:
    out: 'estimates' [b, k, t].
    batch: 'sources' [b, k, t], 'audio' and 'audio_mask' [b, t]; rows with 'valid' [b] False do not
      count.

  Returns:
    loss, and metrics 'si_sdr', minus the loss, and 'si_sdr_improvement', over that of the mixture.
  """
  estimates, sources, real = _signals(out, batch)
  both = real[:, None, None]
  each = si_sdr(estimates[:, :, None], sources[:, None], both)  # [b, output, source]
  loss = _best(-each, batch)[0]
  mixture = jnp.asarray(batch['audio'])[:, None]
  before = _mean(si_sdr(mixture, sources, real[:, None]).mean(axis=1), batch)
  return loss, {'si_sdr': -loss, 'si_sdr_improvement': -loss - before}


def compressed_spectra(
  out: Mapping[str, Any],
  batch: Mapping[str, Any],
  *,
  n_fft: int = 320,
  hop: int = 160,
  power: float = 1.0,
  magnitude: float = 0.0,
  sdr: float = 0.0,
) -> tuple[Float[Array, ''], Metrics]:
  """min over orders of the sources of mean |S - S'|^2 + magnitude mean (|S| - |S'|)^2, S and S'
  being spectra of signals and estimates whose magnitudes are raised to `power`.

  With the defaults the objective of complex spectral mapping (Tan and Wang, TASLP 2020). Magnitude
  terms: Wang, Wichern and Le Roux, arXiv 2010.01703; power 0.3: Braun and Tashev, 2009.12286.

  Args:
    out: 'estimates' [b, k, t].
    batch: as of `negative_si_sdr`.
    n_fft, hop: samples of a Hann window, a multiple of the second, and from one to the next.
    power: of magnitudes.
    magnitude: weight of their error.
    sdr: weight of -SI-SDR in the same order, whose unit is dB.

  Returns:
    loss, and metrics 'spectral_loss' (without the last term) and 'si_sdr'.
  """
  if n_fft % hop or not power > 0:
    raise ValueError(f'compressed_spectra: n_fft={n_fft}, hop={hop}, power={power}.')
  estimates, sources, real = _signals(out, batch)
  frames = jnp.arange(1 + real.shape[1] // hop) * hop < real.sum(axis=1)[:, None]
  found, wanted = (_spectra(x, n_fft, hop, power) for x in (estimates, sources))
  # Every output against every source, [b, output, source].
  error = _error(found[0][:, :, None], wanted[0][:, None], frames)
  error += magnitude * _error(found[1][:, :, None], wanted[1][:, None], frames)
  ratios = si_sdr(estimates[:, :, None], sources[:, None], real[:, None, None])
  loss, order = _best(error - sdr * ratios if sdr else error, batch)
  spectral, ratio = (_mean(_ordered(x, order), batch) for x in (error, ratios))
  return loss, {'spectral_loss': spectral, 'si_sdr': ratio}


def check_negative_si_sdr(config: Any) -> None:
  """Refuses a run whose batches have no sources."""
  mixes = any(item['name'] in MIXERS for item in config.get('augment', ()))
  if 'sources' not in config['data'].get('fields', {}) and not mixes:
    raise InputError(
      f'{config["objective"]["name"]} compares with the signals of a mixture, and there are none: '
      "set config.data.fields.sources, for instance to 'clean' of superb_se or dict(columns=['s1', "
      f"'s2']) of superb_ss, or add an augmentation that mixes ({', '.join(MIXERS)})."
    )


def check_compressed_spectra(config: Any) -> None:
  """As `check_negative_si_sdr`."""
  check_negative_si_sdr(config)


# -- Parts -----------------------------------------------------------------------------------------


def _signals(out: Mapping[str, Any], batch: Mapping[str, Any]) -> tuple[Array, Array, Array]:
  estimates = out['estimates'].astype(jnp.float32)
  real, sources = jnp.asarray(batch['audio_mask']), jnp.asarray(batch['sources'])
  if estimates.shape != sources.shape:
    raise InputError(
      f'The model gives {estimates.shape[1]} signals, and a batch has {sources.shape[1]} sources: '
      'set config.model.args.signals to their number.'
    )
  return estimates, jnp.where(real[:, None], sources.astype(jnp.float32), 0.0), real


def _best(error: Float[Array, 'b k k'], batch: Mapping[str, Any]) -> tuple[Array, Array]:
  """The mean over clips of the smallest error of all orders, and the order of each, [b, k]."""
  every = jnp.asarray(orders(error.shape[-1]))
  each = error[:, jnp.arange(error.shape[-1]), every].mean(axis=-1)  # [b, orders]
  return _mean(each.min(axis=1), batch), every[each.argmin(axis=1)]


def _ordered(values: Float[Array, 'b k k'], order: Array) -> Float[Array, ' b']:
  return jnp.take_along_axis(values, order[:, :, None], axis=2)[..., 0].mean(axis=1)


def _mean(each: Float[Array, ' b'], batch: Mapping[str, Any]) -> Float[Array, '']:
  weight = batch['valid'] if 'valid' in batch else jnp.ones(len(each), bool)
  weight = jnp.asarray(weight).astype(jnp.float32)
  return (each * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def _spectra(
  x: Float[Array, 'b k t'], n_fft: int, hop: int, power: float
) -> tuple[Float[Array, 'b k n f 2'], Float[Array, 'b k n f 1']]:
  """Compressed real and imaginary parts, and magnitudes; frames are centred on multiples of hop."""
  count, parts = 1 + x.shape[-1] // hop, n_fft // hop
  side = n_fft // 2
  total = (count + parts - 1) * hop
  x = jnp.pad(x, ((0, 0), (0, 0), (side, max(0, total - side - x.shape[-1]))))[..., :total]
  blocks = x.reshape(*x.shape[:2], -1, hop)
  # Not by indices, whose gradient adds up sample by sample.
  frames = jnp.concatenate([blocks[:, :, i : i + count] for i in range(parts)], axis=-1)
  window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
  spectra = jnp.fft.rfft(frames * window)
  pairs = jnp.stack([spectra.real, spectra.imag], axis=-1)
  size = jnp.sqrt(jnp.square(pairs).sum(axis=-1, keepdims=True) + 1e-10)
  return pairs * size ** (power - 1.0), size**power


def _error(x: Array, y: Array, frames: Bool[Array, 'b n']) -> Float[Array, 'b k k']:
  each = jnp.square(x - y).sum(axis=-1).mean(axis=-1)  # [b, k, k, n]
  count = jnp.maximum(frames.sum(axis=1), 1).astype(jnp.float32)
  return jnp.where(frames[:, None, None], each, 0.0).sum(axis=-1) / count[:, None, None]

"""Objectives of models that predict the next sample of a waveform (WaveNet, arXiv 1609.03499;
mixtures of logistics: PixelCNN++, 1701.05517, as r9y9/wavenet_vocoder has them), and of VQ-VAE
(1711.00937), which does so from codes.

Letters: b batch, t samples, v classes, m components, s frames, f mel bins.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from research.errors import InputError

Metrics = dict[str, Float[Array, '']]


def sample_codes(
  out: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[Float[Array, ''], Metrics]:
  """-log p(x_t | x_<t), mean over samples, of categorical distributions over codes.

  Args:
    out: 'logits' [b, t, v]; 'targets' int [b, t], the code that each predicts, negative where none
      is to be predicted.
    batch: rows with 'valid' [b] False do not count.

  Returns:
    loss in nats, and metrics 'bits_per_sample', 'accuracy' and 'sample_size', the number of
    samples.
  """
  logits, targets = out['logits'].astype(jnp.float32), jnp.asarray(out['targets'])
  if logits.ndim != 3 or targets.shape != logits.shape[:2]:
    raise ValueError(
      f'sample_codes: logits {logits.shape} must be [b, t, v], targets {targets.shape} [b, t].'
    )
  weight, total = _weights(targets >= 0, batch)
  labels = jnp.maximum(targets, 0)
  chosen = jnp.take_along_axis(logits, labels[:, :, None], axis=2)[:, :, 0]
  loss = ((jax.nn.logsumexp(logits, axis=-1) - chosen) * weight).sum() / total
  right = (logits.argmax(-1) == labels).astype(jnp.float32)
  return loss, {
    'bits_per_sample': loss / np.float32(np.log(2)),
    'accuracy': (right * weight).sum() / total,
    'sample_size': weight.sum(),
  }


def sample_logistics(
  out: Mapping[str, Any],
  batch: Mapping[str, Any],
  *,
  classes: int = 65_536,
  log_scale_min: float = -16.0,
) -> tuple[Float[Array, ''], Metrics]:
  """-log p(x_t | x_<t), mean over samples, of mixtures of logistics over `classes` levels.

  Args:
    out: 'logistics' [b, t, 3 m]: logits, means and log scales; 'samples' [b, t], the sample that
      each predicts; 'predicted' bool [b, t], False where none is to be predicted.
    batch: rows with 'valid' [b] False do not count.
    classes: number of levels in [-1, 1].
    log_scale_min: floor of log scales.

  Returns:
    loss in nats, and metrics 'bits_per_sample', 'mean_log_scale' (of the likeliest component) and
    'sample_size', the number of samples.
  """
  params, samples = out['logistics'].astype(jnp.float32), jnp.asarray(out['samples'])
  if params.ndim != 3 or params.shape[-1] % 3 or samples.shape != params.shape[:2]:
    raise ValueError(
      f'sample_logistics: logistics {params.shape} must be [b, t, 3 m], samples {samples.shape} '
      '[b, t].'
    )
  weight, total = _weights(out['predicted'], batch)
  each = logistics_nll(params, samples, classes, log_scale_min)
  loss = (each * weight).sum() / total
  logits, _, scales = jnp.split(params, 3, axis=-1)
  likeliest = jnp.take_along_axis(scales, logits.argmax(-1, keepdims=True), axis=-1)[..., 0]
  return loss, {
    'bits_per_sample': loss / np.float32(np.log(2)),
    'mean_log_scale': (likeliest * weight).sum() / total,
    'sample_size': weight.sum(),
  }


def check_sample_logistics(config: Any) -> None:
  """Refuses other levels than those of the model."""
  args, own = config['objective']['args'], config['model']['args']
  if args.get('classes', 65_536) < 2:
    raise InputError(
      f'config.objective.args.classes is {args["classes"]}: give 65536 for 16 bits, at least 2.'
    )
  if own.get('output') == 'categorical':
    raise InputError(
      "sample_logistics reads mixtures, and config.model.args.output is 'categorical': take the "
      "objective sample_codes, or output='logistics'."
    )


def vq_vae(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, sigma: float = 0.5**0.5
) -> tuple[Float[Array, ''], Metrics]:
  """-log p(x | e) + mean |sg(z) - e|^2 + beta mean |z - sg(e)|^2 (VQ-VAE, eq. 3; means over all
  values as sonnet has them). The first term is a mean over samples, or over bins.

  Args:
    out: 'quantiser_loss', the last two terms, with 'commitment_loss', the third without beta; and
      of a waveform what `sample_codes` or `sample_logistics` (of 65,536 levels) takes, of a
      spectrogram 'mel_mean' and 'mel' [b, s, f] with 'mel_mask' [b, s].
    batch: rows with 'valid' [b] False do not count in the first term.
    sigma: of the Gaussians of bins. With the default, -log p is the squared error and a constant.

  Returns:
    loss in nats, and metrics 'codebook_loss', the last two terms, 'commitment_loss',
    'sample_size'; of a waveform 'bits_per_sample', of a spectrogram 'bits_per_bin' and 'mse'.
  """
  if 'mel_mean' not in out:
    nll, metrics = (sample_codes if 'logits' in out else sample_logistics)(out, batch)
  else:
    x, mean = (out[name].astype(jnp.float32) for name in ('mel', 'mel_mean'))
    weight, total = _weights(out['mel_mask'], batch)
    mse = (jnp.square(x - mean).mean(axis=-1) * weight).sum() / total
    nll = 0.5 * (mse / sigma**2 + np.float32(np.log(2 * np.pi * sigma**2)))
    metrics = {'bits_per_bin': nll / np.float32(np.log(2)), 'mse': mse, 'sample_size': weight.sum()}
  own = {'codebook_loss': out['quantiser_loss'], 'commitment_loss': out['commitment_loss']}
  return nll + out['quantiser_loss'], metrics | own


def logistics_nll(
  params: Float[Array, '*b k'],
  samples: Float[Array, '*b'],
  classes: int,
  log_scale_min: float,
) -> Float[Array, '*b']:
  """-log of the mass that a mixture of logistics gives the level of each sample.

  A level is 2 / (classes - 1) wide. The first and the last take all mass beyond them; where the
  mass of a level is below 1e-5, the density at its middle counts.

  Args:
    params: logits, means and log scales, m of each.
    samples: in [-1, 1].
    classes, log_scale_min: as in `sample_logistics`.
  """
  logits, means, scales = jnp.split(params, 3, axis=-1)
  scales = jnp.maximum(scales, log_scale_min)
  y = samples[..., None]
  centred, inverse, half = y - means, jnp.exp(-scales), 1.0 / (classes - 1)
  above, below = inverse * (centred + half), inverse * (centred - half)
  middle = inverse * centred
  mass = jax.nn.sigmoid(above) - jax.nn.sigmoid(below)
  density = middle - scales - 2.0 * jax.nn.softplus(middle) - np.log((classes - 1) / 2)
  inner = jnp.where(mass > 1e-5, jnp.log(jnp.maximum(mass, 1e-12)), density)
  first, last = above - jax.nn.softplus(above), -jax.nn.softplus(below)
  each = jnp.where(y < -0.999, first, jnp.where(y > 0.999, last, inner))
  return -jax.nn.logsumexp(each + jax.nn.log_softmax(logits, axis=-1), axis=-1)


def _weights(counted: Any, batch: Mapping[str, Any]) -> tuple[Array, Array]:
  counted = jnp.asarray(counted)
  if 'valid' in batch:
    counted = counted & batch['valid'][:, None]
  weight = counted.astype(jnp.float32)
  return weight, jnp.maximum(weight.sum(), 1.0)

"""A codec against its discriminator, with losses whose gradients are balanced (EnCodec, arXiv
2210.13438, §3.4).

Letters: b clips, t samples, a channels, n frames, r rows of a discriminator.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.errors import InputError
from research.objectives import codec
from research.objectives.adversarial import (
  Norms,
  balance,
  discriminator_hinge,
  feature_matching,
  generator_hinge,
  logit_gap,
)


def codec_adversarial(
  out: Mapping[str, Any], batch: Mapping[str, Any], *,
  sample_rate: int = 24_000, l1: float = 0.1, mel: float = 1.0, adversarial: float = 3.0,
  features: float = 3.0, commitment: float = 1.0, scales: Sequence[int] = (5, 12), bins: int = 64,
  decay: float = 0.999, worker_clips: int = 8,
) -> tuple[Float[Array, ''], dict[str, Any]]:  # fmt: skip
  """The losses of codec and discriminator in one.

  The codec learns by l_t (`l1`), l_f (`mel`), l_g (`adversarial`) and l_feat (`features`), whose
  gradients at the reconstruction are balanced, and by the commitment, which is not. The
  discriminator learns by its hinge loss. Neither reaches the parameters of the other.

  Args:
    out: 'reconstruction' x^ and 'target' x [b, t] or [b, t, a], 0 behind the clips;
      'quantiser_loss'; 'judged_real' and 'judged_fake', (logits, maps) of x and of x^ by the
      discriminator that learns, no gradient reaching x^; 'judge', audio -> (logits, maps) by the
      same that does not learn; 'judged_frames' [r, n], which of its frames are real; 'balancer',
      the running norms: 'totals' [4], in the order above, and 'weight'.
    batch: 'audio_mask' [b, t]; rows with 'valid' False do not count.
    sample_rate: Hz.
    l1, mel, adversarial, features, commitment: λ_t, λ_f, λ_g, λ_feat and λ_w of the paper.
    scales: (start, end) of the windows of the mel spectra.
    bins: their mel bins.
    decay: of the running norms.
    worker_clips: clips whose gradients are added, each of mean norm 1, against one commitment; over
      more clips their mean is taken. Each of the paper's eight GPUs balances 8 of 64 clips.

  Returns:
    loss: the weighted sum of all, whose gradient is the balanced one; metrics: these losses,
    'discriminator_loss', 'logit_gap', how far real and decoded audio are apart to the
    discriminator, 'si_sdr', and as 'variables' the running norms after this batch.
  """
  mask, still = batch['audio_mask'], jax.lax.stop_gradient
  valid = batch['valid'] if 'valid' in batch else jnp.ones(len(mask), bool)
  lengths = jnp.where(valid, mask.sum(axis=1), 0)
  x_hat, x = (out[name].astype(jnp.float32) for name in ('reconstruction', 'target'))
  (target, long), (fake, _) = codec.rows(x, lengths), codec.rows(still(x_hat), lengths)
  there = jnp.arange(x.shape[1]) < long[:, None]
  (real_logits, real_maps), (fake_logits, _) = out['judged_real'], out['judged_fake']
  frames = [f & jnp.repeat(valid, len(f) // len(valid))[:, None] for f in out['judged_frames']]

  # What each loss asks of the reconstruction.
  def distance(y):
    return {'l1': codec.mean_over(jnp.abs(codec.rows(y, lengths)[0] - target), there)}

  def spectra(y):
    how = dict(sample_rate=sample_rate, start=scales[0], end=scales[1], bins=bins)
    rows, _ = codec.rows(y, lengths)
    return {'mel': codec.mel_scales(rows, target, long, **how)[0]}  # type: ignore[arg-type]

  def judged(y):
    logits, maps = out['judge'](y)
    return {
      'adversarial': generator_hinge(logits, frames),
      'features': feature_matching(still(real_maps), maps, frames),
    }

  values: dict[str, Array] = {}
  gradients: dict[str, Array] = {}
  for function in (distance, spectra, judged):
    found, back = jax.vjp(function, still(x_hat))
    for name in found:
      (gradients[name],) = back({other: jnp.float32(other == name) for other in found})
    values |= found

  # Their balance, which goes on into the codec.
  weights = dict(l1=l1, mel=mel, adversarial=adversarial, features=features)
  totals = dict(zip(weights, out['balancer']['totals'], strict=True))
  norms = Norms(totals, out['balancer']['weight'])
  balanced, _, norms = balance(gradients, weights, norms, decay=decay, valid=valid)
  clips = jnp.maximum(valid.sum(), 1).astype(jnp.float32)
  surrogate = (x_hat * still(balanced * (worker_clips / clips))).sum()
  weighted = sum((weights[name] * values[name] for name in weights), jnp.float32(0.0))
  hinge = discriminator_hinge(real_logits, fake_logits, frames)
  # The surrogate has the gradient, the weighted sum the value.
  loss = still(weighted) + surrogate - still(surrogate)
  loss = loss + commitment * out['quantiser_loss'] + hinge
  kept = {'totals': jnp.stack(list(norms.totals.values())), 'weight': norms.weight}
  metrics = {
    **values,
    'commitment': out['quantiser_loss'],
    'discriminator_loss': hinge,
    'logit_gap': logit_gap(real_logits, fake_logits, frames),
    'si_sdr': codec.si_sdr(fake, target, long),
    'variables': {'balancer': still(kept)},
  }
  return loss, metrics


def check_codec_adversarial(config: Mapping[str, Any]) -> None:
  """Raises InputError where the model has no discriminator, or crops are shorter than its
  windows."""
  judge = config['model']['args'].get('discriminator')
  if not judge:
    raise InputError(
      'config.objective codec_adversarial is against a discriminator: set '
      'config.model.args.discriminator, as dict(filters=32), or take codec_reconstruction.'
    )
  seconds, rate = config['data']['seconds'], config['data']['sample_rate']
  longest = max(judge.get('n_ffts') or (2048,))
  if seconds is not None and round(seconds * rate) < longest:
    raise InputError(
      f'config.data.seconds is {seconds:g}, {round(seconds * rate)} samples, and the discriminator '
      f'has windows of {longest}: give longer crops, or shorter ones '
      '(config.model.args.discriminator.n_ffts).'
    )

"""Reconstruction of masked patches: MAE (arXiv 2111.06377), AudioMAE (arXiv 2207.06405)."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-6  # AudioMAE models_mae.py forward_loss


def normalise_patches(x: Float[Array, 'b n p']) -> Float[Array, 'b n p']:
  """(x - mean) / sqrt(var + 1e-6) of each patch, with the unbiased variance."""
  mean = x.mean(-1, keepdims=True)
  return (x - mean) / jnp.sqrt(x.var(-1, keepdims=True, ddof=1) + EPSILON)


def masked_patch_mse(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, norm_pix: bool = True
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """sum_n m_n mean_p (x^_np - x_np)^2 / sum_n m_n over all patches of the batch.

  Args:
    out: 'pred' x^ and 'target' x [b, n, p], 'mask' m [b, n] (1 = removed), 'patch_mask' bool [b, n]
      (real patches; all if it is not there); 'latent' [b, 1+m, d] and
      'latent_mask' [b, m] for the health signals.
    batch: rows with 'valid' [b] False (fillers) do not count.
    norm_pix: predict each patch normalised by its own mean and standard deviation.

  Returns:
    loss, and metrics: 'mse' (the loss); 'mask_fraction' of the real patches; 'prediction_std' and
    'target_std' over the pixels of masked patches; 'latent_std', the standard deviation of encoded
    patches, averaged over the width. A latent_std or prediction_std near 0 indicates collapse.
  """
  x_hat, x, m = (out[k].astype(jnp.float32) for k in ('pred', 'target', 'mask'))
  if x_hat.ndim != 3 or x_hat.shape != x.shape or m.shape != x.shape[:2]:
    raise ValueError(
      f'masked_patch_mse: pred {x_hat.shape} and target {x.shape} must be equal [b, n, p], mask '
      f'{m.shape} [b, n].'
    )
  valid = jnp.ones(m.shape[0]) if 'valid' not in batch else batch['valid'].astype(jnp.float32)
  real = out['patch_mask'] if 'patch_mask' in out else jnp.ones(m.shape)
  real = valid[:, None] * real.astype(jnp.float32)
  m = m * valid[:, None]
  if norm_pix:
    x = normalise_patches(x)
  total = jnp.maximum(m.sum(), 1.0)
  loss = (m * jnp.square(x_hat - x).mean(-1)).sum() / total
  metrics = {
    'mse': loss,
    'mask_fraction': m.sum() / jnp.maximum(real.sum(), 1.0),
    'prediction_std': _spread(x_hat, m).mean(),
    'target_std': _spread(x, m).mean(),
  }
  if 'latent' in out:
    used = out['latent_mask'].astype(jnp.float32) * valid[:, None]
    metrics['latent_std'] = _spread(out['latent'][:, 1:].astype(jnp.float32), used).mean()
  return loss, metrics


def _spread(x: Float[Array, 'b n d'], weight: Float[Array, 'b n']) -> Float[Array, 'd']:
  """Weighted standard deviation of every feature over examples and tokens."""
  w = weight[:, :, None] / jnp.maximum(weight.sum(), 1.0)
  mean = (w * x).sum((0, 1))
  return jnp.sqrt((w * jnp.square(x - mean)).sum((0, 1)))


def normalised_l1(
  out: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """mean |(x^ - x) / scale| over mel frames that both have: the L1 of SUPERB-SG's voice conversion,
  in the space of the target's statistics.

  Args:
    out: 'mel' x^ [b, m, f], 'mel_frames' bool [b, m], 'target_scale' [f].
    batch: 'mel' x [b, s, f], 'mel_mask' bool [b, s]; rows with 'valid' [b] False do not count.
      Where there are more frames than targets in the batch, the targets' mask counts, else that
      of the frames.

  Returns:
    loss, and the metric 'l1', which is the loss.
  """
  x_hat, x = out['mel'].astype(jnp.float32), batch['mel'].astype(jnp.float32)
  m, s = x_hat.shape[1], x.shape[1]
  if m > s:
    x_hat, real = x_hat[:, :s], jnp.asarray(batch['mel_mask'])
  else:
    x, real = x[:, :m], jnp.asarray(out['mel_frames'])
  if 'valid' in batch:
    real = real & batch['valid'][:, None]
  each = jnp.abs((x_hat - x) / out['target_scale']).mean(-1)
  weight = real.astype(jnp.float32)
  loss = jnp.where(real, each, 0.0).sum() / jnp.maximum(weight.sum(), 1.0)
  return loss, {'l1': loss}

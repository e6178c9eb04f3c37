"""Objectives of Jukebox (arXiv 2005.00341; openai/jukebox, vqvae/vqvae.py and prior/prior.py).

Letters: b batch, t samples, l levels, n codes, v vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.errors import unknown

Metrics = dict[str, Float[Array, '']]
LOSSES = ('l1', 'l2', 'linf', 'lmix')
EPSILON = 2e-3  # spectral_convergence
LN2 = np.float32(np.log(2.0))


def jukebox_vqvae(
  out: Mapping[str, Any],
  batch: Mapping[str, Any],
  *,
  loss_fn: str = 'lmix',
  lmix_l1: float = 0.0,
  lmix_l2: float = 1.0,
  lmix_linf: float = 0.02,
  linf_k: int = 2048,
  commit: float = 0.02,
  spectral: float = 0.0,
  multispectral: float = 1.0,
  use_nonrelative_specloss: bool = True,
  bandwidth: Mapping[str, float] | None = None,
) -> tuple[Float[Array, ''], Metrics]:
  """sum_l (recons_l + spectral spec_l + multispectral multispec_l + commit |z - sg(e)|^2).

  Args:
    out: 'target' x [b, t], 'sample_mask' [b, t], 'reconstructions' x^ [l, b, t], 'commit_losses'
      [l], 'spectral_norms' |S| [b], 'spectral_residuals' and 'multispectral_residuals' [l, b]:
      norms of |S^| - |S|; 'bandwidth_l1', 'bandwidth_l2', 'bandwidth_spec'.
    batch: rows with 'valid' [b] False do not count.
    loss_fn: 'l1' mean |x^ - x|, 'l2' mean (x^ - x)^2, 'linf' mean of the `linf_k` largest squares
      of each clip, 'lmix' their sum by the three weights; each over its bandwidth.
    use_nonrelative_specloss: 'spectral' is a norm over the bandwidth; else over the norm of the
      clip's own spectrum (spectral convergence).
    bandwidth: 'l1', 'l2', 'spec', instead of those that the model measures.

  Returns:
    loss, and the original's metrics, of level i as '…_l{i + 1}'; 'spectral_convergence', 'l1_loss',
    'l2_loss' and 'linf_loss' are those of level 0.
  """
  if loss_fn not in LOSSES:
    raise unknown('loss_fn of jukebox_vqvae', loss_fn, LOSSES)
  x, used = out['target'], out['sample_mask']
  if 'valid' in batch:
    used = used & batch['valid'][:, None]
  band = {name: out[f'bandwidth_{name}'] for name in ('l1', 'l2', 'spec')}
  band |= {name: jnp.float32(value) for name, value in (bandwidth or {}).items()}
  clips = used.any(axis=1)
  weights = {'l1': lmix_l1, 'l2': lmix_l2, 'linf': lmix_linf}

  def waves(x_hat: Float[Array, 'b t'], name: str) -> Float[Array, '']:
    if name == 'lmix':
      parts = [weight * waves(x_hat, part) for part, weight in weights.items() if weight]
      return sum(parts, jnp.float32(0.0))
    off = jnp.where(used, x_hat - x, 0.0)
    if name == 'linf':
      largest, _ = jax.lax.top_k(jnp.square(off), min(linf_k, x.shape[1]))
      return _mean(largest.mean(axis=1), clips) / band['l2']
    each = jnp.abs(off) if name == 'l1' else jnp.square(off)
    return each.sum() / jnp.maximum(used.sum(), 1).astype(jnp.float32) / band[name]

  norms = jax.lax.stop_gradient(out['spectral_norms'])
  loud = norms > EPSILON

  def convergence(residuals: Float[Array, ' b']) -> Float[Array, '']:
    return _mean(jnp.where(loud, residuals, 0.0) / jnp.maximum(norms, EPSILON), clips)

  metrics: Metrics = {}
  total = {
    'recons': jnp.float32(0.0),
    'spectral': jnp.float32(0.0),
    'multispectral': jnp.float32(0),
  }
  for i, x_hat in enumerate(out['reconstructions']):
    residuals = out['spectral_residuals'][i]
    relative = convergence(residuals)
    several = out['multispectral_residuals'][i]
    one = {
      'recons': waves(x_hat, loss_fn),
      'spectral': _mean(residuals, clips) / band['spec'] if use_nonrelative_specloss else relative,
      'multispectral': _mean(several, clips) / band['spec'],
    }
    metrics |= {f'{name}_loss_l{i + 1}': value for name, value in one.items()}
    total = {name: total[name] + one[name] for name in total}
    if not i:
      metrics |= {f'{name}_loss': waves(x_hat, name) for name in ('l2', 'l1', 'linf')}
      metrics['spectral_convergence'] = relative
  committed = out['commit_losses'].sum()
  loss = total['recons'] + commit * committed
  loss = loss + spectral * total['spectral'] + multispectral * total['multispectral']
  metrics |= {f'{name}_loss': value for name, value in total.items()}
  return loss, {**metrics, 'commit_loss': committed}


def _mean(x: Float[Array, ' b'], counted: Bool[Array, ' b']) -> Float[Array, '']:
  """The mean over clips that count."""
  weight = counted.astype(jnp.float32)
  return jnp.where(counted, x, 0.0).sum() / jnp.maximum(weight.sum(), 1.0)


def jukebox_prior(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, prime_loss_fraction: float = 0.4
) -> tuple[Float[Array, ''], Metrics]:
  """(fraction s prime + n gen) / (s + n): mean bits of n codes and s lyrics of a window.

  Args:
    out: 'gen_logits' [b, n, v], 'gen_targets' int [b, n], 'code_mask' [b, n]; with lyrics
      'prime_logits' [b, s, w], 'prime_targets' int [b, s].
    batch: rows with 'valid' [b] False do not count.
    prime_loss_fraction: weight of lyrics.

  Returns:
    loss in bits, and metrics 'gen_loss' (bits a code), 'code_accuracy', with lyrics 'prime_loss'
    (bits a character).
  """
  used = out['code_mask']
  valid = batch['valid'] if 'valid' in batch else jnp.ones(len(used), bool)
  bits, right = _bits(out['gen_logits'], out['gen_targets'], used & valid[:, None])
  metrics = {'gen_loss': bits, 'code_accuracy': right}
  if 'prime_logits' not in out:
    return bits, metrics
  targets = out['prime_targets']
  counted = jnp.broadcast_to(valid[:, None], targets.shape)
  prime, _ = _bits(out['prime_logits'], targets, counted)
  s, n = targets.shape[1], used.shape[1]
  loss = prime_loss_fraction * prime * (s / (s + n)) + bits * (n / (s + n))
  return loss, {**metrics, 'prime_loss': prime}


def _bits(logits, targets, counted):
  """(mean bits, fraction of best tokens that are right) of what counts."""
  logits = logits.astype(jnp.float32)
  chosen = jnp.take_along_axis(logits, targets[:, :, None], axis=2)[:, :, 0]
  each = jax.nn.logsumexp(logits, axis=-1) - chosen
  weight = counted.astype(jnp.float32)
  total = jnp.maximum(weight.sum(), 1.0)
  right = (logits.argmax(-1) == targets).astype(jnp.float32)
  return (each * weight).sum() / total / LN2, (right * weight).sum() / total

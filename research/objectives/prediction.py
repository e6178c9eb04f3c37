"""Prediction of discrete codes at masked frames (BERT, arXiv 1810.04805; vq-wav2vec, 1910.05453,
section 4; HuBERT, 2106.07447, section II-B)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.errors import InputError


def masked_codes(
  out: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """-sum_g log p(q_g) at masked frames, q_g the code of group g.

  Args:
    out: 'code_logits' [b, n, g, k]; 'codes' q int [b, n, g]; 'span_mask' [b, n], True for masked
      frames; optionally 'code_perplexity' and 'min_code_perplexity'.
    batch: rows with 'valid' [b] False (fillers) do not count.

  Returns:
    loss per masked frame, and metrics 'cross_entropy' (the loss), 'accuracy' (all groups correct)
    and 'sample_size', the number of masked frames.
  """
  logits, codes, used = out['code_logits'].astype(jnp.float32), out['codes'], out['span_mask']
  if codes.shape != logits.shape[:3] or used.shape != codes.shape[:2]:
    raise ValueError(
      f'masked_codes: code_logits {logits.shape} must be [b, n, g, k], codes {codes.shape} '
      f'[b, n, g] and span_mask {used.shape} [b, n].'
    )
  if 'valid' in batch:
    used = used & batch['valid'][:, None]
  weight = used.astype(jnp.float32)
  count = jnp.maximum(weight.sum(), 1.0)
  chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], axis=-1)[..., 0]
  loss = -jnp.where(used, chosen.sum(axis=-1), 0.0).sum() / count
  right = (jnp.argmax(logits, axis=-1) == codes).all(axis=-1)
  metrics = {
    'cross_entropy': loss,
    'accuracy': jnp.where(right, weight, 0.0).sum() / count,
    'sample_size': weight.sum(),
  }
  names = ('code_perplexity', 'min_code_perplexity')
  return loss, metrics | {name: out[name] for name in names if name in out}


def masked_units(
  out: Mapping[str, Any],
  batch: Mapping[str, Any],
  *,
  logit_temp: float = 0.1,
  pred_masked_weight: float = 1.0,
  pred_nomask_weight: float = 0.0,
  penalty: float = 10.0,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """-sum over label sets and frames of log softmax(sim(A o_t, e_z) / tau), at masked and optionally
  at unmasked frames, plus feature penalty.

  Args:
    out: 'similarities', [b, m, k] for each label set; 'unit_targets' z int [b, m, g]; 'masked'
      [b, m], True for slots with a masked frame that has a unit; optionally 'unmasked' [b, m], the
      same for unmasked frames; 'feature_penalty', mean square of the feature extractor's output.
    batch: rows with 'valid' [b] False (fillers) do not count.
    logit_temp: tau, temperature of the similarity.
    pred_masked_weight, pred_nomask_weight: weights of masked and unmasked frames.
    penalty: weight of the feature penalty (fairseq's loss_weights).

  Returns:
    loss per predicted frame (fairseq's sum over its sample_size), and metrics; 'accuracy' is that
    of masked frames and the first label set; 'sample_size' is the number of frames with a weight,
    counted once for all label sets.

  Raises:
    InputError: pred_nomask_weight is set, but the model does not predict unmasked frames.
  """
  weights = {'masked': pred_masked_weight, 'unmasked': pred_nomask_weight}
  if pred_nomask_weight and 'unmasked' not in out:
    raise InputError(
      f'pred_nomask_weight is {pred_nomask_weight}, but the model does not predict unmasked '
      'frames: set config.model.args.predict_unmasked=True.'
    )
  valid = batch['valid'][:, None] if 'valid' in batch else jnp.ones((), bool)
  used = {name: out[name] & valid for name in weights if name in out}
  metrics: dict[str, Float[Array, '']] = {}
  total, count = jnp.zeros(()), jnp.zeros(())
  for name, frames in used.items():
    found = _prediction(out, frames, logit_temp)
    num_frames = frames.astype(jnp.float32).sum()
    if weights[name]:
      total = total + weights[name] * found['cross_entropy']
      count = count + num_frames
    suffix = '' if name == 'masked' else '_unmasked'
    divisor = jnp.maximum(num_frames, 1.0)
    metrics |= {f'{key}{suffix}': value / divisor for key, value in found.items()}
  loss = total / jnp.maximum(count, 1.0) + penalty * out['feature_penalty']
  return loss, metrics | {'feature_penalty': out['feature_penalty'], 'sample_size': count}


def _prediction(
  out: Mapping[str, Any], used: Bool[Array, 'b m'], logit_temp: float
) -> dict[str, Float[Array, '']]:
  """Sums over used frames: cross entropy of all label sets, and hits of the first."""
  total, right = jnp.zeros(()), jnp.zeros(())
  for i, similarities in enumerate(out['similarities']):
    logits = similarities.astype(jnp.float32) / logit_temp
    target = jnp.maximum(out['unit_targets'][:, :, i], 0)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, :, None], axis=2)[:, :, 0]
    total = total - jnp.where(used, chosen, 0.0).sum()
    if i == 0:
      right = (used & (jnp.argmax(logits, axis=2) == target)).astype(jnp.float32).sum()
  return {'cross_entropy': total, 'accuracy': right}

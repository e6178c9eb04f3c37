"""Prediction of discrete codes at masked frames (BERT, arXiv 1810.04805; vq-wav2vec, 1910.05453,
section 4)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def masked_codes(
  out: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """-sum_g log p(q_g) at masked frames, q_g the code of group g.

  Args:
    out: 'code_logits' [b, n, g, k]; 'codes' q int [b, n, g]; 'span_mask' [b, n], the frames that
      were masked; 'code_perplexity' where the model has it.
    batch: rows with 'valid' [b] False (fillers) do not count.

  Returns:
    loss a masked frame, and metrics 'cross_entropy' (the loss), 'accuracy' (all groups right) and
    'sample_size', the number of masked frames.
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
  if 'code_perplexity' in out:
    metrics['code_perplexity'] = out['code_perplexity']
  return loss, metrics

"""Contrastive prediction of quantised frames: wav2vec 2.0 (arXiv 2006.11477, section 3.2)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-8  # torch.cosine_similarity


def wav2vec2_contrastive(
  out: Mapping[str, Any],
  batch: Mapping[str, Any],
  *,
  kappa: float = 0.1,
  diversity: float = 0.1,
  penalty: float = 10.0,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """-log softmax of sim(c_t, q_t) / kappa among K distractors, plus diversity and feature penalty.

  Args:
    out: 'context' c and 'targets' q [b, m, f] at masked frames; 'used' [b, m], which of the m
      places hold one; 'negatives' int [b, m, k], places of the distractors in the same clip;
      'codes' [b, m, g]; 'prob_perplexity', 'code_perplexity', 'num_codes'; 'feature_penalty', mean
      square of the convolutions' output. Places with the codes of the positive are no distractors.
    batch: rows with 'valid' [b] False (fillers) do not count.
    kappa, diversity, penalty: temperature of the similarity and weights of the extra losses, as
      fairseq's logit_temp and loss_weights.

  Returns:
    loss a masked frame (fairseq's sum over its sample_size), and metrics; 'sample_size' is the
    number of masked frames.
  """
  c, q = (out[name].astype(jnp.float32) for name in ('context', 'targets'))
  used = out['used']
  if 'valid' in batch:
    used &= batch['valid'][:, None]

  # All pairs of a clip, then the pairs that were drawn: m x m numbers instead of m x k vectors.
  norms = jnp.linalg.norm(c, axis=-1)[:, :, None] * jnp.linalg.norm(q, axis=-1)[:, None, :]
  pairs = jnp.einsum('bmf,bnf->bmn', c, q, precision='highest') / jnp.maximum(norms, EPSILON)
  places = jnp.arange(c.shape[1])[None, :, None]
  drawn = jnp.concatenate([jnp.broadcast_to(places, (*c.shape[:2], 1)), out['negatives']], axis=2)
  logits = jnp.take_along_axis(pairs, drawn, axis=2) / kappa
  codes = out['codes']
  same = (codes[:, :, None] == codes[:, None, :]).all(axis=-1)
  same = jnp.take_along_axis(same, out['negatives'], axis=2)
  logits = jnp.where(jnp.pad(same, ((0, 0), (0, 0), (1, 0))), -jnp.inf, logits)

  weight = used.astype(jnp.float32)
  count = jnp.maximum(weight.sum(), 1.0)
  contrastive = -(jax.nn.log_softmax(logits)[:, :, 0] * weight).sum() / count
  codes_left = (out['num_codes'] - out['prob_perplexity']) / out['num_codes']
  loss = contrastive + diversity * codes_left + penalty * out['feature_penalty']
  right = (jnp.argmax(logits, -1) == 0) & (jnp.argmin(logits, -1) != 0)
  return loss, {
    'contrastive': contrastive,
    'diversity': codes_left,
    'feature_penalty': out['feature_penalty'],
    'accuracy': jnp.where(right, weight, 0.0).sum() / count,
    'prob_perplexity': out['prob_perplexity'],
    'code_perplexity': out['code_perplexity'],
    'sample_size': weight.sum(),
  }

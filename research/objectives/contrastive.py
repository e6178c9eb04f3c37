"""Contrastive prediction of frames: wav2vec (arXiv 1904.05862, section 2.2), vq-wav2vec
(1910.05453) and wav2vec 2.0 (2006.11477, section 3.2)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.errors import InputError

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
  if 'codes' not in out:
    raise InputError(
      'wav2vec2_contrastive needs the codes of a quantiser: set config.model.args.quantise=True.'
    )
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


def wav2vec_contrastive(
  out: Mapping[str, Any],
  batch: Mapping[str, Any],
  *,
  infonce: bool = False,
  balanced: bool = False,
  quantiser: float = 0.0,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """-log s(z^T h) - sum_n log s(-z_n^T h), s the logistic function, h a prediction of frame z and
  z_n its distractors; plus the quantiser's own loss.

  Args:
    out: 'predictions' h [b, n, s, d] of every frame, 'targets' z [b, n, d]; 'negatives' int
      [b, n, k], frames of the same clip; 'used' [b, n, s], which predictions there are;
      'quantiser_loss', 'code_perplexity' and 'prob_perplexity' where the model has them.
    batch: rows with 'valid' [b] False (fillers) do not count.
    infonce: -log softmax of the frame's score among its distractors' instead.
    balanced: distractors weigh 1 / k each (fairseq's balanced_classes); not for InfoNCE.
    quantiser: weight of the quantiser's loss (fairseq's loss_weights): 1 for k-means, whose
      codebook learns from it alone.

  Returns:
    loss a prediction (fairseq's sum over its sample_size, the number of positives), and metrics;
    'accuracy' is how often the frame itself has the highest score.
  """
  h, z = (out[name].astype(jnp.float32) for name in ('predictions', 'targets'))
  used, negatives = out['used'], out['negatives']
  if 'valid' in batch:
    used = used & batch['valid'][:, None, None]
  b, n, k = negatives.shape

  # A frame and its distractors meet all its predictions at once.
  places = negatives.reshape(b, n * k, 1)
  distractors = jnp.take_along_axis(z, places, axis=1, mode='clip').reshape(b, n, k, -1)
  positive = jnp.einsum('bnsd,bnd->bns', h, z)
  negative = jnp.einsum('bnsd,bnkd->bnsk', h, distractors)

  weight = used.astype(jnp.float32)
  count = jnp.maximum(weight.sum(), 1.0)
  if infonce:
    scores = jnp.concatenate([positive[..., None], negative], axis=-1)
    each = -jax.nn.log_softmax(scores)[..., 0]
  else:
    share = 1.0 / k if balanced else 1.0
    each = jax.nn.softplus(-positive) + share * jax.nn.softplus(negative).sum(axis=-1)
  contrastive = jnp.where(used, each, 0.0).sum() / count
  right = (positive >= negative.max(axis=-1)) & (positive > negative.min(axis=-1))
  loss = contrastive
  metrics = {
    'contrastive': contrastive,
    'accuracy': jnp.where(right, weight, 0.0).sum() / count,
    'sample_size': weight.sum(),
  }
  if 'quantiser_loss' in out:
    loss = loss + quantiser * out['quantiser_loss']
    names = ('quantiser_loss', 'code_perplexity', 'prob_perplexity')
    metrics |= {name: out[name] for name in names if name in out}
  return loss, metrics

"""Contrastive prediction: of frames in wav2vec (arXiv 1904.05862, section 2.2), vq-wav2vec
(1910.05453) and wav2vec 2.0 (2006.11477, section 3.2), of captions in CLAP (2211.06687)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-8  # torch.cosine_similarity
PERPLEXITIES = (
  'code_perplexity', 'prob_perplexity', 'min_code_perplexity', 'min_prob_perplexity',
)  # fmt: skip


def wav2vec2_contrastive(
  out: Mapping[str, Any],
  batch: Mapping[str, Any],
  *,
  logit_temp: float = 0.1,
  diversity: float = 0.1,
  penalty: float = 10.0,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """-log softmax of sim(c_t, q_t) / kappa among K distractors, plus diversity and feature penalty.

  Args:
    out: 'context' c and 'targets' q [b, m, f] at masked frames; 'used' [b, m], True for slots with
      a masked frame; 'negatives' int [b, m, k], slots of the distractors in the same clip;
      'feature_penalty', mean square of the feature extractor's output. With a quantizer 'codes'
      [b, m, g], 'num_codes', 'prob_perplexity', 'code_perplexity' and the minimum of each over
      groups; without one there is no diversity term. Optional further distractors:
      'cross_negatives' int [b, m, k], slot i of clip j as j m + i; 'codebook_targets'
      [b, m, k, f] and their 'codebook_codes' [b, m, k, g].
    batch: rows with 'valid' [b] False (fillers) do not count.
    logit_temp: kappa, temperature of the similarity.
    diversity, penalty: weights of the extra losses (fairseq's loss_weights).

  Two kinds of drawn slots do not count as distractors: those with the same codes as the positive
  (without a quantizer: the same vector), and empty slots, which are drawn if a clip has only one
  masked frame. A frame with empty slots only is left out of the loss.

  Returns:
    loss per masked frame (fairseq's sum over its sample_size), and metrics; 'sample_size' is the
    number of masked frames that have distractors.
  """
  c, q = (out[name].astype(jnp.float32) for name in ('context', 'targets'))
  used = out['used']
  if 'valid' in batch:
    used &= batch['valid'][:, None]

  # Similarities of all pairs in a clip, then gather the drawn ones: m x m numbers instead of
  # m x k vectors.
  b, m, f = q.shape
  context_norm = jnp.linalg.norm(c, axis=-1)[:, :, None]
  norms = context_norm * jnp.linalg.norm(q, axis=-1)[:, None, :]
  pairs = jnp.einsum('bmf,bnf->bmn', c, q, precision='highest') / jnp.maximum(norms, EPSILON)
  # Targets are compared by their codes, or else by their vectors.
  identity = out.get('codes', q)
  equal = (identity[:, :, None] == identity[:, None, :]).all(axis=-1)
  own = jnp.broadcast_to(jnp.arange(m)[None, :, None], (b, m, 1))
  places = jnp.minimum(out['negatives'], m - 1)
  similar = [jnp.take_along_axis(pairs, jnp.concatenate([own, places], axis=2), axis=2)]
  same = [jnp.take_along_axis(equal, places, axis=2)]
  there = [jnp.take_along_axis(used[:, None], places, axis=2) & (places == out['negatives'])]

  # Distractors from other clips and from the codebook are given as vectors.
  def compare(vectors: Float[Array, 'b m k f']) -> Float[Array, 'b m k']:
    products = jnp.einsum('bmf,bmkf->bmk', c, vectors, precision='highest')
    return products / jnp.maximum(context_norm * jnp.linalg.norm(vectors, axis=-1), EPSILON)

  if 'cross_negatives' in out:
    places = jnp.minimum(out['cross_negatives'], b * m - 1)
    similar.append(compare(q.reshape(b * m, f)[places]))
    same.append((identity.reshape(b * m, -1)[places] == identity[:, :, None]).all(axis=-1))
    there.append(used.reshape(b * m)[places] & (places == out['cross_negatives']))
  if 'codebook_targets' in out:
    similar.append(compare(out['codebook_targets'].astype(jnp.float32)))
    same.append((out['codebook_codes'] == out['codes'][:, :, None]).all(axis=-1))
    there.append(jnp.ones(same[-1].shape, bool))

  exists = jnp.concatenate(there, axis=2)
  none = jnp.concatenate(same, axis=2) | ~exists
  logits = jnp.concatenate(similar, axis=2) / logit_temp
  logits = jnp.where(jnp.pad(none, ((0, 0), (0, 0), (1, 0))), -jnp.inf, logits)
  weight = (used & exists.any(axis=2)).astype(jnp.float32)
  count = jnp.maximum(weight.sum(), 1.0)
  contrastive = -(jax.nn.log_softmax(logits)[:, :, 0] * weight).sum() / count
  right = (jnp.argmax(logits, -1) == 0) & (jnp.argmin(logits, -1) != 0)
  loss = contrastive + penalty * out['feature_penalty']
  metrics = {
    'contrastive': contrastive,
    'feature_penalty': out['feature_penalty'],
    'accuracy': jnp.where(right, weight, 0.0).sum() / count,
    'sample_size': weight.sum(),
  }
  if 'codes' in out:
    unused = (out['num_codes'] - out['prob_perplexity']) / out['num_codes']
    loss = loss + diversity * unused
    metrics |= {'diversity': unused} | {name: out[name] for name in PERPLEXITIES if name in out}
  return loss, metrics


def wav2vec_contrastive(
  out: Mapping[str, Any],
  batch: Mapping[str, Any],
  *,
  infonce: bool = False,
  balanced_classes: bool = False,
  quantiser: float = 0.0,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """-log s(z^T h) - sum_n log s(-z_n^T h), s the logistic function, h a prediction of frame z and
  z_n its distractors; plus the quantizer's loss.

  Args:
    out: 'predictions' h [b, n, s, d] of every frame, 'targets' z [b, n, d]; 'negatives' int
      [b, n, k], frames of the same clip; 'used' [b, n, s], True for valid predictions;
      'quantiser_loss' and perplexities (over all groups, and the minimum over groups) if the model
      has a quantizer.
    batch: rows with 'valid' [b] False (fillers) do not count.
    infonce: use -log softmax of the frame's score among its distractors instead.
    balanced_classes: weigh each distractor 1 / k; not for InfoNCE.
    quantiser: weight of the quantizer's loss (fairseq's loss_weights): 1 for k-means, whose
      codebook is trained by it alone.

  Returns:
    loss per prediction (fairseq's sum over its sample_size, the number of positives), and metrics;
    'accuracy' is the fraction of frames with a higher score than all their distractors.
  """
  h, z = (out[name].astype(jnp.float32) for name in ('predictions', 'targets'))
  used, negatives = out['used'], out['negatives']
  if 'valid' in batch:
    used = used & batch['valid'][:, None, None]
  b, n, k = negatives.shape

  # Each frame and its distractors are scored against all predictions of the frame at once.
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
    negative_weight = 1.0 / k if balanced_classes else 1.0
    each = jax.nn.softplus(-positive) + negative_weight * jax.nn.softplus(negative).sum(axis=-1)
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
    names = ('quantiser_loss', *PERPLEXITIES)
    metrics |= {name: out[name] for name in names if name in out}
  return loss, metrics


def audio_text_contrastive(
  out: Mapping[str, Any],
  batch: Mapping[str, Any],
  *,
  transformed: bool = False,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """(1 / 2n) sum_i -log softmax_j(s a_i.t_j)_i - log softmax_j(s t_i.a_j)_i: every clip against the
  captions of the whole batch, and every caption against its clips.

  The batch is the global one: on a mesh of devices all captions and clips are gathered, gradients
  through them too (LAION-CLAP's gather_with_grad).

  Args:
    out: 'audio_embedding' a and 'text_embedding' t [b, d], normalised; 'logit_scale' s [1 or 2].
      With `transformed` also 'audio_transformed' and 'text_transformed' [b, d].
    batch: rows with 'valid' [b] False (fillers) do not count, neither as one of the others.
    transformed: the mean of two losses: clips against transformed captions with the first factor,
      and transformed clips against captions with the second (LAION's mlp_loss).

  Returns:
    loss, and metrics: 'audio_to_text' and 'text_to_audio', fractions of clips and captions whose
    own caption or clip is the nearest, and 'logit_scale'.

  Raises:
    ValueError: unequal numbers of clips and captions.
  """
  a, t = (out[f'{side}_embedding'].astype(jnp.float32) for side in ('audio', 'text'))
  if a.shape != t.shape:
    raise ValueError(
      f'audio_text_contrastive: {a.shape} clips and {t.shape} captions, expected as many.'
    )
  scale = out['logit_scale']
  valid = batch['valid'] if 'valid' in batch else jnp.ones(len(a), bool)
  weight = valid.astype(jnp.float32)
  count = jnp.maximum(weight.sum(), 1.0)

  def nearest(x, y, factor):
    """(loss, fraction of rows whose own column is the nearest) of x against all y."""
    logits = factor * jnp.einsum('id,jd->ij', x, y, precision='highest')
    logits = jnp.where(valid[None, :], logits, -jnp.inf)
    own = jnp.diagonal(jax.nn.log_softmax(logits))
    right = logits.argmax(axis=1) == jnp.arange(len(x))
    return -jnp.where(valid, own, 0.0).sum() / count, jnp.where(right, weight, 0.0).sum() / count

  if transformed:
    ta, tt = (out[f'{side}_transformed'].astype(jnp.float32) for side in ('audio', 'text'))
    pairs = [(a, tt, scale[0]), (tt, a, scale[0]), (ta, t, scale[-1]), (t, ta, scale[-1])]
  else:
    pairs = [(a, t, scale[0]), (t, a, scale[0])]
  found = [nearest(*pair) for pair in pairs]
  loss = sum((each for each, _ in found), jnp.float32(0.0)) / len(found)
  metrics = {
    'contrastive': loss,
    'audio_to_text': found[0][1],
    'text_to_audio': found[1][1],
    'logit_scale': scale[0],
  }
  return loss, metrics

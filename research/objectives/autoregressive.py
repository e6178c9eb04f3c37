"""Objectives of models that predict the next token."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.errors import InputError
from research.objectives.supervised import ctc

# log of the weight of no symbol beside those of symbols (arXiv 2108.10447, released code).
BLANK = -1.0
Metrics = dict[str, Float[Array, '']]


def next_tokens(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, label_smoothing: float = 0.0
) -> tuple[Float[Array, ''], Metrics]:
  """-sum_v q_v log p_v, mean over targets, q = (1 - s) target + s / v: teacher forcing.

  Args:
    out: 'logits' [b, u, v] behind every token.
    batch: 'tokens' int [b, u]; 'targets' int [b, u], what each logit predicts, negative where
      nothing is to be predicted. Without 'targets' they are the tokens, one to the left. Rows with
      'valid' [b] False do not count.
    label_smoothing: s, in [0, 1).

  Returns:
    loss, and metrics 'cross_entropy' (without smoothing), 'token_accuracy', 'sample_size' (number
    of targets).
  """
  logits, targets = out['logits'].astype(jnp.float32), batch.get('targets')
  if targets is None:
    tokens = jnp.asarray(batch['tokens'])
    targets = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
  targets = jnp.asarray(targets)
  if logits.ndim != 3 or targets.shape != logits.shape[:2]:
    raise ValueError(
      f'next_tokens: logits {logits.shape} must be [b, u, v], targets {targets.shape} [b, u].'
    )
  counted = targets >= 0
  if 'valid' in batch:
    counted = counted & batch['valid'][:, None]
  labels = jnp.maximum(targets, 0)
  norm = jax.nn.logsumexp(logits, axis=-1)
  each = norm - jnp.take_along_axis(logits, labels[:, :, None], axis=2)[:, :, 0]
  weight = counted.astype(jnp.float32)
  total = jnp.maximum(weight.sum(), 1.0)
  cross_entropy = (each * weight).sum() / total
  loss = cross_entropy
  if label_smoothing:
    even = ((norm - logits.mean(-1)) * weight).sum() / total
    loss = (1.0 - label_smoothing) * cross_entropy + label_smoothing * even
  right = (logits.argmax(-1) == labels).astype(jnp.float32)
  return loss, {
    'cross_entropy': cross_entropy,
    'token_accuracy': (right * weight).sum() / total,
    'sample_size': weight.sum(),
  }


def next_codes(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, alignment: float = 0.0
) -> tuple[Float[Array, ''], Metrics]:
  """-log p of the codes of the next step, mean over codes of all codebooks (arXiv 2306.05284, §2).

  With `alignment` a also a * -log of the sum over all monotonic ways through a text, a symbol's
  mean over clips: attention of steps that meets every symbol in order (arXiv 2108.10447, eq. 4; of
  language models of codes arXiv 2406.17957).

  Args:
    out: 'logits' [b, s, g, v], -inf for codes that there are not; 'targets' int [b, s, g], negative
      where nothing is to be predicted; for `alignment` 'alignment' [b, s, u], the log of how much
      steps attend to symbols, 'real' [b, s] and 'text_real' [b, u], which of them there are.
    batch: rows with 'valid' [b] False do not count.
    alignment: a.

  Returns:
    loss, and metrics 'cross_entropy' (nats a code), 'first_cross_entropy' of the first codebook,
    'accuracy' and 'sample_size', the number of codes; with `alignment` 'alignment_loss' too.

  Raises:
    InputError: `alignment` of a model without texts.
  """
  logits, targets = out['logits'].astype(jnp.float32), jnp.asarray(out['targets'])
  if logits.ndim != 4 or targets.shape != logits.shape[:3]:
    raise ValueError(
      f'next_codes: logits {logits.shape} must be [b, s, g, v], targets {targets.shape} [b, s, g].'
    )
  counted = targets >= 0
  if 'valid' in batch:
    counted = counted & batch['valid'][:, None, None]
  labels = jnp.maximum(targets, 0)
  # Where nothing is counted the label may be a code that there is not.
  chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  each = jnp.where(counted, jax.nn.logsumexp(logits, axis=-1) - chosen, 0.0)
  weight = counted.astype(jnp.float32)
  total, first = jnp.maximum(weight.sum(), 1.0), jnp.maximum(weight[:, :, 0].sum(), 1.0)
  loss = each.sum() / total
  right = (logits.argmax(-1) == labels).astype(jnp.float32)
  metrics = {
    'cross_entropy': loss,
    'first_cross_entropy': each[:, :, 0].sum() / first,
    'accuracy': (right * weight).sum() / total,
    'sample_size': weight.sum(),
  }
  if not alignment:
    return loss, metrics
  if 'alignment' not in out:
    raise InputError(
      f'next_codes got alignment={alignment} for a model without texts: set config.model.args.text.'
    )
  way = monotonic_alignment(out, batch)
  return loss + alignment * way, metrics | {'alignment_loss': way}


def monotonic_alignment(out: Mapping[str, Any], batch: Mapping[str, Any]) -> Float[Array, '']:
  """-log of the sum over monotonic alignments of steps with the symbols of a text, a symbol's mean
  over clips (arXiv 2108.10447, eq. 4): CTC whose classes are the places in the text. Clips without
  their text, and those with fewer steps than symbols, give 0. See `next_codes`."""
  scores = out['alignment'].astype(jnp.float32)
  places = jnp.arange(1, scores.shape[2] + 1)
  logits = jnp.pad(scores, ((0, 0), (0, 0), (1, 0)), constant_values=BLANK)
  # Symbols that are not there are no class.
  classes = jnp.pad(out['text_real'], ((0, 0), (1, 0)), constant_values=True)
  logits = jnp.where(classes[:, None], logits, -1e30)
  tokens = jnp.where(out['text_real'], places[None], -1)
  given = {'tokens': tokens} | ({'valid': batch['valid']} if 'valid' in batch else {})
  some = out['text_real'].any(axis=1)
  given['valid'] = some & given['valid'] if 'valid' in given else some
  return ctc({'logits': logits, 'frame_mask': out['real']}, given, per_symbol=True)[0]


def label_smoothed_sentences(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, label_smoothing: float = 0.1
) -> tuple[Float[Array, ''], Metrics]:
  """(1 - s) (-log p of the target) + s / (v - 1) sum over the others of -log p, summed over
  targets, mean over clips (fairseq's label_smoothed_cross_entropy, averaged as in SUPERB-SG).

  Args:
    out: 'logits' [b, u, v] of each target.
    batch: 'targets' int [b, u], negative behind the end; rows with 'valid' [b] False do not count.
    label_smoothing: s, in [0, 1).

  Returns:
    loss, and metrics 'cross_entropy' (without smoothing, a target), 'token_accuracy' and
    'sample_size', the number of clips.
  """
  targets = jnp.asarray(batch['targets'])
  classes = out['logits'].shape[-1]
  # The same by a smoothing that gives the target its part too.
  spread = label_smoothing * classes / max(classes - 1, 1)
  mean, metrics = next_tokens(out, batch, label_smoothing=spread)
  valid = batch['valid'] if 'valid' in batch else jnp.ones(len(targets), bool)
  clips = valid.astype(jnp.float32).sum()
  loss = mean * metrics['sample_size'] / jnp.maximum(clips, 1.0)
  return loss, {**metrics, 'sample_size': clips}


def caption_tokens(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, label_smoothing: float = 0.0
) -> tuple[Float[Array, ''], Metrics]:
  """`next_tokens` of captions: every token is predicted, the first one too.

  Args:
    out: 'logits' [b, u, v] of every token.
    batch: 'text' int [b, u] and 'text_mask' bool [b, u], True for real tokens; 'valid' [b].
    label_smoothing: s, in [0, 1).

  Returns:
    as `next_tokens`.
  """
  targets = jnp.where(jnp.asarray(batch['text_mask']), jnp.asarray(batch['text']), -1)
  return next_tokens(out, {**batch, 'targets': targets}, label_smoothing=label_smoothing)


def check_caption_tokens(config: Any) -> None:
  """Refuses captions without an end, after which a model would never stop."""
  field = config['data']['fields'].get('text') or {}
  args = field.get('args') or {} if isinstance(field, Mapping) else {}
  if not args.get('suffix'):
    raise InputError(
      'caption_tokens learns where a caption ends, and config.data.fields.text.args.suffix is '
      "empty: give the text that ends captions, as ' <|endoftext|>' for GPT-2."
    )


def answer_tokens(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, label_smoothing: float = 0.0
) -> tuple[Float[Array, ''], Metrics]:
  """`next_tokens` of answers: what stands in a prompt, and padding, is not predicted.

  Args:
    out: 'logits' [b, u, v] behind every token.
    batch: 'tokens' int [b, u], negative for padding, and 'answer_mask' bool [b, u], True for tokens
      of answers, each predicted by the one before it; 'valid' [b].
    label_smoothing: s, in [0, 1).

  Returns:
    as `next_tokens`.
  """
  tokens = jnp.asarray(batch['tokens'])
  goals = jnp.where(jnp.asarray(batch['answer_mask']), tokens, -1)
  targets = jnp.pad(goals[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
  return next_tokens(out, {**batch, 'targets': targets}, label_smoothing=label_smoothing)

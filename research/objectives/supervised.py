"""Supervised objectives over the logits of clips or frames."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from research.errors import InputError

Metrics = dict[str, Float[Array, '']]


def cross_entropy(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, label_smoothing: float = 0.0
) -> tuple[Float[Array, ''], Metrics]:
  """-sum_c q_c log p_c, mean over clips, q = (1 - s) label + s / c (arXiv 1512.00567, section 7).

  Args:
    out: 'logits' [b, c].
    batch: 'label', integer [b] or soft float [b, c]; rows with 'valid' [b] False do not count.
    label_smoothing: s, in [0, 1).

  Returns:
    loss, and metrics 'cross_entropy' (the loss) and 'accuracy' (the predicted class is the label
    with the highest weight).
  """
  logits, label = out['logits'].astype(jnp.float32), batch['label']
  if logits.ndim != 2 or label.shape not in (logits.shape[:1], logits.shape):
    raise ValueError(
      f'cross_entropy: logits {logits.shape} must be [b, c], label {label.shape} integer [b] or '
      'float [b, c].'
    )
  classes = logits.shape[1]
  if label.ndim == 1:
    label = jax.nn.one_hot(label, classes, dtype=jnp.float32)
  q = (1.0 - label_smoothing) * label.astype(jnp.float32) + label_smoothing / classes
  each = -(q * jax.nn.log_softmax(logits)).sum(-1)
  correct = (logits.argmax(-1) == label.argmax(-1)).astype(jnp.float32)
  loss = _mean(each, batch)
  return loss, {'cross_entropy': loss, 'accuracy': _mean(correct, batch)}


def slot_cross_entropy(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, slots: Sequence[int]
) -> tuple[Float[Array, ''], Metrics]:
  """Sum over slots of the cross entropy of each (intents: action, object, location; s3prl
  downstream/fluent_commands).

  Args:
    out: 'logits' [b, c], those of the slots side by side.
    batch: 'label' int [b, k], a class of every slot; rows with 'valid' [b] False do not count.
    slots: number of classes of each slot.

  Returns:
    loss, and metrics 'cross_entropy' (the loss) and 'accuracy' (all slots are right).
  """
  logits, label = out['logits'].astype(jnp.float32), batch['label']
  if label.shape != (len(logits), len(slots)) or logits.shape[1] != sum(slots):
    raise ValueError(
      f'slot_cross_entropy: logits {logits.shape} must be [b, {sum(slots)}], label {label.shape} '
      f'[b, {len(slots)}].'
    )
  each, right, start = jnp.zeros(len(logits)), jnp.ones(len(logits), bool), 0
  for i, classes in enumerate(slots):
    part = logits[:, start : start + classes]
    each -= jnp.take_along_axis(jax.nn.log_softmax(part), label[:, i : i + 1], axis=1)[:, 0]
    right &= part.argmax(-1) == label[:, i]
    start += classes
  loss = _mean(each, batch)
  return loss, {'cross_entropy': loss, 'accuracy': _mean(right.astype(jnp.float32), batch)}


def check_slot_cross_entropy(config: Mapping[str, Any]) -> None:
  """Raises InputError unless the slots of the loss are those of the model's head."""
  head = config['model']['args'].get('head') or {}
  theirs = tuple(dict(head.get('args') or {}).get('slots', ()))
  own = tuple(config['objective']['args'].get('slots', ()))
  if own != theirs:
    raise InputError(
      f'config.objective.args.slots is {own} and config.model.args.head.args.slots is {theirs}: '
      'set both alike.'
    )


def binary_cross_entropy(
  out: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[Float[Array, ''], Metrics]:
  """-[y log s(z) + (1 - y) log s(-z)], s the logistic function, averaged over clips and classes.

  Args:
    out: 'logits' z [b, c].
    batch: 'label' y, multi-hot or soft [b, c], or integer [b]; rows with 'valid' [b] False do not
      count.

  Returns:
    loss, and metrics 'binary_cross_entropy' (the loss) and 'top1_hit' (the class with the highest
    score is one of the labels).
  """
  z = out['logits'].astype(jnp.float32)
  label = batch['label']
  if z.ndim != 2 or label.shape not in (z.shape[:1], z.shape):
    raise ValueError(
      f'binary_cross_entropy: logits {z.shape} must be [b, c], label {label.shape} the same or '
      'integer [b].'
    )
  if label.ndim == 1:
    label = jax.nn.one_hot(label, z.shape[1], dtype=jnp.float32)
  y = label.astype(jnp.float32)
  each = -(y * jax.nn.log_sigmoid(z) + (1.0 - y) * jax.nn.log_sigmoid(-z)).mean(-1)
  hit = jnp.take_along_axis(y, z.argmax(-1)[:, None], axis=1)[:, 0] > 0
  loss = _mean(each, batch)
  metrics = {'binary_cross_entropy': loss, 'top1_hit': _mean(hit.astype(jnp.float32), batch)}
  return loss, metrics


def _mean(x: Float[Array, 'b'], batch: Mapping[str, Any]) -> Float[Array, '']:
  if 'valid' not in batch:
    return x.mean()
  valid = batch['valid'].astype(jnp.float32)
  return (x * valid).sum() / jnp.maximum(valid.sum(), 1.0)


def ctc(
  out: Mapping[str, Any],
  batch: Mapping[str, Any],
  *,
  blank: int = 0,
  zero_infinity: bool = True,
  per_symbol: bool = False,
) -> tuple[Float[Array, ''], Metrics]:
  """-log sum over alignments of prod_t p_t, averaged over clips (CTC, Graves et al. 2006; fairseq's
  criterions/ctc.py with sentence_avg).

  Args:
    out: 'logits' [b, n, v]; 'frame_mask' [b, n], True at real frames, which come first.
    batch: 'tokens' int [b, u], negative behind the end of a transcript; rows with 'valid' [b] False
      do not count.
    blank: index of the blank.
    zero_infinity: the loss of a transcript that needs more frames than its clip has is 0; if False
      it is infinite, and so is the loss of the batch.
    per_symbol: the loss of each clip is divided by the length of its transcript (torch's CTCLoss
      with reduction 'mean', SUPERB's).

  Returns:
    loss per clip, and metrics: 'ctc_per_symbol', 'impossible' (fraction of clips with too few
    frames) and 'sample_size', the number of clips.
  """
  real, tokens = out['frame_mask'], jnp.asarray(batch['tokens'])
  # Logits of padded frames may be anything, NaN included.
  logits = jnp.where(real[:, :, None], out['logits'].astype(jnp.float32), 0.0)
  given = tokens >= 0
  labels = jnp.where(given, tokens, 0)
  paddings = 1.0 - real.astype(jnp.float32), 1.0 - given.astype(jnp.float32)
  with jax.numpy_dtype_promotion('standard'):
    each = optax.ctc_loss(logits, paddings[0], labels, paddings[1], blank_id=blank)
  # Every symbol needs a frame, and a repeated one a blank before it.
  repeats = ((labels[:, 1:] == labels[:, :-1]) & given[:, 1:]).sum(axis=1)
  symbols = given.sum(axis=1)
  possible = real.sum(axis=1) >= symbols + repeats
  each = jnp.where(possible, each, 0.0 if zero_infinity else jnp.inf)
  per_clip = _mean(each, batch)
  lengths = jnp.maximum(symbols, 1).astype(jnp.float32)
  loss = _mean(each / lengths, batch) if per_symbol else per_clip
  valid = batch['valid'] if 'valid' in batch else jnp.ones(each.shape, bool)
  spoken = jnp.maximum(_mean(symbols.astype(jnp.float32), batch), 1.0)
  return loss, {
    'ctc_per_symbol': per_clip / spoken,
    'impossible': _mean(1.0 - possible.astype(jnp.float32), batch),
    'sample_size': valid.astype(jnp.float32).sum(),
  }


def check_ctc(config: Mapping[str, Any]) -> None:
  """Raises InputError unless the blank of the loss is that of the model's vocabulary."""
  args = config['model']['args']
  head = args.get('head')
  place, own = ('head.args.', dict(head.get('args') or {})) if head else ('', args)
  blank, theirs = config['objective']['args'].get('blank', 0), own.get('blank', 0)
  if blank != theirs:
    raise InputError(
      f'config.objective.args.blank is {blank} and config.model.args.{place}blank is {theirs}: set '
      'both alike.'
    )

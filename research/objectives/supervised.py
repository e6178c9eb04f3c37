"""Supervised objectives over clip-level logits."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Metrics = dict[str, Float[Array, '']]


def cross_entropy(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, label_smoothing: float = 0.0
) -> tuple[Float[Array, ''], Metrics]:
  """-sum_c q_c log p_c averaged over clips, q = (1 - s) label + s / c (arXiv 1512.00567, section
  7).

  Args:
    out: 'logits' [b, c].
    batch: 'label', integer [b] or soft float [b, c]; rows with 'valid' [b] False do not count.
    label_smoothing: s, in [0, 1).

  Returns:
    loss, and metrics 'cross_entropy' (the loss) and 'accuracy' (the most probable class is the
    heaviest label).
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


def binary_cross_entropy(
  out: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[Float[Array, ''], Metrics]:
  """-[y log s(z) + (1 - y) log s(-z)], s the logistic function, averaged over clips and classes.

  Args:
    out: 'logits' z [b, c].
    batch: 'label' y, multi-hot or soft [b, c], or integer [b] for one class a clip; rows with
      'valid'
      [b] False do not count.

  Returns:
    loss, and metrics 'binary_cross_entropy' (the loss) and 'top1_hit' (the most probable class is
    one of the labels).
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

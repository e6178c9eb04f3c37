"""Softmax with a margin between classes: vectors of one speaker are to be nearer than others'."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Metrics = dict[str, Float[Array, '']]


def additive_margin_softmax(
  out: Mapping[str, Any], batch: Mapping[str, Any], *, s: float = 30.0, m: float = 0.4
) -> tuple[Float[Array, ''], Metrics]:
  """-log e^{s (cos y - m)} / (e^{s (cos y - m)} + sum_{j != y} e^{s cos j}), mean over clips
  (AM-softmax, arXiv 1801.05599; SUPERB's figures).

  Args:
    out: 'cosine' [b, c] between a clip's vector and that of each class.
    batch: 'label' int [b]; rows with 'valid' [b] False do not count.
    s: scale.
    m: margin.

  Returns:
    loss, and metrics 'cross_entropy' (the loss) and 'accuracy' (without the margin).
  """
  cosine, label = out['cosine'].astype(jnp.float32), batch['label']
  chosen = jax.nn.one_hot(label, cosine.shape[1], dtype=jnp.float32)
  return _cross_entropy(s * (cosine - m * chosen), cosine, label, batch)


def additive_angular_margin_softmax(
  out: Mapping[str, Any],
  batch: Mapping[str, Any],
  *,
  s: float = 15.0,
  m: float = 0.3,
  easy_margin: bool = False,
) -> tuple[Float[Array, ''], Metrics]:
  """The same with the margin on the angle, cos(theta_y + m) (AAM-softmax, arXiv 1801.07698).

  Where theta_y + m is above pi it is cos(theta_y) - m sin(m), so that it keeps falling.

  Args:
    out, batch, s: as of `additive_margin_softmax`.
    m: margin, radians.
    easy_margin: the margin is only where the angle is below a right one.
  """
  cosine, label = out['cosine'].astype(jnp.float32), batch['label']
  square = jnp.clip(1.0 - cosine * cosine, 0.0, 1.0)
  parallel = square == 0.0
  sine = jnp.where(parallel, 0.0, jnp.sqrt(jnp.where(parallel, 1.0, square)))
  turned = cosine * jnp.cos(m) - sine * jnp.sin(m)
  if easy_margin:
    moved = jnp.where(cosine > 0, turned, cosine)
  else:
    moved = jnp.where(cosine > jnp.cos(jnp.pi - m), turned, cosine - m * jnp.sin(jnp.pi - m))
  chosen = jax.nn.one_hot(label, cosine.shape[1], dtype=bool)
  return _cross_entropy(s * jnp.where(chosen, moved, cosine), cosine, label, batch)


def _cross_entropy(logits, cosine, label, batch):
  each = -jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]
  right = (cosine.argmax(-1) == label).astype(jnp.float32)
  valid = batch.get('valid')
  weight = jnp.ones(len(each)) if valid is None else valid.astype(jnp.float32)
  count = jnp.maximum(weight.sum(), 1.0)
  loss, accuracy = (each * weight).sum() / count, (right * weight).sum() / count
  return loss, {'cross_entropy': loss, 'accuracy': accuracy}

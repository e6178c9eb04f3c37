"""Bootstrap your own latent (BYOL, arXiv 2006.07733; BYOL-A, 2103.06695).

Dimensions: r = 2 views, b batch, p width of the projection.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def bootstrap(out: Mapping[str, Any], batch: Mapping[str, Any]) -> tuple[jax.Array, dict]:
  """2 - 2 cos(q(z_1), z'_2) + 2 - 2 cos(q(z_2), z'_1), mean over clips.

  q(z) are predictions of the online network; z' are projections of the teacher (an EMA of the
  online network), without gradient.

  Args:
    out: 'prediction' [2, b, p], and 'teacher' with 'projection' [2, b, p].
    batch: rows with 'valid' [b] False (fillers) do not count.

  Returns:
    loss, and 'cosine', the mean cosine similarity of prediction and target.
  """
  q = _unit(out['prediction'])
  z = _unit(jax.lax.stop_gradient(out['teacher']['projection']))
  cosine = jnp.sum(q * z[::-1], axis=-1)  # [2, b]
  per_clip = jnp.sum(2.0 - 2.0 * cosine, axis=0)
  weight = jnp.ones(per_clip.shape) if 'valid' not in batch else batch['valid'].astype(jnp.float32)
  total = jnp.maximum(weight.sum(), 1.0)
  mean = jnp.sum(cosine.mean(axis=0) * weight) / total
  return jnp.sum(per_clip * weight) / total, {'cosine': mean}


def _unit(x: jax.Array) -> jax.Array:
  x = x.astype(jnp.float32)
  # torch's F.normalize: the norm is at least 1e-12; its square keeps the gradient finite at 0.
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))

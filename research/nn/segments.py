"""Segments of long audio, faded into each other as encodec does (model.py, utils.py).

Letters: b clips, s segments of a clip, r = b s rows, t samples of a segment, a channels, u samples.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def join(
  parts: Float[Array, 'r t a'], ends: Int[Array, 'b s'], stride: int | None
) -> Float[Array, 'b u a']:
  """Segments faded into each other: weights fall linearly from the middle of the first segment's
  length, and are divided by their sum.

  Args:
    parts: segments, the s of a clip one after the other.
    ends: their samples.
    stride: samples from a segment to the next; None for a single one.
  """
  b, s = ends.shape
  parts = parts.reshape(b, s, *parts.shape[1:]).astype(jnp.float32)
  if s == 1:
    return parts[:, 0]
  assert stride is not None
  size, channels = parts.shape[2:]
  place = jnp.arange(size)
  first = ends[:, :1].astype(jnp.float32)
  # As torch.linspace(0, 1, first + 2) has its inner points.
  weights = 0.5 - jnp.abs((place + 1).astype(jnp.float32) / (first + 1.0) - 0.5)
  weights = jnp.where(place < ends[..., None], jnp.maximum(weights, 1e-9)[:, None], 0.0)
  total = jnp.zeros((b, stride * (s - 1) + size, channels))
  norm = jnp.zeros((b, stride * (s - 1) + size))

  def add(state, given):
    total, norm = state
    start, part, weight = given
    old = jax.lax.dynamic_slice_in_dim(total, start, size, 1)
    total = jax.lax.dynamic_update_slice_in_dim(total, old + weight[..., None] * part, start, 1)
    old = jax.lax.dynamic_slice_in_dim(norm, start, size, 1)
    return (total, jax.lax.dynamic_update_slice_in_dim(norm, old + weight, start, 1)), None

  each = jnp.arange(s) * stride, parts.swapaxes(0, 1), weights.swapaxes(0, 1)
  (total, norm), _ = jax.lax.scan(add, (total, norm), each)
  return total / jnp.where(norm > 0, norm, 1.0)[..., None]

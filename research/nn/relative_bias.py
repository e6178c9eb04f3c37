"""Gated relative position bias of attention (WavLM, arXiv 2110.13900, section 3.1).

One table for all layers gives every head a bias by the distance of query and key, in T5's buckets;
each layer has a gate a query, from what enters its attention. Figures are those of unilm's
wavlm/modules.py. Letters: b batch, n frames, d width, h heads.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Outputs of a gate's projection: two gates, each the sum of four.
GATES = (2, 4)


def bucket(
  distance: Int[np.ndarray, '*shape'], buckets: int, max_distance: int
) -> Int[np.ndarray, '*shape']:
  """Bucket of a distance, key index less query index.

  Half of the buckets are for keys behind the query, half for keys ahead; of each half the first
  half stands for single distances, the rest grows with the logarithm up to `max_distance`.
  """
  half = buckets // 2
  exact = half // 2
  size = np.abs(distance)
  # float32 as upstream: another precision moves some borders by one.
  share = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
  share = share / np.float32(np.log(max_distance / exact)) * np.float32(half - exact)
  far = np.minimum(exact + share.astype(np.int32), half - 1)
  return np.where(distance > 0, half, 0) + np.where(size < exact, size, far)


def by_distance(values: Float[Array, 'h r']) -> Float[Array, 'h n n']:
  """[head, query, key] of values by distance: 0 to n - 1, one that is not read, -(n - 1) to -1.

  Without a gather, whose derivative is a sum over scattered places: rows one shorter than what they
  repeat are each shifted by one.
  """
  h, twice = values.shape
  n = twice // 2
  rows = jnp.broadcast_to(values[:, None], (h, n, twice)).reshape(h, n * twice)
  return rows[:, : n * (twice - 1)].reshape(h, n, twice - 1)[:, :, :n]


class RelativeBias(nn.Module):
  """The table of biases of n frames; parameter `table` [buckets, h]."""

  heads: int
  buckets: int
  max_distance: int

  @nn.compact
  def __call__(self, n: int) -> Float[Array, 'h n n']:
    table = self.param('table', nn.initializers.normal(0.02), (self.buckets, self.heads))
    distance = np.concatenate([np.arange(n), np.zeros(1, np.int64), np.arange(1 - n, 0)])
    return by_distance(table[bucket(distance, self.buckets, self.max_distance)].T)


class Gate(nn.Module):
  """A gate a query and head, from what enters the attention of a layer; float32."""

  heads: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n h']:
    b, n, d = x.shape
    per_head = d // self.heads
    normal = nn.initializers.normal(0.02)
    kernel = self.param('kernel', normal, (per_head, GATES[0] * GATES[1]))
    bias = self.param('bias', nn.initializers.zeros_init(), (GATES[0] * GATES[1],))
    scale = self.param('scale', nn.initializers.ones_init(), (self.heads,))
    y = x.astype(jnp.float32).reshape(b, n, self.heads, per_head)
    # Only the sums of four are needed, so the projection gives these at once.
    y = jnp.einsum('bnhk,kg->bnhg', y, kernel.reshape(per_head, *GATES).sum(-1))
    first, second = jnp.moveaxis(jax.nn.sigmoid(y + bias.reshape(GATES).sum(-1)), -1, 0)
    return first * (second * scale - 1.0) + 2.0

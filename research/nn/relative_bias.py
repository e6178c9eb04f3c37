"""Gated relative position bias of attention (WavLM, arXiv 2110.13900, section 3.1).

One table for all layers gives every head a bias by the distance of query and key, in T5's buckets;
each layer has a gate a query, from what enters its attention. Figures are those of unilm's
wavlm/modules.py. Letters: b batch, n frames, t queries, s keys, d width, h heads.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Outputs of a gate's projection: two gates, each the sum of four.
GATES = (2, 4)


def bucket(
  distance: Int[np.ndarray, '*shape'], buckets: int, max_distance: int, bidirectional: bool = True
) -> Int[np.ndarray, '*shape']:
  """Bucket of a distance, key index less query index.

  Half of the buckets are for keys behind the query, half for keys ahead; of each half the first
  half stands for single distances, the rest grows with the logarithm up to `max_distance`. Unless
  `bidirectional`, all are for keys behind, and keys ahead are in the first one.
  """
  half = buckets // 2 if bidirectional else buckets
  exact = half // 2
  size = np.abs(distance) if bidirectional else np.maximum(-distance, 0)
  # float32 as upstream: another precision moves some borders by one.
  share = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
  share = share / np.float32(np.log(max_distance / exact)) * np.float32(half - exact)
  far = np.minimum(exact + share.astype(np.int32), half - 1)
  ahead = np.where(distance > 0, half, 0) if bidirectional else 0
  return ahead + np.where(size < exact, size, far)


def by_distance(values: Float[Array, 'h r'], t: int | None = None) -> Float[Array, 'h t s']:
  """[head, query, key] of values by distance: 0 to s - 1, one that is not read, -(t - 1) to -1;
  of t queries, as many as keys where None.

  Without a gather, whose derivative is a sum over scattered places: rows one shorter than what they
  repeat are each shifted by one.
  """
  h, r = values.shape
  t = r // 2 if t is None else t
  rows = jnp.broadcast_to(values[:, None], (h, t, r)).reshape(h, t * r)
  return rows[:, : t * (r - 1)].reshape(h, t, r - 1)[:, :, : r - t]


class RelativeBias(nn.Module):
  """The table of biases of queries and keys; parameter `table` [buckets, h]."""

  heads: int
  buckets: int
  max_distance: int
  bidirectional: bool = True

  @nn.compact
  def __call__(
    self, t: int, s: int | None = None, offset: int | Int[Array, ''] = 0
  ) -> Float[Array, 'h t s']:
    """Biases of t queries, the first at position `offset`, and s keys from position 0 (None: t).

    An offset that is known only when the program runs is at most s - t (cached decoding).
    """
    s = t if s is None else s
    table = self.param('table', nn.initializers.normal(0.02), (self.buckets, self.heads))

    def values(distance):
      return table[bucket(distance, self.buckets, self.max_distance, self.bidirectional)].T

    if isinstance(offset, int):
      parts = np.arange(s), np.zeros(1, np.int64), np.arange(1 - t, 0)
      distance = np.concatenate([parts[0] - offset, parts[1], parts[2] - offset])
      return by_distance(values(distance), t)
    # From those of all offsets, -(s - 1) to s - 1: distances -(t - 1) - offset to s - 1 - offset.
    every = values(np.arange(1 - s, s))
    some = jax.lax.dynamic_slice_in_dim(every, s - t - offset, s + t - 1, axis=1)
    behind, ahead = some[:, : t - 1], some[:, t - 1 :]
    return by_distance(jnp.concatenate([ahead, ahead[:, :1], behind], axis=1), t)


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

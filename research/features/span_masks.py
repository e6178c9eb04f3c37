"""Span masks of wav2vec 2.0 and HuBERT, drawn on the device with static shapes.

The distribution is that of fairseq's `compute_mask_indices` with spans of one length (fairseq
0.12.2, data/data_utils.py; per-row rounding as on its main branch); draws come from a JAX key
instead of NumPy's generator. Dimensions: b clips, n frames, p pieces between spans.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def max_masked(frames: int, prob: float, length: int, min_masks: int) -> int:
  """Maximum number of masked frames of `frames` frames."""
  return min(frames, length * max(int(prob * frames / length) + 1, min_masks))


def span_mask(
  key: Array,
  real: Bool[Array, 'b n'],
  *,
  prob: float,
  length: int,
  min_masks: int = 2,
  overlap: bool = True,
  space: int = 1,
  equal_rows: int = 1,
  cut: bool = False,
) -> Bool[Array, 'b n']:
  """Frames to mask: about `prob` / `length` spans a frame, each of `length` frames.

  Args:
    key: a JAX key.
    real: True for real frames, which come first in each row. Only real frames are masked.
    prob: fraction of the frames that spans would cover if they did not overlap.
    length: length of a span, frames.
    min_masks: minimum number of spans per clip.
    overlap: whether spans may overlap; if False, spans that find no room are dropped.
    space: minimum number of frames between spans that do not overlap.
    equal_rows: number of clips per group. In each group of clips of similar length, frames are
      unmasked at random until all clips have the same number of masked frames as the clip with the
      fewest (clips without real frames do not count). In fairseq a group is the clips of one GPU,
      about five of similar length; the larger the group, the fewer masked frames. 1: no change.
    cut: spans may start at every real frame and are cut at the end of the clip (fairseq's masked
      language model, data/mask_tokens_dataset.py), instead of fitting into it.

  Returns:
    the mask. Unless spans are cut, the last real frame of a clip is not masked, as published; clips
    too short for their spans are an exception.
  """
  b, n = real.shape
  rounding, starting, dropping = jax.random.split(key, 3)
  size = real.sum(axis=1)
  extra = jax.random.uniform(rounding, (b,))
  spans = jnp.floor(prob * size.astype(jnp.float32) / length + extra).astype(jnp.int32)
  spans = jnp.maximum(spans, min_masks)
  if overlap:
    mask = _anywhere(starting, size, spans, length, n, cut)
  else:
    most = max(int(prob * n / length) + 1, min_masks)
    mask = _apart(starting, size, spans, length, space, n, most)
  mask &= real
  if equal_rows == 1:
    return mask
  order = jnp.argsort(jnp.where(size > 0, size, n + 1), stable=True)
  counts = jnp.where(size > 0, mask.sum(axis=1), n)[order]
  parts = jnp.pad(counts, (0, -b % equal_rows), constant_values=n).reshape(-1, equal_rows)
  fewest = jnp.repeat(parts.min(axis=1), equal_rows, total_repeat_length=parts.size)[:b]
  fewest = fewest[jnp.argsort(order)]
  return _first(jax.random.uniform(dropping, (b, n)), mask, fewest)


def _first(
  order: Float[Array, 'b n'], allowed: Bool[Array, 'b n'], count: Int[Array, ' b']
) -> Bool[Array, 'b n']:
  """A random subset of `count` allowed positions in each row."""
  order = jnp.where(allowed, order, 2.0)
  rank = jnp.argsort(jnp.argsort(order, axis=1), axis=1)
  return (rank < count[:, None]) & allowed


def _anywhere(
  key: Array, size: Int[Array, ' b'], spans: Int[Array, ' b'], length: int, n: int, cut: bool
) -> Bool[Array, 'b n']:
  """Spans whose starts are distinct and uniform."""
  # In clips too short for their spans, the spans start closer to the end.
  tail = jnp.where(size - length <= spans, size - spans - 1, length)
  tail = jnp.zeros_like(tail) if cut else tail
  places = jnp.arange(n) < (size - tail)[:, None]
  starts = _first(jax.random.uniform(key, (len(size), n)), places, spans)

  # A frame is masked if a span has started and not ended yet.
  begun = jnp.cumsum(starts.astype(jnp.int32), axis=1)
  return begun - jnp.pad(begun, ((0, 0), (length, 0)))[:, :n] > 0


def _apart(
  key: Array,
  size: Int[Array, ' b'],
  spans: Int[Array, ' b'],
  length: int,
  space: int,
  n: int,
  most: int,
) -> Bool[Array, 'b n']:
  """Spans that do not overlap, placed one by one. A free piece is chosen with probability
  proportional to its frames; the start within it is uniform. The rest on either side stays free if
  it is long enough. The two sides differ by one frame, as in fairseq."""
  b = len(size)
  begins = jnp.zeros((b, most + 1), jnp.int32)
  ends = begins.at[:, 0].set(size)
  frames = jnp.arange(n)
  rows = jnp.arange(b)

  def place(i, carry):
    begins, ends, mask = carry
    choosing, starting = jax.random.split(jax.random.fold_in(key, i))
    room = jnp.where(ends - begins >= length + space, ends - begins, 0)
    possible = (room.sum(axis=1) > 0) & (i < spans)
    chosen = jax.random.categorical(choosing, jnp.log(room.astype(jnp.float32)), axis=1)
    begin, end = begins[rows, chosen], ends[rows, chosen]
    start = jax.random.randint(starting, (b,), begin, jnp.maximum(end - length, begin + 1))
    covered = (frames >= start[:, None]) & (frames < start[:, None] + length)
    mask |= covered & possible[:, None]

    # The left rest replaces the piece; the right rest is appended.
    left = jnp.where(start - begin - space >= length, start - space + 1, begin)
    right = start + length + space
    keep = end - start - length - space > length
    ends = ends.at[rows, chosen].set(jnp.where(possible, left, ends[rows, chosen]))
    begins = begins.at[rows, i + 1].set(jnp.where(possible & keep, right, 0))
    ends = ends.at[rows, i + 1].set(jnp.where(possible & keep, end, 0))
    return begins, ends, mask

  return jax.lax.fori_loop(0, most, place, (begins, ends, jnp.zeros((b, n), bool)))[2]

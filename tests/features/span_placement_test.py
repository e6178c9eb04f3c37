"""Span masks without overlap, against the published recursion in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.features.span_masks import span_mask

DRAWS = 1000


def recursion(rng, size, prob, length, min_masks, space):
  """fairseq 0.12.2's placement without overlap, for one clip and spans of one length."""
  mask = np.zeros(size, bool)
  spans = max(min_masks, int(prob * size / length + rng.random()))
  parts = [(0, size)]
  for _ in range(spans):
    room = np.array([e - s if e - s >= length + space else 0 for s, e in parts])
    if not room.sum():
      break
    s, e = parts.pop(rng.choice(len(parts), p=room / room.sum()))
    start = rng.integers(s, e - length)
    mask[start : start + length] = True
    if start - s - space >= length:
      parts.append((s, start - space + 1))
    if e - start - length - space > length:
      parts.append((start + length + space, e))
  return mask


def starts(masks):
  return np.diff(np.pad(masks, ((0, 0), (1, 0))).astype(np.int8), axis=1) == 1


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'prob', 'length', 'space'), [(200, 0.5, 10, 1), (60, 0.8, 5, 3)])
def test_without_overlap_the_statistics_are_those_of_the_recursion(size, prob, length, space):
  n, padded = size + 20, 30
  real = np.arange(n) < np.array([[size], [size - padded]])
  args = dict(prob=prob, length=length, min_masks=2, overlap=False, space=space)
  draw = jax.jit(jax.vmap(lambda key: span_mask(key, jnp.asarray(real), **args)))
  ours = np.asarray(draw(jax.random.split(jax.random.key(0), DRAWS)))
  assert not ours[:, ~real].any()
  rng = np.random.default_rng(0)
  for row, frames in enumerate((size, size - padded)):
    want = np.stack([recursion(rng, frames, prob, length, 2, space) for _ in range(DRAWS)])
    got = ours[:, row, :frames]
    counts = [x.sum(1) for x in (got, want)]
    error = np.hypot(*(c.std() / DRAWS**0.5 for c in counts))
    assert abs(counts[0].mean() - counts[1].mean()) <= 4 * error + 1e-6
    assert (counts[0] % length == 0).all(), 'spans overlap'
    # Where spans begin, in tenths of the clip.
    tenth = np.arange(frames) * 10 // frames
    for part in range(10):
      a, b = (starts(x)[:, tenth == part].sum(1) for x in (got, want))
      assert abs(a.mean() - b.mean()) <= 4.5 * np.hypot(a.std(), b.std()) / DRAWS**0.5
    # Gaps between spans: at least `space` frames.
    gaps = [np.flatnonzero(x) for x in got[:50]]
    assert min(np.diff(g)[np.diff(g) > 1].min() for g in gaps if len(g) > length) - 1 >= space - 1


@pytest.mark.slow
def test_counts_are_equal_without_overlap_too():
  real = jnp.arange(120) < jnp.array([[120], [90], [60]])
  mask = span_mask(jax.random.key(3), real, prob=0.6, length=10, overlap=False, equal_rows=3)
  assert len(set(np.asarray(mask.sum(1)).tolist())) == 1 and not (mask & ~real).any()


@pytest.mark.slow
def test_counts_are_equal_within_groups_only():
  """The masked fraction of a clip must not depend on the batch size."""
  real = jnp.ones((352, 781), bool)
  fraction = {
    rows: np.asarray(
      span_mask(jax.random.key(0), real, prob=0.65, length=10, equal_rows=rows)
    ).mean()
    for rows in (1, 6, 352)
  }
  # fairseq's values for one and six clips per GPU; with one group of 352 clips it is lower.
  assert abs(fraction[1] - 0.490) < 0.004 and abs(fraction[6] - 0.462) < 0.004
  assert fraction[352] < 0.44
  # Groups are by length; the last has fewer clips; a clip without frames does not count.
  some = jnp.arange(100) < jnp.array([100] * 5 + [0, 100, 40])[:, None]
  counts = np.asarray(span_mask(jax.random.key(1), some, prob=0.65, length=10, equal_rows=3).sum(1))
  assert len(set(counts[[7, 0, 1]])) == len(set(counts[[2, 3, 4]])) == 1 and counts[5] == 0
  assert counts[7] < min(counts[2], counts[6])


@pytest.mark.slow
def test_masked_fraction_does_not_depend_on_the_order_of_clips():
  """Batches in fairseq are sorted by length; fillers here may have any length."""
  lengths = np.tile([99, 780, 250, 600], 22)
  fraction = []
  for order in (np.arange(88), np.argsort(lengths, kind='stable')):
    real = jnp.arange(781) < jnp.asarray(lengths[order])[:, None]
    mask = span_mask(jax.random.key(0), real, prob=0.65, length=10, equal_rows=6)
    fraction.append(float(mask.sum() / real.sum()))
  assert abs(fraction[0] - fraction[1]) < 0.02 and min(fraction) > 0.4


def test_no_spans_with_probability_zero():
  real = jnp.ones((2, 50), bool)
  for overlap in (True, False):
    mask = span_mask(jax.random.key(0), real, prob=0.0, length=10, min_masks=0, overlap=overlap)
    assert not mask.any()

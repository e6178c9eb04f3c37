"""Span masks without overlap, against the published recursion written out in NumPy."""

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
    # Gaps between spans: never fewer frames than asked for.
    gaps = [np.flatnonzero(x) for x in got[:50]]
    assert min(np.diff(g)[np.diff(g) > 1].min() for g in gaps if len(g) > length) - 1 >= space - 1


def test_counts_are_equal_without_overlap_too():
  real = jnp.arange(120) < jnp.array([[120], [90], [60]])
  mask = span_mask(jax.random.key(3), real, prob=0.6, length=10, overlap=False, equal_rows=3)
  assert len(set(np.asarray(mask.sum(1)).tolist())) == 1 and not (mask & ~real).any()


def test_counts_are_equal_among_neighbours_alone():
  """How much is hidden of a clip must not depend on how many clips a batch has."""
  real = jnp.ones((352, 781), bool)
  share = {
    rows: np.asarray(
      span_mask(jax.random.key(0), real, prob=0.65, length=10, equal_rows=rows)
    ).mean()
    for rows in (1, 6, 352)
  }
  # fairseq's own, one clip and six a GPU; of all 352 clips the one with fewest hides less.
  assert abs(share[1] - 0.490) < 0.004 and abs(share[6] - 0.462) < 0.004 and share[352] < 0.44
  # The shortest are together, the last part has fewer clips, and one without frames counts nowhere.
  some = jnp.arange(100) < jnp.array([100] * 5 + [0, 100, 40])[:, None]
  counts = np.asarray(span_mask(jax.random.key(1), some, prob=0.65, length=10, equal_rows=3).sum(1))
  assert len(set(counts[[7, 0, 1]])) == len(set(counts[[2, 3, 4]])) == 1 and counts[5] == 0
  assert counts[7] < min(counts[2], counts[6])


def test_short_clips_among_long_ones_hide_no_less_of_those():
  """fairseq's batches are sorted by length; what fills ours up may be of any."""
  lengths = np.tile([99, 780, 250, 600], 22)
  share = []
  for order in (np.arange(88), np.argsort(lengths, kind='stable')):
    real = jnp.arange(781) < jnp.asarray(lengths[order])[:, None]
    mask = span_mask(jax.random.key(0), real, prob=0.65, length=10, equal_rows=6)
    share.append(float(mask.sum() / real.sum()))
  assert abs(share[0] - share[1]) < 0.02 and min(share) > 0.4


def test_no_spans_when_none_are_asked_for():
  real = jnp.ones((2, 50), bool)
  for overlap in (True, False):
    mask = span_mask(jax.random.key(0), real, prob=0.0, length=10, min_masks=0, overlap=overlap)
    assert not mask.any()

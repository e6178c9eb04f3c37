import collections
import pickle

import numpy as np
import pytest

from research.audio.batching import (
  Bucketed,
  Stream,
  best_buckets,
  best_crops,
  bucket_of,
  label_weights,
  uniform,
)
from research.audio.clips import Source, Table
from tests.audio.padding import padding_efficiency


def stream(size, batch_size=4, **options):
  return Stream(size, batch_size=batch_size, samples=8, seed=options.pop('seed', 0), **options)


def rows_of(order, count, start=0):
  return np.concatenate([order[g].rows for g in range(start, start + count)])


def test_uniform_is_uniform_and_fixed():
  draws = np.array([uniform(3, p, 'crop') for p in range(4000)])
  assert 0 <= draws.min() < 0.002 and 0.998 < draws.max() < 1
  assert abs(draws.mean() - 0.5) < 0.02
  counts, _ = np.histogram(draws, 10, (0, 1))
  assert ((counts - 400) ** 2 / 400).sum() < 30  # chi-squared, 9 degrees of freedom
  # Saved runs resume with these numbers: they must never change.
  assert uniform(0, 0, 'crop') == pytest.approx(0.4146993873199016, abs=0)
  assert uniform(0, 1, 'row', 2) == pytest.approx(0.02105329304117297, abs=0)


def test_every_epoch_has_every_clip_once_in_a_new_order():
  order = stream(20)
  epochs = [rows_of(order, 5, 5 * e) for e in range(3)]
  for rows in epochs:
    assert sorted(rows) == list(range(20))
  assert not np.array_equal(epochs[0], epochs[1])
  assert not np.array_equal(epochs[1], epochs[2])
  assert not np.array_equal(epochs[0], rows_of(stream(20, seed=1), 5))
  np.testing.assert_array_equal(rows_of(stream(20, shuffle=False), 7), np.arange(28) % 20)


def test_batches_span_epochs_and_small_sets_repeat():
  order = stream(3, batch_size=8, epochs=4)
  assert len(order) == 1
  assert sorted(collections.Counter(order[0].rows.tolist()).values()) == [2, 3, 3]
  assert len(stream(10, batch_size=4, epochs=2)) == 5
  endless = stream(3, batch_size=8)
  assert len(endless) > 1e15
  assert endless[10**9].rows.shape == (8,)


def test_random_access_gives_what_iteration_gives():
  order = stream(7, batch_size=3)
  forward = [order[g].rows for g in range(20)]
  again = pickle.loads(pickle.dumps(order))
  for g in np.random.default_rng(0).permutation(20):
    np.testing.assert_array_equal(again[int(g)].rows, forward[g])
    assert order[int(g)].position == 3 * g


def test_weights_draw_with_replacement_in_proportion():
  weights = np.array([1.0, 0.0, 3.0, 6.0])
  rows = rows_of(stream(4, batch_size=50, weights=weights), 200)
  fraction = np.bincount(rows, minlength=4) / len(rows)
  np.testing.assert_allclose(fraction, weights / 10, atol=0.015)
  assert fraction[1] == 0


def test_label_weights_are_the_published_ones():
  labels = [['a'], ['a', 'b'], ['a'], ['c']]
  source = Source(Table('t', list('wxyz'), {'label': labels}, dict))
  expected = [1000 / 3.01, 1000 / 3.01 + 1000 / 1.01, 1000 / 3.01, 1000 / 1.01]
  np.testing.assert_allclose(label_weights(source), expected)


def bucketed(durations, buckets, batch_size=4, **options):
  settings = {'sample_rate': 100, 'seed': 0, **options}
  return Bucketed(np.asarray(durations, float), buckets, batch_size=batch_size, **settings)


def test_bucket_of():
  found = bucket_of(np.array([0.0, 1.0, 1.0004, 1.2, 2.0, 2.1, 9.0, 50.0]), [1.0, 2.0, 9.0])
  assert found.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_every_clip_once_an_epoch_in_a_bucket_it_fits():
  durations = np.random.default_rng(0).uniform(0.5, 10, 103)
  buckets = [2.0, 4.0, 7.0, 10.0]
  order = bucketed(durations, buckets, batch_size=8)
  for epoch in range(3):
    batches = [order[13 * epoch + g] for g in range(13)]
    rows = np.concatenate([b.rows for b in batches])
    counts = np.bincount(rows, minlength=103)
    assert counts.min() == 1 and counts.max() <= 2 and counts.sum() == 104
    for batch in batches:
      assert batch.samples == 100 * buckets[batch.bucket]
      assert (durations[batch.rows] * 100 <= batch.samples + 1).all()
  first, second = ([b.bucket for b in order.epoch(e)] for e in (0, 1))
  assert first != second
  assert first != sorted(first)  # Lengths are mixed.
  assert [b.position for b in order.epoch(1)] == [8 * (13 + g) for g in range(13)]


@pytest.mark.parametrize('fill', ['pad', 'crop'])
def test_buckets_of_short_clips_have_more_of_them(fill):
  durations = np.random.default_rng(0).uniform(1.0, 10.0, 301)
  buckets, sizes = [1.0, 2.0, 4.0, 10.0], [24, 12, 6, 2]
  order = bucketed(durations, buckets, batch_size=24, rows=sizes, fill=fill)
  end = 0
  for epoch in range(4):
    batches = order.epoch(epoch)
    assert len(batches) == order.per_epoch
    counts = np.bincount(np.concatenate([b.rows for b in batches]), minlength=301)
    last = sizes[-1 if fill == 'pad' else 0]
    assert counts.min() == 1 and counts.sum() < 301 + last
    for batch in batches:
      assert len(batch.rows) == sizes[batch.bucket]
      fits = durations[batch.rows] * 100 <= batch.samples + 1
      assert fits.all() if fill == 'pad' else (durations[batch.rows] >= buckets[batch.bucket]).all()
      # No two rows have the same draws.
      assert batch.position >= end
      end = batch.position + len(batch.rows)
  assert order.mean_rows == 301 / order.per_epoch


def test_weights_hold_for_all_batch_sizes():
  durations = np.array([1.0, 1.0, 5.0, 5.0])
  weights = np.array([3.0, 1.0, 0.0, 4.0])
  order = bucketed(durations, [1.0, 5.0], batch_size=10, weights=weights, rows=[10, 2])
  rows = np.concatenate([order[g].rows for g in range(2000)])
  np.testing.assert_allclose(np.bincount(rows, minlength=4) / len(rows), weights / 8, atol=0.03)
  np.testing.assert_allclose(len(rows) / 2000, order.mean_rows, rtol=0.05)


def test_cropped_clips_fill_their_batches():
  durations = np.random.default_rng(0).uniform(2.0, 12.0, 500)
  edges = best_crops(durations, 6, longest=10.0)
  assert edges[0] <= durations.min() < edges[0] + 0.01 and len(edges) == 6
  order = bucketed(durations, edges, batch_size=8, fill='crop')
  for epoch in range(3):
    seen = []
    for batch in order.epoch(epoch):
      assert (durations[batch.rows] >= edges[batch.bucket]).all()
      seen += batch.rows.tolist()
    assert len(seen) == 504 and set(seen) == set(range(500))
  kept = np.asarray(edges)[bucket_of(durations, edges, 'crop')].sum()
  even = np.linspace(2.0, 10.0, 6).tolist()
  evenly = np.asarray(even)[bucket_of(durations, even, 'crop')].sum()
  assert kept > evenly > 0.8 * durations.clip(max=10).sum()
  assert best_crops(np.array([1.0, 1.0, 5.0, 5.0]), 2) == [1.0, 5.0]
  assert best_crops(np.array([0.005, 0.0, 5.0, 5.0]), 2) == [1.0, 5.0]
  assert best_crops(np.array([0.005, 0.3]), 2, longest=0.5) == [0.5]
  # Crops of 250,000 samples have that many.
  long = np.array([3.0, 9.0, 15.625, 16.0, 20.0])
  assert best_crops(long, 3, longest=15.625)[-1] == 15.625
  assert best_buckets(long, 3, longest=15.625) == [3.0, 9.0, 15.625]
  assert bucket_of(np.array([0.5, 1.0, 9.9999]), [1.0, 10.0], 'crop').tolist() == [0, 0, 1]


def test_buckets_random_access_and_pickling():
  order = bucketed(np.linspace(1, 9, 30), [3.0, 9.0])
  forward = [order[g] for g in range(40)]
  again = pickle.loads(pickle.dumps(order))
  for g in (39, 0, 17, 8, 23):
    np.testing.assert_array_equal(again[g].rows, forward[g].rows)
    assert again[g].samples == forward[g].samples


def test_fewer_clips_than_a_batch():
  order = bucketed([1.0, 2.0, 3.0], [2.0, 3.0], batch_size=8, epochs=2)
  assert len(order) == 2
  assert sorted(np.bincount(order[0].rows)) == [2, 3, 3]
  assert order[0].samples == 300


def test_buckets_with_weights():
  durations = np.array([1.0, 1.0, 5.0, 5.0])
  weights = np.array([3.0, 1.0, 0.0, 4.0])
  order = bucketed(durations, [1.0, 5.0], batch_size=10, weights=weights)
  rows = rows_of(order, 400)
  np.testing.assert_allclose(np.bincount(rows, minlength=4) / len(rows), weights / 8, atol=0.05)
  for g in range(20):
    assert len(set(durations[order[g].rows])) == 1


def test_substitutes_come_from_the_same_bucket():
  order = bucketed([1.0] * 5 + [5.0] * 5, [1.0, 5.0])
  batch = next(order[g] for g in range(10) if order[g].bucket == 0)
  got = [order.substitute(batch, 0, attempt) for attempt in range(3)]
  assert all(row < 5 for row in got)
  assert got == [order.substitute(batch, 0, attempt) for attempt in range(3)]


def test_best_buckets_waste_least():
  assert best_buckets(np.array([1.0, 1.0, 1.0, 5.0, 5.0]), 2) == [1.0, 5.0]
  assert best_buckets(np.array([1.0, 2.0, 3.0]), 8) == [1.0, 2.0, 3.0]
  assert best_buckets(np.array([2.0, 30.0, 40.0]), 2, longest=10.0) == [2.0, 10.0]
  lengths = np.random.default_rng(0).gamma(4.0, 3.0, 5000)
  chosen = best_buckets(lengths, 6)
  assert len(chosen) == 6 and chosen == sorted(chosen)
  assert chosen[-1] >= lengths.max()
  even = np.quantile(lengths, np.linspace(0, 1, 7)[1:]).tolist()

  def padded(buckets):
    return np.array(buckets)[bucket_of(lengths, buckets)].sum()

  assert padded(chosen) < padded(even)


def test_padding_efficiency():
  lengths = np.random.default_rng(0).uniform(1, 20, 4000)
  for count, least in ((4, 0.8), (8, 0.89), (16, 0.94)):
    order = bucketed(lengths, best_buckets(lengths, count), batch_size=16)
    # Real over padded with `count` equal steps from 1 to 20, which are optimal for uniform lengths.
    assert least < padding_efficiency(lengths, order) < 10.5 / (10.5 + 19 / count / 2) + 0.005
  assert padding_efficiency(lengths, bucketed(lengths, [20.0], batch_size=16)) < 0.56

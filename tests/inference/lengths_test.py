"""Which clips share a batch, and how long it is."""

import itertools

import numpy as np
import pytest

from research.inference import lengths


def test_a_grid_ends_with_the_longest():
  found = lengths.grid(640_400, 16_000)
  assert found[-1] == 640_400 and found == sorted(found) and len(found) == 13
  assert found[0] >= 16_000 and max(b / a for a, b in itertools.pairwise(found)) < 1.34
  assert lengths.grid(5000, 16_000) == [5000]


def test_few_lengths_are_compiled():
  found = {lengths.next_length(n, 400) for n in range(400, 160_000, 97)}
  assert len(found) < 25
  for n in (1, 400, 401, 159_999):
    assert n <= lengths.next_length(n, 400) <= max(400, n * lengths.GROWTH + 1)
  # What is on the grid stays as it is.
  assert {lengths.next_length(n, 400) for n in found} == found


def test_rows_of_a_batch():
  assert lengths.rows(16_000, 320 * 16_000) == lengths.MAX_BATCH
  assert lengths.rows(160_000, 320 * 16_000) == 32
  assert lengths.rows(160_000, 320 * 16_000, multiple=6) == 36
  # A clip longer than a batch has one to itself, on every device.
  assert lengths.rows(10**9, 320 * 16_000, multiple=8) == 8
  assert [lengths.few_rows(n, 64) for n in (1, 2, 3, 16, 17, 33, 64)] == [1, 2, 4, 16, 32, 64, 64]
  assert [lengths.few_rows(n, 3) for n in (1, 2, 3)] == [1, 2, 3]
  assert [lengths.even_rows(n, 64) for n in (1, 50, 64, 65, 130)] == [1, 50, 64, 33, 44]
  assert lengths.even_rows(130, 64, multiple=8) == 48


@pytest.mark.parametrize('multiple', [1, 8])
def test_every_clip_is_in_one_batch_that_holds_it(multiple):
  rng = np.random.default_rng(0)
  durations = np.round(rng.gamma(2.2, 3.2, 500), 4)
  durations[:5] = 0.0
  batches = lengths.of_list(
    durations, sample_rate=16_000, batch_seconds=60.0, min_samples=400, multiple=multiple
  )
  rows = np.concatenate([b.rows[b.rows >= 0] for b in batches])
  assert sorted(rows) == list(range(500))
  for batch in batches:
    own = batch.rows[batch.rows >= 0]
    assert durations[own].max() * 16_000 <= batch.samples and len(batch.rows) % multiple == 0
    assert len(batch.rows) <= max(multiple, 64) and len(batch.rows) - len(own) < len(own) + multiple
    if multiple == 1:
      assert len(batch.rows) * batch.samples <= max(60 * 16_000, batch.samples)
  # One program a length, and at most a quarter of a clip is padding, on average half of that.
  assert len({(b.samples, len(b.rows)) for b in batches}) == len({b.samples for b in batches}) <= 14
  long = durations >= lengths.SHORTEST * lengths.GROWTH
  padded = np.concatenate([np.full((b.rows >= 0).sum(), b.samples) for b in batches]) / 16_000
  assert (durations[rows] / padded)[long[rows]].min() > 0.73
  assert durations.sum() / padded.sum() > 0.84


def test_clips_of_one_length_are_not_padded():
  batches = lengths.of_list(np.full(130, 5.0), sample_rate=16_000, batch_seconds=320.0)
  assert [(b.samples, len(b.rows)) for b in batches] == [(80_000, 44)] * 3
  cut = lengths.of_list(
    np.full(130, 5.0), sample_rate=16_000, batch_seconds=320.0, max_seconds=0.251
  )
  assert {b.samples for b in cut} == {4016}
  # What is too short still has a shape that runs; of nothing there is nothing.
  short = lengths.of_list(np.zeros(3), sample_rate=16_000, batch_seconds=320.0, min_samples=400)
  assert [(b.samples, len(b.rows)) for b in short] == [(400, 3)]
  assert lengths.of_list(np.zeros(0), sample_rate=16_000, batch_seconds=320.0) == []


def test_blocks_of_a_stream_meet_the_same_programs():
  grid = lengths.grid(32_000, 4000)
  rng = np.random.default_rng(1)
  programs = set()
  for _ in range(50):
    samples = rng.integers(400, 32_001, size=rng.integers(1, 40))
    batches = lengths.of_stream(samples, grid, 128_000.0)
    assert sorted(r for b in batches for r in b.rows if r >= 0) == list(range(len(samples)))
    assert all(samples[b.rows[b.rows >= 0]].max() <= b.samples for b in batches)
    programs |= {(b.samples, len(b.rows)) for b in batches}
  assert len(programs) <= 6 * len(grid)

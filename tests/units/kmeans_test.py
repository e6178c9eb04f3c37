"""k-means on fixed shapes against plain NumPy and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from research.errors import InputError
from research.units import kmeans


def blobs(seed, n=600, d=5, k=6, spread=0.3):
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(k, d)) * 3
  rows = centres[rng.integers(k, size=n)] + spread * rng.normal(size=(n, d))
  return rows.astype(np.float32)


def spoiled(x, rng, extra=50):
  """Rows with NaN ones among them, and the mask."""
  mask = np.zeros(len(x) + extra, bool)
  mask[rng.permutation(len(mask))[: len(x)]] = True
  out = np.full((len(mask), x.shape[1]), np.nan, np.float32)
  out[mask] = x
  return out, mask


def test_assignment_is_that_of_all_distances():
  rng = np.random.default_rng(0)
  x, c = rng.normal(size=(200, 7)).astype(np.float32), rng.normal(size=(11, 7)).astype(np.float32)
  labels, squared = jax.jit(kmeans.assign)(x, c)
  distances = np.square(x[:, None] - c).sum(axis=2)
  np.testing.assert_array_equal(labels, distances.argmin(axis=1))
  np.testing.assert_allclose(squared, distances.min(axis=1), rtol=1e-5)
  assert labels.dtype == np.int32
  for got, want in zip(kmeans.assign(jnp.asarray(x), jnp.asarray(c), block=40), (labels, squared)):
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_first_of_equal_centroids_wins():
  c = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]], np.float32)
  labels, _ = kmeans.assign(jnp.asarray(c), jnp.asarray(c))
  assert labels.tolist() == [0, 1, 0, 1]


def mean_inertia(*args):
  return float(jax.jit(kmeans.mean_inertia, static_argnums=3)(*args))


@pytest.mark.slow
@pytest.mark.parametrize('init', kmeans.INITS)
def test_initialisation_takes_real_rows(init):
  x, mask = spoiled(blobs(1), np.random.default_rng(1))
  start = lambda key, tries: kmeans.best_init(  # noqa: E731
    jax.random.key(key), x, mask, clusters=6, init=init, tries=tries
  )
  centroids = start(0, 1)
  rows = {row.tobytes() for row in x[mask]}
  assert all(row.tobytes() in rows for row in np.asarray(centroids))
  assert len(np.unique(np.asarray(centroids), axis=0)) == 6
  np.testing.assert_array_equal(centroids, start(0, 1))
  assert not np.array_equal(centroids, start(1, 1))
  # More tries are never worse.
  inertias = [mean_inertia(x, mask, start(0, tries)) for tries in (1, 2, 4, 8)]
  assert inertias == sorted(inertias, reverse=True) and inertias[-1] < inertias[0]


def test_the_mean_inertia_is_that_of_the_real_rows():
  x, mask = spoiled(blobs(1), np.random.default_rng(1), extra=20)
  centroids = x[mask][:6]
  distances = np.square(x[mask][:, None] - centroids).sum(axis=2).min(axis=1)
  for block in (None, len(x) // 4):
    found = mean_inertia(x, mask, centroids, block)
    np.testing.assert_allclose(found, distances.mean(), rtol=1e-5)


def test_plus_plus_finds_every_blob():
  x, mask = blobs(2, spread=0.01), np.ones(len(blobs(2)), bool)
  centroids = kmeans.best_init(jax.random.key(0), x, mask, clusters=6, tries=1)
  assert mean_inertia(x, mask, centroids) < 0.01


def test_fewer_different_rows_than_clusters():
  x, mask = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0), np.ones(60, bool)
  centroids = kmeans.best_init(jax.random.key(0), x, mask, clusters=5, tries=2)
  assert np.isfinite(centroids).all() and mean_inertia(x, mask, centroids) == 0


def test_unknown_initialisation():
  x = blobs(0)
  with pytest.raises(InputError, match=r"Unknown initialisation 'kmeans'\. Did you mean 'k-means"):
    kmeans.best_init(jax.random.key(0), x, np.ones(len(x), bool), clusters=2, init='kmeans')


def run(batches, start, grace=0, **more):
  state = kmeans.start(jnp.asarray(start))
  step = jax.jit(lambda s, x, m, k: kmeans.update(s, x, m, k, alpha=0.3, grace=grace, **more))
  states = []
  for i, (x, mask) in enumerate(batches):
    state = step(state, x, mask, jax.random.key(i))
    states.append(jax.device_get(state))
  return states


def test_updates_are_those_of_sklearn():
  cluster = pytest.importorskip('sklearn.cluster')
  rng = np.random.default_rng(3)
  batches = [blobs(3)[rng.integers(600, size=80)] for _ in range(12)]
  start = batches[0][:6]
  theirs = cluster.MiniBatchKMeans(6, init=start, n_init=1, reassignment_ratio=0.0)
  states = run([spoiled(x, rng) for x in batches], start)
  for x, state in zip(batches, states):
    theirs.partial_fit(x)
    np.testing.assert_allclose(state.centroids, theirs.cluster_centers_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.counts, theirs._counts)
    after = kmeans.mean_inertia(jnp.asarray(x), jnp.ones(80, bool), jnp.asarray(state.centroids))
    np.testing.assert_allclose(after, theirs.inertia_ / 80, rtol=1e-4)


def test_centroids_are_means_of_all_they_took():
  x = np.array([[0.0], [2.0], [10.0]], np.float32)
  ones = np.ones(3, bool)
  first, second = run([(x, ones), (x + 1, ones)], [[0.0], [9.0]])
  np.testing.assert_allclose(first.centroids, [[1], [10]])
  assert first.counts.tolist() == [2, 1]
  # The inertia is that of the centroids before: (0 + 4 + 1) / 3, and now (0 + 4 + 1) / 3.
  np.testing.assert_allclose(first.inertia, 5 / 3)
  np.testing.assert_allclose(second.centroids, [[1.5], [10.5]])
  np.testing.assert_allclose(second.inertia, (0 + 4 + 1) / 3)


def test_smoothed_inertia_and_patience():
  """scikit-learn's rule by hand: the first mini-batch is passed over, the second begins."""
  rng = np.random.default_rng(4)
  ones = np.ones(50, bool)
  states = run([(blobs(4)[rng.integers(600, size=50)], ones) for _ in range(30)], blobs(4)[:6])
  smoothed, best, stale = None, np.inf, 0
  assert np.isnan(states[0].smoothed) and states[0].stale == 0
  for state in states[1:]:
    inertia = float(state.inertia)
    smoothed = inertia if smoothed is None else 0.7 * smoothed + 0.3 * inertia
    best, stale = (smoothed, 0) if smoothed < best else (best, stale + 1)
    np.testing.assert_allclose(state.smoothed, smoothed, rtol=1e-5)
    assert state.stale == stale
  assert states[-1].steps == 30 and stale > 0


@pytest.mark.slow
def test_dead_clusters_move_to_rows_of_the_batch():
  x = blobs(5)[:100]
  far = np.full((3, 5), 1e3, np.float32) + np.arange(3, dtype=np.float32)[:, None]
  start = np.concatenate([x[:3], far])
  (state,) = run([(x, np.ones(100, bool))], start)
  moved = state.centroids[3:]
  rows = {row.tobytes() for row in x}
  assert all(row.tobytes() in rows for row in moved) and len(np.unique(moved, axis=0)) == 3
  assert state.restarts == 3 and state.counts[3:].tolist() == [0, 0, 0]
  assert state.recent.tolist() == state.counts.tolist()
  # Not before their time.
  states = run([(x, np.ones(100, bool))] * 3, start, grace=2)
  assert [int(s.restarts) for s in states] == [0, 0, 3]
  # They take frames then, and stay.
  states = run([(x, np.ones(100, bool))] * 3, start)
  assert (states[-1].counts > 0).all() and states[-1].restarts == states[1].restarts


def test_never_more_than_half_of_a_batch_are_moved():
  x = blobs(6)[:20]
  mask = np.arange(20) < 8
  start = np.concatenate([x[:1], np.full((9, 5), 1e3, np.float32)])
  (state,) = run([(np.where(mask[:, None], x, np.nan), mask)], start)
  assert state.restarts == 4 and np.isfinite(state.centroids).all()


@pytest.mark.slow
def test_poor_clusters_move_if_asked_to():
  rng = np.random.default_rng(7)
  x = np.concatenate([np.zeros((99, 2)), np.full((1, 2), 9.0)]).astype(np.float32)
  x[:99] += 0.1 * rng.normal(size=(99, 2)).astype(np.float32)
  start = np.array([[0.0, 0.0], [9.0, 9.0]], np.float32)
  ones = np.ones(100, bool)
  (kept,) = run([(x, ones)], start)
  assert kept.restarts == 0
  (moved,) = run([(x, ones)], start, reassignment_ratio=0.1)
  assert moved.restarts == 1 and moved.counts.tolist() == [99, 99]


@pytest.mark.slow
def test_rows_shared_out_over_devices_give_the_same():
  x, mask = spoiled(blobs(8), np.random.default_rng(8), extra=40)
  mesh = Mesh(np.array(jax.devices()), ('data',))
  rows = NamedSharding(mesh, PartitionSpec('data'))
  start, alone = kmeans.start(jnp.asarray(blobs(8)[:6])), []
  for place in (jnp.asarray, lambda a: jax.device_put(a, rows)):
    state = kmeans.update(start, place(x), place(mask), jax.random.key(0), alpha=0.5)
    begun = kmeans.best_init(jax.random.key(0), place(x), place(mask), clusters=6, tries=2)
    alone.append(jax.device_get((state, begun)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *alone)


@pytest.mark.slow
def test_sums_do_not_depend_on_how_they_are_computed():
  rng = np.random.default_rng(9)
  x, labels = rng.normal(size=(50, 3)).astype(np.float32), rng.integers(4, size=50)
  expected = np.stack([x[labels == k].sum(axis=0) for k in range(4)])
  got = kmeans.cluster_sums(jnp.asarray(x), jnp.asarray(labels, jnp.int32), 4)
  np.testing.assert_allclose(got, expected, atol=1e-5)

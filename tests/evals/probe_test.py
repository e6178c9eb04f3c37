"""Linear probe and kNN on synthetic embeddings with known answers."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.evals import knn, probe
from research.metrics import classification

SMALL = probe.ProbeConfig(
  learning_rates=(1e-3, 1e-2), weight_decays=(0.0, 1e-2), seeds=2, max_rounds=30
)


def blobs(n=300, classes=5, width=16, spread=0.3, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, n)
  centres = rng.normal(size=(classes, width))
  x = 7.0 + 3.0 * (centres[labels] + spread * rng.normal(size=(n, width)))
  return x.astype(np.float32), labels


def thirds(n, seed=0):
  order = np.random.default_rng(seed).permutation(n)
  return order[: n // 2], order[n // 2 : 3 * n // 4], order[3 * n // 4 :]


def test_separable_classes_are_found():
  x, labels = blobs()
  rows = thirds(len(x))
  result = probe.fit(x, labels, rows, num_classes=5, metric='accuracy', config=SMALL)
  assert result.test_scores.shape == (2, 75, 5)
  assert all(classification.accuracy(s, labels[rows[2]]) == 1.0 for s in result.test_scores)
  assert result.validation == 1.0
  assert len(result.grid) == 4


@pytest.mark.slow
def test_random_labels_stay_at_chance():
  x, _ = blobs(n=1200)
  labels = np.random.default_rng(1).integers(0, 5, 1200)
  rows = thirds(len(x))
  result = probe.fit(x, labels, rows, num_classes=5, metric='accuracy', config=SMALL)
  assert (
    abs(classification.accuracy(result.test_scores[0], labels[rows[2]]) - 0.2) < 0.09
  )  # 4 sigma
  nearest = knn.fit(x, labels, rows, num_classes=5, metric='accuracy')
  assert abs(classification.accuracy(nearest.test_scores, labels[rows[2]]) - 0.2) < 0.09


def test_probe_reaches_the_optimum_of_scikit_learn():
  linear = pytest.importorskip('sklearn.linear_model')
  x, labels = blobs(n=400, spread=1.5)
  rows = thirds(len(x))
  decay = 1e-2
  config = probe.ProbeConfig(
    learning_rates=(1e-2,), weight_decays=(decay,), seeds=1, batch_size=1000, max_rounds=60,
    patience=60, min_round_steps=100,
  )  # fmt: skip
  # Validated on its own training rows, the best round is the best fit; nothing stops early.
  result = probe.fit(
    x, labels, (rows[0], rows[0], rows[2]), num_classes=5, metric='accuracy', config=config
  )
  z = probe.standardise(x, rows[0])
  peer = linear.LogisticRegression(C=1 / (decay * len(rows[0])), tol=1e-8, max_iter=5000)
  peer.fit(z[rows[0]], labels[rows[0]])
  assert result.validation >= peer.score(z[rows[0]], labels[rows[0]])
  agree = np.mean(result.test_scores[0].argmax(1) == peer.predict(z[rows[2]]))
  assert agree >= 0.97


def test_test_rows_do_not_affect_training():
  """Standardisation, training and selection do not use the test rows."""
  x, labels = blobs(n=200, spread=1.0)
  train, validation, test = thirds(len(x))
  spoiled, wrong = x.copy(), labels.copy()
  spoiled[test[1:]] = 1e3
  wrong[test] = (wrong[test] + 1) % 5
  fit = lambda x, y: probe.fit(  # noqa: E731
    x, y, (train, validation, test), num_classes=5, metric='accuracy', config=SMALL
  )
  clean, dirty = fit(x, labels), fit(spoiled, wrong)
  np.testing.assert_array_equal(clean.test_scores[:, 0], dirty.test_scores[:, 0])
  assert (clean.learning_rate, clean.weight_decay) == (dirty.learning_rate, dirty.weight_decay)
  assert [g['validation'] for g in clean.grid] == [g['validation'] for g in dirty.grid]
  assert [g['test'] for g in clean.grid] != [g['test'] for g in dirty.grid]


def test_padding_rows_keeps_the_quality():
  x, labels = blobs(spread=0.5)
  rows = thirds(len(x))
  fit = lambda pad: probe.fit(  # noqa: E731
    x, labels, rows, num_classes=5, metric='accuracy', config=SMALL, pad_to=pad
  )
  plain, padded = fit((0, 0)), fit((200, 100))
  assert abs(plain.validation - padded.validation) <= 0.02
  assert classification.accuracy(padded.test_scores[0], labels[rows[2]]) >= 0.95


def test_the_seed_changes_minibatches_but_not_the_result():
  x, labels = blobs(spread=0.8)
  rows = thirds(len(x))
  config = probe.ProbeConfig(learning_rates=(1e-2,), weight_decays=(0.0,), seeds=3, batch_size=32)
  one = probe.fit(x, labels, rows, num_classes=5, metric='accuracy', config=config)
  two = probe.fit(x, labels, rows, num_classes=5, metric='accuracy', config=config)
  np.testing.assert_array_equal(one.test_scores, two.test_scores)
  assert np.abs(one.test_scores[0] - one.test_scores[1]).max() > 1e-3


def test_multi_label_probe_and_neighbours():
  rng = np.random.default_rng(0)
  targets = (rng.random((400, 4)) < 0.3).astype(np.float32)
  x = targets @ rng.normal(size=(4, 12)) + 0.1 * rng.normal(size=(400, 12))
  x = x.astype(np.float32)
  rows = thirds(400)
  result = probe.fit(x, targets, rows, num_classes=4, metric='mAP', config=SMALL)
  assert classification.mean_average_precision(result.test_scores[0], targets[rows[2]]) > 0.99
  nearest = knn.fit(x, targets, rows, num_classes=4, metric='mAP')
  assert classification.mean_average_precision(nearest.test_scores, targets[rows[2]]) > 0.95


def test_average_precision_in_the_loop_equals_the_metric():
  rng = np.random.default_rng(0)
  targets = (rng.random((50, 3)) < 0.3).astype(np.float32)
  targets[:, 1] = 0
  logits = rng.normal(size=(2, 50, 4, 3)).astype(np.float32)  # no ties
  valid = np.arange(50) < 40
  quick = np.asarray(probe._quick_average_precision(*map(jnp.asarray, (logits, targets, valid))))
  for k in range(2):
    for g in range(4):
      expected = classification.mean_average_precision(logits[k, :40, g], targets[:40])
      np.testing.assert_allclose(quick[k, g], expected, atol=1e-6)


def test_a_constant_feature_is_ignored():
  x, _ = blobs(n=100)
  x[:, 0] = 1e6
  z = probe.standardise(x, np.arange(50))
  assert np.all(z[:, 0] == 0)
  np.testing.assert_allclose(z[:50, 1:].std(axis=0), 1.0, rtol=1e-4)
  np.testing.assert_allclose(z[:50, 1:].mean(axis=0), 0.0, atol=1e-5)


def test_neighbours_equal_scikit_learn():
  neighbors = pytest.importorskip('sklearn.neighbors')
  x, labels = blobs(n=240, spread=1.5)
  rows = thirds(len(x))
  result = knn.fit(x, labels, rows, num_classes=5, metric='accuracy', chunk=50)
  z = probe.standardise(x, rows[0])
  expected = {}
  for k in knn.NEIGHBOURS:
    peer = neighbors.KNeighborsClassifier(
      k, metric='cosine', algorithm='brute', weights=lambda d: np.exp((1 - d) / knn.TEMPERATURE)
    )
    peer.fit(z[rows[0]], labels[rows[0]])
    expected[k] = peer.predict_proba(z[rows[2]])
    found = next(g for g in result.grid if g['neighbours'] == k)
    assert found['test'] == pytest.approx(peer.score(z[rows[2]], labels[rows[2]]), abs=1e-9)
  np.testing.assert_allclose(result.test_scores, expected[result.neighbours], atol=1e-4)


def test_more_neighbours_than_training_rows():
  x, labels = blobs(n=12, classes=2)
  rows = (np.arange(4), np.arange(4, 8), np.arange(8, 12))
  result = knn.fit(x, labels, rows, num_classes=2, metric='accuracy')
  assert [g['neighbours'] for g in result.grid] == [1, 4]


@pytest.mark.slow
def test_refit_uses_the_validation_rows():
  """A class that occurs only in validation is learned by the refit; nothing else changes."""
  x, labels = blobs(n=400)
  rows = thirds(len(x))
  train = rows[0][labels[rows[0]] != 4]
  rows = (train, rows[1], rows[2])
  fit = lambda refit: probe.fit(  # noqa: E731
    x, labels, rows, num_classes=5, metric='accuracy', config=SMALL, refit=refit, pad_to=(220, 110)
  )
  once, again = fit(False), fit(True)
  fours = labels[rows[2]] == 4
  assert not (once.test_scores[:, fours].argmax(-1) == 4).any()
  assert (again.test_scores[:, fours].argmax(-1) == 4).all()
  assert (once.grid, once.rounds) == (again.grid, again.rounds)
  near = [
    knn.fit(x, labels, rows, num_classes=5, metric='accuracy', refit=refit).test_scores[fours]
    for refit in (False, True)
  ]
  assert not near[0][:, 4].any() and (near[1].argmax(1) == 4).all()


@pytest.mark.slow
def test_refit_on_the_same_rows_gives_the_same_probe():
  """Without validation rows the refit repeats the first training: same rounds, same draws."""
  x, labels = blobs(spread=0.8)
  train, _, test = thirds(len(x))
  config = probe.ProbeConfig(learning_rates=(1e-2,), weight_decays=(1e-2,), seeds=2, max_rounds=8)
  result = probe.fit(
    x, labels, (train, train, test), num_classes=5, metric='accuracy', config=config
  )
  z = probe.standardise(x, train)
  again = probe._retrain(
    jnp.asarray(z), jnp.asarray(labels), jnp.asarray(train, jnp.int32), jnp.int32(len(train)),
    jnp.array([1e-2]), jnp.array([1e-2]), jnp.asarray(result.rounds), num_classes=5, config=config,
  )  # fmt: skip
  logits = probe._logits(again, jnp.asarray(z[test]))[:, :, 0]
  np.testing.assert_allclose(logits, result.test_scores, atol=1e-5)

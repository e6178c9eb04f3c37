"""Logistic regression at its optimum, compared with scikit-learn."""

import numpy as np
import pytest

from research.evals import logistic, probe
from research.metrics import classification
from tests.evals.probe_test import blobs, thirds


def peer_logits(x, labels, train, queries, penalty):
  linear = pytest.importorskip('sklearn.linear_model')
  z = probe.standardise(x, train).astype(np.float64)
  peer = linear.LogisticRegression(C=1 / (penalty * len(train)), tol=1e-10, max_iter=20_000)
  return peer.fit(z[train], labels[train]).decision_function(z[queries])


# More clips than features, and fewer; in a badly conditioned basis.
@pytest.mark.parametrize('width', [12, 400])
@pytest.mark.parametrize('penalty', [1.0, 1e-2, 1e-3])
def test_logits_are_those_of_scikit_learn(width, penalty):
  x, labels = blobs(n=300, width=width, spread=3.0)
  x = x @ np.random.default_rng(1).normal(size=(width, width)).astype(np.float32)
  train, validation, test = thirds(len(x))
  found = logistic.fit(
    x, labels, (train, validation, test), num_classes=5, metric='accuracy', penalties=(penalty,),
    tolerance=1e-5,
  )  # fmt: skip
  expected = peer_logits(x, labels, train, test, penalty)
  centred = found.test_scores - found.test_scores.mean(axis=1, keepdims=True)
  np.testing.assert_allclose(centred, expected, atol=1e-2 * np.abs(expected).max())
  assert found.steps < logistic.MAX_STEPS


def test_a_path_of_penalties_equals_separate_fits():
  x, labels = blobs(n=300, spread=3.0)
  rows = thirds(len(x))
  fit = lambda penalties: logistic.fit(  # noqa: E731
    x, labels, rows, num_classes=5, metric='accuracy', penalties=penalties
  )
  path = fit((1.0, 0.1, 1e-2))
  for point in path.grid:
    alone = fit((point['penalty'],)).grid[0]
    assert abs(alone['test'] - point['test']) <= 1 / len(rows[2]) + 1e-9
  assert path.validation == max(p['validation'] for p in path.grid)


def test_badly_conditioned_features_are_solved():
  """The informative direction is a thousand times smaller, too small for early-stopped descent."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 2, 600)
  loud = rng.normal(size=(600, 1)).astype(np.float32)
  small = 1e-3 * (2 * labels[:, None] - 1 + 0.3 * rng.normal(size=(600, 1)))
  x = np.concatenate([loud + small, loud - small], axis=1).astype(np.float32)
  rows = thirds(600)
  found = logistic.fit(x, labels, rows, num_classes=2, metric='accuracy', penalties=(1e-7,))
  assert classification.accuracy(found.test_scores, labels[rows[2]]) > 0.98


def test_multi_label_classes_are_solved_independently():
  linear = pytest.importorskip('sklearn.linear_model')
  rng = np.random.default_rng(0)
  targets = (rng.random((400, 4)) < 0.3).astype(np.float32)
  x = (targets @ rng.normal(size=(4, 12)) + rng.normal(size=(400, 12))).astype(np.float32)
  rows = thirds(400)
  found = logistic.fit(
    x, targets, rows, num_classes=4, metric='mAP', penalties=(1e-2,), tolerance=1e-5
  )
  z = probe.standardise(x, rows[0])
  for c in range(4):
    peer = linear.LogisticRegression(C=1 / (1e-2 * len(rows[0])), tol=1e-10, max_iter=20_000)
    expected = peer.fit(z[rows[0]], targets[rows[0], c]).decision_function(z[rows[2]])
    np.testing.assert_allclose(found.test_scores[:, c], expected, atol=3e-2)


def test_test_rows_do_not_affect_training():
  x, labels = blobs(n=200, spread=1.0)
  train, validation, test = thirds(len(x))
  spoiled, wrong = x.copy(), labels.copy()
  spoiled[test[1:]] = 1e3
  wrong[test] = (wrong[test] + 1) % 5
  fit = lambda x, y: logistic.fit(  # noqa: E731
    x, y, (train, validation, test), num_classes=5, metric='accuracy', refit=True
  )
  clean, dirty = fit(x, labels), fit(spoiled, wrong)
  np.testing.assert_allclose(clean.test_scores[0], dirty.test_scores[0], atol=1e-5)
  assert clean.penalty == dirty.penalty


def test_refit_uses_the_validation_rows():
  """A class that occurs only in validation is learned by the refit; the grid is unchanged."""
  x, labels = blobs(n=400)
  rows = thirds(len(x))
  rows = (rows[0][labels[rows[0]] != 4], rows[1], rows[2])
  once, again = (
    logistic.fit(x, labels, rows, num_classes=5, metric='accuracy', refit=refit)
    for refit in (False, True)
  )
  fours = labels[rows[2]] == 4
  assert not (once.test_scores[fours].argmax(1) == 4).any()
  assert (again.test_scores[fours].argmax(1) == 4).all()
  assert once.grid == again.grid

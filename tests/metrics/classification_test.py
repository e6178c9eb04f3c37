"""Metrics against scikit-learn or values computed by hand."""

import numpy as np
import pytest

from research.metrics import classification

metrics = pytest.importorskip('sklearn.metrics')


@pytest.fixture(params=[0, 1, 2])
def single(request):
  rng = np.random.default_rng(request.param)
  logits = rng.normal(size=(301, 9)).astype(np.float32)
  labels = rng.integers(0, 8, 301)  # class 8 never occurs but is sometimes predicted
  logits[np.arange(301), labels] += 1.0
  return logits, labels


@pytest.fixture(params=[0, 1, 2])
def multi(request):
  rng = np.random.default_rng(request.param)
  targets = (rng.random((257, 7)) < np.linspace(0.02, 0.6, 7)).astype(np.float32)
  targets[:, 3] = 0  # a class without a positive
  logits = rng.normal(size=(257, 7)) + targets
  return np.round(logits, 1).astype(np.float32), targets  # rounded, for many ties


def test_single_label_scores_equal_scikit_learn(single):
  logits, labels = single
  predicted = logits.argmax(1)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)  # noqa: E731
  close(classification.accuracy(logits, labels), metrics.accuracy_score(labels, predicted))
  close(
    classification.macro_f1(logits, labels), metrics.f1_score(labels, predicted, average='macro')
  )
  with pytest.warns(UserWarning):
    close(
      classification.balanced_accuracy(logits, labels),
      metrics.balanced_accuracy_score(labels, predicted),
    )
  for k in (2, 3, 5):
    close(
      classification.top_k_accuracy(logits, labels, k),
      metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(9)),
    )
  np.testing.assert_array_equal(
    classification.confusion_matrix(predicted, labels, 9),
    metrics.confusion_matrix(labels, predicted, labels=range(9)),
  )


def test_multi_label_scores_equal_scikit_learn(multi):
  logits, targets = multi
  kept = [c for c in range(7) if c != 3]
  expected = [metrics.average_precision_score(targets[:, c], logits[:, c]) for c in kept]
  np.testing.assert_allclose(
    classification.average_precision(logits, targets)[kept], expected, atol=1e-6
  )
  assert np.isnan(classification.average_precision(logits, targets)[3])
  np.testing.assert_allclose(
    classification.mean_average_precision(logits, targets),
    metrics.average_precision_score(targets[:, kept], logits[:, kept], average='macro'),
    atol=1e-6,
  )
  expected = [metrics.roc_auc_score(targets[:, c], logits[:, c]) for c in kept]
  np.testing.assert_allclose(
    classification.area_under_curve(logits, targets)[kept], expected, atol=1e-6
  )
  np.testing.assert_allclose(classification.mean_auc(logits, targets), np.mean(expected), atol=1e-6)


def test_values_computed_by_hand():
  logits = np.array([[0.9], [0.8], [0.7], [0.6]])
  targets = np.array([[1], [0], [1], [0]])
  np.testing.assert_allclose(
    classification.mean_average_precision(logits, targets), (1 + 2 / 3) / 2
  )
  np.testing.assert_allclose(classification.mean_auc(logits, targets), 3 / 4)
  # d' of 0.921350 is 2: Phi(sqrt(2)) = 0.921350.
  np.testing.assert_allclose(classification.d_prime(0.9213503964748575), 2.0, atol=1e-9)
  assert classification.d_prime(0.5) == 0.0


def test_confidence_interval_is_students():
  mean, half = classification.mean_ci(np.array([0.8, 0.9, 1.0]))
  np.testing.assert_allclose(mean, 0.9)
  np.testing.assert_allclose(half, 4.302652729749464 * 0.1 / 3**0.5, rtol=1e-9)  # t(0.975, df 2)
  assert classification.mean_ci(np.array([0.5])) == (0.5, None)


def test_all_scores_chooses_by_the_shape_of_the_labels(single, multi):
  assert set(classification.all_scores(*single)) == {
    'accuracy', 'balanced_accuracy', 'macro_f1', 'top_5_accuracy',
  }  # fmt: skip
  assert set(classification.all_scores(*multi)) == {'mAP', 'AUC', 'd_prime'}
  assert 'top_5_accuracy' not in classification.all_scores(single[0][:, :5], single[1] % 5)
  assert np.isnan(classification.per_class(*single)[8])
  assert np.isnan(classification.per_class(*multi)[3])

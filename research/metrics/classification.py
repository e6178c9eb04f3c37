"""Classification metrics in NumPy. Dimensions: b clips, c classes.

Single-label functions take scores [b, c] and labels int [b]; multi-label ones take scores [b, c]
and targets {0, 1} [b, c]. An undefined metric (a class without a positive) is nan in per-class
arrays and left out of means, as published for AudioSet and FSD50K.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy import special, stats


def top_k_accuracy(
  scores: Float[np.ndarray, 'b c'], labels: Int[np.ndarray, ' b'], k: int = 1
) -> float:
  """Fraction of clips whose label is among the k highest scores."""
  if k == 1:
    return float(np.mean(np.argmax(scores, axis=1) == labels))
  top = np.argsort(scores, axis=1, kind='stable')[:, ::-1][:, :k]
  return float(np.mean(np.any(top == labels[:, None], axis=1)))


def accuracy(scores: Float[np.ndarray, 'b c'], labels: Int[np.ndarray, ' b']) -> float:
  """Fraction of clips whose label has the highest score."""
  return top_k_accuracy(scores, labels, 1)


def confusion_matrix(
  predicted: Int[np.ndarray, ' b'], labels: Int[np.ndarray, ' b'], num_classes: int
) -> Int[np.ndarray, 'c c']:
  """Counts [true class, predicted class]."""
  flat = labels.astype(np.int64) * num_classes + predicted.astype(np.int64)
  return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def recall(
  scores: Float[np.ndarray, 'b c'], labels: Int[np.ndarray, ' b']
) -> Float[np.ndarray, ' c']:
  """Recall of each class; nan for a class without clips."""
  matrix = confusion_matrix(np.argmax(scores, axis=1), labels, scores.shape[1])
  total = matrix.sum(axis=1)
  return np.divide(np.diag(matrix), total, out=np.full(len(total), np.nan), where=total > 0)


def balanced_accuracy(scores: Float[np.ndarray, 'b c'], labels: Int[np.ndarray, ' b']) -> float:
  """Mean recall over the classes that occur among the labels."""
  return float(np.nanmean(recall(scores, labels)))


def macro_f1(scores: Float[np.ndarray, 'b c'], labels: Int[np.ndarray, ' b']) -> float:
  """Mean F1 over the classes that occur in labels or predictions, as in scikit-learn."""
  matrix = confusion_matrix(np.argmax(scores, axis=1), labels, scores.shape[1])
  hits = np.diag(matrix)
  both = matrix.sum(axis=0) + matrix.sum(axis=1)
  seen = both > 0
  return float(np.mean(2 * hits[seen] / both[seen]))


def average_precision(
  scores: Float[np.ndarray, 'b c'], targets: np.ndarray
) -> Float[np.ndarray, ' c']:
  """Average precision of each class: the sum over thresholds of (recall step) * precision. Clips
  with equal scores share a threshold. nan for a class without a positive clip."""
  result = np.full(scores.shape[1], np.nan)
  for c in range(scores.shape[1]):
    order = np.argsort(-scores[:, c], kind='stable')
    positives = np.asarray(targets[order, c], np.float64)
    if not positives.any():
      continue
    hits = np.cumsum(positives)
    last = np.append(np.diff(scores[order, c]) != 0, True)  # last clip of each run of equal scores
    precision = hits[last] / (np.flatnonzero(last) + 1)
    steps = np.diff(hits[last], prepend=0.0) / hits[-1]
    result[c] = np.sum(steps * precision)
  return result


def mean_average_precision(scores: Float[np.ndarray, 'b c'], targets: np.ndarray) -> float:
  """mAP: mean over the classes with a positive clip."""
  return _mean_defined(average_precision(scores, targets))


def area_under_curve(
  scores: Float[np.ndarray, 'b c'], targets: np.ndarray
) -> Float[np.ndarray, ' c']:
  """Area under the ROC curve of each class (the Mann-Whitney statistic, ties count half); nan for a
  class without a positive or without a negative clip."""
  positive = np.asarray(targets, bool)
  num = positive.sum(axis=0)
  defined = (num > 0) & (num < len(positive))
  ranks = stats.rankdata(scores, axis=0)
  below = np.sum(ranks * positive, axis=0) - num * (num + 1) / 2
  pairs = num * (len(positive) - num)
  return np.divide(below, pairs, out=np.full(len(num), np.nan), where=defined)


def mean_auc(scores: Float[np.ndarray, 'b c'], targets: np.ndarray) -> float:
  """Mean area under the ROC curve over the classes with positives and negatives."""
  return _mean_defined(area_under_curve(scores, targets))


def d_prime(auc: float) -> float:
  """d' of two unit-variance normals with this area under the ROC curve: sqrt(2) * Phi^-1(auc), the
  convention of the AudioSet baseline (Hershey et al., 2017, arXiv 1609.09430)."""
  return float(np.sqrt(2.0) * special.ndtri(auc))


def mean_d_prime(scores: Float[np.ndarray, 'b c'], targets: np.ndarray) -> float:
  """d' of the mean AUC."""
  return d_prime(mean_auc(scores, targets))


def mean_ci(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float | None]:
  """Mean and half-width of its Student t interval; the half-width is None for a single value."""
  values = np.asarray(values, np.float64).ravel()
  if len(values) < 2:
    return float(values.mean()), None
  t = float(special.stdtrit(len(values) - 1, 0.5 + confidence / 2))
  return float(values.mean()), t * float(values.std(ddof=1)) / len(values) ** 0.5


def _mean_defined(values: np.ndarray) -> float:
  defined = ~np.isnan(values)
  return float(values[defined].mean()) if defined.any() else float('nan')


def top_5_accuracy(scores: Float[np.ndarray, 'b c'], labels: Int[np.ndarray, ' b']) -> float:
  """Fraction of clips whose label is among the 5 highest scores."""
  return top_k_accuracy(scores, labels, 5)


SINGLE_LABEL: dict[str, Callable[..., float]] = {
  'accuracy': accuracy,
  'balanced_accuracy': balanced_accuracy,
  'macro_f1': macro_f1,
  'top_5_accuracy': top_5_accuracy,
}
MULTI_LABEL: dict[str, Callable[..., float]] = {
  'mAP': mean_average_precision,
  'AUC': mean_auc,
  'd_prime': mean_d_prime,
}
METRICS = SINGLE_LABEL | MULTI_LABEL


def all_scores(scores: Float[np.ndarray, 'b c'], labels: np.ndarray) -> dict[str, float]:
  """All applicable metrics: single-label for labels [b], multi-label for labels [b, c]. Top-5
  accuracy is left out for 5 classes or fewer, where it is always 1."""
  table = SINGLE_LABEL if labels.ndim == 1 else MULTI_LABEL
  few = scores.shape[1] <= 5
  return {n: f(scores, labels) for n, f in table.items() if not (few and n == 'top_5_accuracy')}


def per_class(scores: Float[np.ndarray, 'b c'], labels: np.ndarray) -> Float[np.ndarray, ' c']:
  """Recall (single-label) or average precision (multi-label) of each class; nan where undefined."""
  return recall(scores, labels) if labels.ndim == 1 else average_precision(scores, labels)

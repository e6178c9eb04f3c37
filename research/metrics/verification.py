"""Verification of pairs (same speaker or not): equal error rate, minimum detection cost.

Letters: p pairs, m thresholds.
"""

import numpy as np
from jaxtyping import Float
from scipy import interpolate, optimize

from research.errors import InputError


def roc(
  scores: Float[np.ndarray, ' p'], same: np.ndarray
) -> tuple[Float[np.ndarray, ' m'], Float[np.ndarray, ' m'], Float[np.ndarray, ' m']]:
  """The ROC curve at falling thresholds, without the points that lie between two collinear ones.

  Args:
    scores: higher is more alike.
    same: which pairs are targets, bool or {0, 1} [p].

  Returns:
    false alarm rates, hit rates and thresholds, a pair being accepted at score >= threshold; the
    first threshold is infinite: nothing is accepted.

  Raises:
    InputError: a score is not finite, or all pairs are of one kind.
  """
  alarms, hits, thresholds = _accepted(scores, same)
  keep = np.ones(len(alarms), bool)
  keep[1:-1] = (np.diff(alarms, 2) != 0) | (np.diff(hits, 2) != 0)
  # The rejecting point comes after the thinning, as in scikit-learn's roc_curve.
  return (
    np.append(0.0, alarms[keep] / alarms[-1]),
    np.append(0.0, hits[keep] / hits[-1]),
    np.append(np.inf, thresholds[keep]),
  )


def equal_error_rate(scores: Float[np.ndarray, ' p'], same: np.ndarray) -> tuple[float, float]:
  """Where misses equal false alarms on the ROC curve, points joined by straight lines.

  The definition of VoxCeleb and SUPERB (s3prl/metric/common.py). Arguments and errors as of `roc`.

  Returns:
    the rate, a fraction, and the threshold there; that may be infinite.
  """
  alarms, hits, thresholds = roc(scores, same)
  curve = interpolate.interp1d(alarms, hits)
  rate = optimize.brentq(lambda x: 1.0 - x - curve(x), 0.0, 1.0)
  with np.errstate(invalid='ignore'):  # between infinity and a number
    return float(rate), float(interpolate.interp1d(alarms, thresholds)(rate))


def minimum_detection_cost(
  scores: Float[np.ndarray, ' p'],
  same: np.ndarray,
  *,
  p_target: float = 0.01,
  c_miss: float = 1.0,
  c_fa: float = 1.0,
) -> tuple[float, float]:
  """min over thresholds of (c_miss P_miss p + c_fa P_fa (1 - p)) / min(c_miss p, c_fa (1 - p)).

  At most 1, the cost of one answer to all (NIST speaker recognition evaluations; minDCF of
  VoxCeleb). Arguments and errors as of `roc`.

  Returns:
    the cost, and the highest threshold that reaches it.
  """
  alarms, hits, thresholds = _accepted(scores, same)
  rates = [np.concatenate([[0.0], x / x[-1]]) for x in (alarms, hits)]
  cost = c_miss * (1.0 - rates[1]) * p_target + c_fa * rates[0] * (1.0 - p_target)
  best = int(np.argmin(cost))
  floor = min(c_miss * p_target, c_fa * (1.0 - p_target))
  return float(cost[best] / floor), float(np.concatenate([[np.inf], thresholds])[best])


def _accepted(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Accepted non-targets and targets at each distinct score, falling, and these scores."""
  scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
  if scores.ndim != 1 or scores.shape != same.shape:
    raise InputError(
      f'verification got scores {scores.shape} and labels {same.shape}: one of each for a pair is '
      'expected.'
    )
  if not np.isfinite(scores).all():
    raise InputError('verification got scores that are not finite: give a number for every pair.')
  if same.all() or not same.any():
    raise InputError(
      f'verification got {len(same)} pairs of one kind: both targets and non-targets are needed.'
    )
  order = np.argsort(-scores, kind='stable')
  last = np.append(np.diff(scores[order]) != 0, True)
  hits = np.cumsum(same[order])[last].astype(np.float64)
  return np.flatnonzero(last) + 1.0 - hits, hits, scores[order][last]

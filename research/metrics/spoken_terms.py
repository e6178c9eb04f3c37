"""Spoken term detection: the term-weighted value (NIST STD 2006 plan, section 3; QUESST 2014).

Letters: q queries, r documents.
"""

import numpy as np
from jaxtyping import Float

from research.errors import InputError

# QUESST 2014: P_target, C_miss, C_fa; and the score of a pair that a system does not list.
P_TARGET, C_MISS, C_FA, UNLISTED = 0.0008, 100.0, 1.0, -10.0


def beta(p_target: float = P_TARGET, c_miss: float = C_MISS, c_fa: float = C_FA) -> float:
  """Weight of false alarms: (c_fa / c_miss) (1 / p_target - 1); 12.49 for QUESST 2014."""
  return c_fa / c_miss * (1.0 / p_target - 1.0)


def term_weighted_value(
  scores: Float[np.ndarray, 'q r'],
  target: np.ndarray,
  threshold: float,
  *,
  weight: float | None = None,
  unlisted: float = UNLISTED,
) -> float:
  """Mean over queries of 1 - P_miss - weight * P_fa, pairs with score >= threshold accepted.

  Args:
    scores: nan where a pair is not listed.
    target: which documents contain the query, bool or {0, 1} [q, r]; queries without any do not
      count.
    threshold: of the decision, one for all queries.
    weight: of false alarms; `beta()` by default.
    unlisted: score of pairs that are not listed.

  Raises:
    InputError: no query has a target.
  """
  scores, hits, alarms = _weights(scores, target, unlisted)
  gain = hits - (beta() if weight is None else weight) * alarms
  return float(gain[scores >= threshold].sum())


def maximum_term_weighted_value(
  scores: Float[np.ndarray, 'q r'],
  target: np.ndarray,
  *,
  weight: float | None = None,
  unlisted: float = UNLISTED,
) -> tuple[float, float]:
  """The largest term-weighted value over thresholds (MTWV); at least 0, for accepting nothing.

  Arguments and errors as of `term_weighted_value`.

  Returns:
    the value, and the lowest accepted score there, infinite where nothing is accepted.
  """
  scores, hits, alarms = _weights(scores, target, unlisted)
  gain = hits - (beta() if weight is None else weight) * alarms
  order = np.argsort(-scores, kind='stable')
  value, sorted_ = np.cumsum(gain[order]), scores[order]
  last = np.append(np.diff(sorted_) != 0, True)  # pairs with equal scores go together
  best = int(np.argmax(value[last]))
  if value[last][best] <= 0.0:
    return 0.0, float('inf')
  return float(value[last][best]), float(sorted_[last][best])


def _weights(scores: np.ndarray, target: np.ndarray, unlisted: float):
  """Every pair's score, and what accepting it adds to mean hits and to mean false alarms."""
  scores, target = np.asarray(scores, np.float64), np.asarray(target, bool)
  if scores.shape != target.shape or scores.ndim != 2:
    raise InputError(
      f'term-weighted value got scores {scores.shape} and targets {target.shape}: [queries, '
      'documents] of both is expected.'
    )
  kept = target.any(axis=1)
  if not kept.any():
    raise InputError('term-weighted value got no query with a target document.')
  scores = np.where(np.isnan(scores), unlisted, scores)[kept]
  target = target[kept]
  hits = target / target.sum(axis=1, keepdims=True) / len(target)
  others = np.maximum((~target).sum(axis=1, keepdims=True), 1)
  alarms = ~target / others / len(target)
  return scores.ravel(), hits.ravel(), alarms.ravel()

"""What a score of two recordings means: thresholds and a probability, from a labelled list.

Letters: p pairs.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize, special

from research.errors import InputError
from research.jobs import folders
from research.metrics import verification

FORMAT = 1
# Of the slope, whose square costs 1 / (2 C) against the sum over pairs: only for lists in which
# every target is above every other pair, where no slope is steep enough.
C = 1e4
# A target is as probable as in VoxCeleb's minDCF.
P_TARGET = 0.01
RULES = ('eer', 'cost')


@dataclasses.dataclass(frozen=True)
class Calibration:
  """Of the scores of one model.

  Attributes:
    slope, offset: log-likelihood ratio = slope * score + offset.
    eer: equal error rate, a fraction.
    eer_threshold: the score there.
    min_dcf: minimum detection cost at `p_target`, costs of 1.
    min_dcf_threshold: the lowest score that is accepted there; infinite where accepting nothing is
      cheapest.
    p_target: probability of a target in that cost.
    pairs, targets: of the list.
    model: hash of the weights that gave the scores; '' for any.
    seconds: of each recording that were heard; None for all.
  """

  slope: float
  offset: float
  eer: float
  eer_threshold: float
  min_dcf: float
  min_dcf_threshold: float
  p_target: float
  pairs: int
  targets: int
  model: str = ''
  seconds: float | None = None

  def threshold(self, rule: str = 'eer') -> float:
    """The score at which a pair is accepted, where misses equal false alarms ('eer') or where
    errors cost least ('cost')."""
    if rule not in RULES:
      raise InputError(f'Threshold {rule!r} is not known: give one of {", ".join(RULES)}.')
    return self.eer_threshold if rule == 'eer' else self.min_dcf_threshold

  def probability(self, score: Any, prior: float = 0.5) -> Any:
    """That a pair with this score is of one speaker, where `prior` of all pairs are."""
    return special.expit(self.slope * np.asarray(score) + self.offset + special.logit(prior))


def calibrate(
  scores: Float[np.ndarray, ' p'],
  same: np.ndarray,
  *,
  p_target: float = P_TARGET,
  model: str = '',
  seconds: float | None = None,
) -> Calibration:
  """The calibration of labelled scores.

  Slope and offset are those of a logistic regression in which targets and other pairs weigh as much
  in all, so that they give a log-likelihood ratio (Brümmer, "Measuring, refining and calibrating
  speaker and language information", 2010).

  Args:
    scores: higher is more alike.
    same: which pairs are targets.
    p_target: of the minimum cost.
    model: hash of the weights.
    seconds: of each recording that were heard; None for all.

  Raises:
    InputError: a score is not finite, all pairs are of one kind, or p_target is no probability.
  """
  if not 0 < p_target < 1:
    raise InputError(f'p_target is {p_target:g}; expected a probability between 0 and 1.')
  scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
  eer, eer_threshold = verification.equal_error_rate(scores, same)
  cost, cost_threshold = verification.minimum_detection_cost(scores, same, p_target=p_target)
  if not np.isfinite(eer_threshold):  # no error below the highest score
    eer_threshold = float(scores.max())
  slope, offset = _logistic(scores, same)
  return Calibration(
    slope, offset, eer, eer_threshold, cost, cost_threshold, p_target, len(same), int(same.sum()),
    model, seconds,
  )  # fmt: skip


def _logistic(scores: np.ndarray, same: np.ndarray) -> tuple[float, float]:
  weight = np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum()) * len(same)
  sign = np.where(same, 1.0, -1.0)
  features = np.stack([scores, np.ones_like(scores)])

  def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
    z = sign * (w @ features)
    value = weight @ np.logaddexp(0.0, -z) + w[0] ** 2 / (2 * C)
    slope = features @ (-weight * sign * special.expit(-z))
    return value, slope + np.array([w[0] / C, 0.0])

  def curvature(w: np.ndarray) -> np.ndarray:
    p = special.expit(w @ features)
    return (features * (weight * p * (1 - p))) @ features.T + np.diag([1 / C, 1e-12])

  found = optimize.minimize(
    loss, np.zeros(2), jac=True, hess=curvature, method='trust-exact', options=dict(gtol=1e-9)
  )
  return float(found.x[0]), float(found.x[1])


def save(calibration: Calibration, path: str | os.PathLike) -> None:
  """Writes it as JSON; what is infinite is null."""
  values = {
    k: None if isinstance(v, float) and not np.isfinite(v) else v
    for k, v in dataclasses.asdict(calibration).items()
  }
  Path(path).parent.mkdir(parents=True, exist_ok=True)
  folders.replace_text(Path(path), json.dumps({'format': FORMAT, **values}, indent=2) + '\n')


def load(path: str | os.PathLike, model: str | None = None) -> Calibration:
  """Reads what `save` wrote.

  Args:
    path: the file.
    model: hash of the weights that it is wanted for; None for any.

  Raises:
    InputError: it cannot be read, is no calibration, or one of other weights.
  """
  try:
    values = json.loads(Path(path).expanduser().read_text(encoding='utf-8'))
  except OSError as error:
    raise InputError(f'{path} cannot be read: {error.strerror or error}.') from None
  except (ValueError, RecursionError):
    values = None
  known = {f.name: f.type for f in dataclasses.fields(Calibration)}
  wanted: dict[Any, Any] = {
    float: (int, float),
    int: int,
    str: str,
    float | None: (int, float, type(None)),
  }
  if not isinstance(values, dict) or values.get('format') != FORMAT:
    raise InputError(f'{path} is no calibration: launch.verify --calibrate writes one.')
  found: dict[str, Any] = {k: values.get(k) for k in known}
  if found['min_dcf_threshold'] is None:
    found['min_dcf_threshold'] = float('inf')
  for name, kind in known.items():
    if not isinstance(found[name], wanted[kind]) or isinstance(found[name], bool):
      raise InputError(f'{path} is damaged: its {name} is {found[name]!r}.')
  made = Calibration(**found)
  if model is not None and made.model not in ('', model):
    raise InputError(f'{path} is the calibration of other weights: make one of these.')
  return made

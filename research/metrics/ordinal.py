"""Ordered classes: how far predictions are off, and agreement beyond chance (EvalSIFT's
controllable generation, arXiv 2504.09081, table 6). Classes are whole numbers in their order."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from research.errors import InputError


def mean_absolute_error(reference: Int[np.ndarray, 'b'], predicted: Int[np.ndarray, 'b']) -> float:
  """Mean number of classes between prediction and reference.

  Raises:
    InputError: the numbers of predictions and references differ, or there are none.
  """
  reference, predicted = _pair(reference, predicted)
  return float(np.abs(reference - predicted).mean())


def quadratic_weighted_kappa(
  reference: Int[np.ndarray, 'b'], predicted: Int[np.ndarray, 'b']
) -> float:
  """Cohen's kappa with weights (i - j)^2: 1 - sum(w O) / sum(w E), O the counts of pairs, E what
  the marginals give by chance.

  Returns:
    1 for equal predictions, 0 for those of chance; nan if both are constant and equal.

  Raises:
    InputError: as `mean_absolute_error`.
  """
  reference, predicted = _pair(reference, predicted)
  observed = float(((reference - predicted) ** 2).mean())
  # The mean over all pairs of a reference and a prediction.
  chance = float(
    (reference**2).mean() + (predicted**2).mean() - 2 * reference.mean() * predicted.mean()
  )
  return float('nan') if chance <= 0 else 1 - observed / chance


def over_runs(
  reference: Int[np.ndarray, 'b'], runs: Sequence[Int[np.ndarray, 'b']]
) -> dict[str, float]:
  """Mean of both over several runs of one system; a kappa that is undefined is left out."""
  errors = [mean_absolute_error(reference, each) for each in runs]
  kappas = np.array([quadratic_weighted_kappa(reference, each) for each in runs])
  known = kappas[~np.isnan(kappas)]
  return {
    'mae': float(np.mean(errors)),
    'quadratic_weighted_kappa': float(known.mean()) if len(known) else float('nan'),
  }


def _pair(reference: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  given = [np.asarray(x, np.float64) for x in (reference, predicted)]
  if given[0].shape != given[1].shape or not given[0].size:
    raise InputError(
      f'{given[0].size} references cannot be compared with {given[1].size} predictions: give one '
      'prediction per reference.'
    )
  return given[0], given[1]

"""Labels over time against those of a reference: mean average precision by file and by second.

Letters: m seconds, c labels.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from research.errors import InputError
from research.metrics.classification import mean_average_precision

# A label counts in a second that it fills by this fraction.
FILLED = 0.5


def targets(
  turns: Sequence[tuple[str, float, float]], labels: Sequence[str], seconds: int
) -> Bool[np.ndarray, 'm c']:
  """Which labels fill half of a second or more.

  Args:
    turns: (label, start, end) in seconds; those of one label do not overlap.
    labels: columns; others are not looked at.
    seconds: m.
  """
  filled = np.zeros((seconds, len(labels)))
  begins = np.arange(seconds)
  for name, start, end in turns:
    if name in labels:
      covered = np.minimum(end, begins + 1) - np.maximum(start, begins)
      filled[:, labels.index(name)] += np.maximum(covered, 0.0)
  return filled >= FILLED - 1e-9


def mean_average_precisions(
  scores: Sequence[Float[np.ndarray, '_ c']],
  turns: Sequence[Sequence[tuple[str, float, float]]],
  labels: Sequence[str],
) -> dict[str, float]:
  """'map_file' and 'map_second': means over labels that occur of average precisions. The score of a
  file is its highest.

  Args:
    scores: of every second, by recording.
    turns: of each, as of `targets`.
    labels: columns.

  Raises:
    InputError: no recordings.
  """
  if not scores:
    raise InputError('There are no scores of recordings to be compared with a reference.')
  seconds = [targets(own, labels, len(x)) for x, own in zip(scores, turns, strict=True)]
  whole = [[any(name == turn[0] for turn in own) for name in labels] for own in turns]
  by_file = np.stack([x.max(axis=0) for x in scores]), np.array(whole)
  by_second = np.concatenate(list(scores)), np.concatenate(seconds)
  return {
    'map_file': mean_average_precision(*by_file),
    'map_second': mean_average_precision(*by_second),
  }

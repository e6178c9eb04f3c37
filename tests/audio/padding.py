"""Padding efficiency of batches."""

import numpy as np

from research.audio import batching


def padding_efficiency(durations: np.ndarray, plan: batching.Bucketed, epoch: int = 0) -> float:
  """Real seconds over padded seconds of one epoch of bucketed batches."""
  real = padded = 0.0
  for batch in plan.epoch(epoch):
    seconds = plan.samples[batch.bucket] / plan.sample_rate
    real += np.minimum(durations[batch.rows], seconds).sum()
    padded += seconds * len(batch.rows)
  return float(real / padded)

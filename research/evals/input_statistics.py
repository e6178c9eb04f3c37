"""Mean and standard deviation of a task's log-mel values, for models normalised by them.

BYOL-A's protocol: v1 uses at most 10,000 training clips, or of all clips with cross-validation
(evaluate.py of nttcslab/byol-a); EVAR uses 5000 or more (evar/ar_base.py of
nttcslab/eval-audio-repr). Labels are not read.
"""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from research import distributed
from research.errors import InputError
from research.evals.cache import files_hash
from research.evals.tasks import Prepared
from research.inference.embedder import Embedder, digest
from research.inference.stream import stream
from research.jobs import folders

MAX_CLIPS = 10_000
SEED = 0


class Statistics(NamedTuple):
  """Mean and standard deviation over all bins and frames of `clips` clips; `of` describes them."""

  mean: float
  std: float
  clips: int
  of: str


@dataclasses.dataclass(frozen=True)
class _Moments:
  """An `embed` with one token per clip: (mean, variance, frames) of its log-mel values."""

  frontend: Any

  def __call__(self, variables: Any, audio: Array, mask: Array) -> tuple[Array, Array]:
    values, real = self.frontend.raw(audio, mask)
    frames = jnp.maximum(real.sum(axis=1).astype(jnp.float32), 1.0)

    def over(x):
      return jnp.where(real[..., None], x, 0.0).mean(axis=2).sum(axis=1) / frames

    mean = over(values)
    variance = over(jnp.square(values - mean[:, None, None]))
    moments = jnp.stack([mean, variance, frames], axis=-1)
    return moments[None, :, None], real.any(axis=1, keepdims=True)


def of_task(
  embedder: Embedder, task: Prepared, cache: str | os.PathLike | None = None
) -> Statistics:
  """Statistics of a task's training clips (of all clips with cross-validation), on every process.

  Args:
    embedder: provides the front-end.
    task: provides the clips.
    cache: folder that keeps the result for the next run; read only by single-process runs.

  Raises:
    InputError: no clip can be read, or all values are equal.
  """
  folds = task.splits.folds
  rows, of = folds[0].train, 'training clips'
  if not task.splits.published_validation:
    # Validation rows drawn from train are training data too. With them, two tasks on the same
    # clips that draw validation by their own classes share statistics, and so embeddings.
    rows = np.sort(np.concatenate([rows, folds[0].validation]))
    of = 'training clips, including validation'
  if len(folds) > 1:
    rows, of = np.arange(len(task.source)), 'clips, all folds'
  if len(rows) > MAX_CLIPS:
    rows = np.sort(np.random.default_rng(SEED).choice(rows, MAX_CLIPS, replace=False))
  source = task.source.select(rows)
  kept = None
  if cache is not None:
    settings = {k: v for k, v in embedder.frontend.to_dict().items() if k not in ('mean', 'std')}
    parts = [settings, source.fingerprint(), files_hash(source), task.task.seconds]
    kept = Path(cache) / f'statistics_{digest(*parts)}.json'
    if jax.process_count() == 1 and (found := _read(kept)) is not None:
      return found
  probe = dataclasses.replace(
    embedder, apply=_Moments(embedder.frontend), variables={}, max_seconds=None
  )
  chunks = stream(probe, source, layers=(0,), pool='mean', seconds=task.task.seconds)
  moments = np.zeros((len(source), 3), np.float32)
  for chunk in chunks:
    moments[chunk.rows] = chunk.values[0]
  # Every process has some of the clips. What cannot be read has no frames.
  moments = distributed.total(moments).astype(np.float64)
  moments = moments[moments[:, 2] > 0]
  if not len(moments):
    raise InputError(f'Task {task.task.name}: no training clip could be read.')
  mean, within, frames = moments.T
  average = np.average(mean, weights=frames)
  variance = np.average(within + np.square(mean - average), weights=frames)
  if not variance > 1e-6:
    raise InputError(
      f'Task {task.task.name}: all log-mel values of the training clips are equal (silence?). '
      'Check the audio files.'
    )
  # Four decimals do not depend on how the clips were batched.
  measured = Statistics(round(float(average), 4), round(float(variance**0.5), 4), len(mean), of)
  if kept is not None and jax.process_index() == 0:
    with contextlib.suppress(OSError):  # a shared cache may be read-only
      kept.parent.mkdir(parents=True, exist_ok=True)
      folders.replace_text(kept, json.dumps(measured._asdict()))
  return measured


def _read(path: Path) -> Statistics | None:
  """Cached statistics; None if the file is missing or invalid."""
  try:
    found = Statistics(**json.loads(path.read_text()))
    return Statistics(float(found.mean), float(found.std), int(found.clips), str(found.of))
  except (OSError, ValueError, TypeError):
    return None

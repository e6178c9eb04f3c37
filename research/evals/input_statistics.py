"""Mean and deviation of a task's own log-mel values, for models that are normalised by them.

BYOL-A's protocol: v1 takes at most 10,000 training clips, of all clips where folds take turns
(evaluate.py of nttcslab/byol-a), EVAR 5000 or more (evar/ar_base.py of nttcslab/eval-audio-repr).
No label is read.
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

MOST_CLIPS = 10_000
SEED = 0


class Statistics(NamedTuple):
  """Of all bins of all frames of `clips` clips; `of` says of which."""

  mean: float
  std: float
  clips: int
  of: str


@dataclasses.dataclass(frozen=True)
class _Moments:
  """An `embed` whose one token a clip is (mean, variance, frames) of its values."""

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
  """Statistics of a task's training clips (of all where folds take turns), on every process.

  Args:
    embedder: whose front-end.
    task: whose clips.
    cache: folder where they are kept for the next run; read by a single process only.

  Raises:
    InputError: no clip can be read, or all values are the same.
  """
  folds = task.splits.folds
  rows, of = folds[0].train, 'training clips'
  if not task.splits.published_validation:
    # What we take for validation is training data too; two tasks on the same clips, which draw it
    # by their own classes, then share statistics, and with them embeddings.
    rows = np.sort(np.concatenate([rows, folds[0].validation]))
    of = 'training clips, with those that validate'
  if len(folds) > 1:
    rows, of = np.arange(len(task.source)), 'clips, all that there are: each fold tests a part'
  if len(rows) > MOST_CLIPS:
    rows = np.sort(np.random.default_rng(SEED).choice(rows, MOST_CLIPS, replace=False))
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
    raise InputError(f'Task {task.task.name}: all training clips sound the same (silence?).')
  # So many digits are the same whatever batches the clips came in.
  measured = Statistics(round(float(average), 4), round(float(variance**0.5), 4), len(mean), of)
  if kept is not None and jax.process_index() == 0:
    with contextlib.suppress(OSError):  # a shared cache that is read only
      kept.parent.mkdir(parents=True, exist_ok=True)
      folders.replace_text(kept, json.dumps(measured._asdict()))
  return measured


def _read(path: Path) -> Statistics | None:
  """What was kept; None where there is nothing, or something else."""
  try:
    found = Statistics(**json.loads(path.read_text()))
    return Statistics(float(found.mean), float(found.std), int(found.clips), str(found.of))
  except (OSError, ValueError, TypeError):
    return None

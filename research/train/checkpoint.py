"""Checkpoints that are whole or not there: state, random key and input position in one atomic
folder.

`checkpoints/<step>/state` holds the arrays, `checkpoints/<step>/data` the input position. A
checkpoint that cannot be read is set aside, never deleted, and the one before it is used.
"""

import contextlib
import json
import logging as python_logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from research.errors import InputError
from research.train.state import State

ASIDE = 'unreadable'


class Checkpointer:
  """Saves and restores the state of a run.

  Args:
    directory: the folder of checkpoints; made when missing.
    keep: how many of the newest are kept.
    best: name of the metric whose best checkpoint is kept as well (None: none); its value is saved
      with each checkpoint, so that a run that goes on knows it.
    best_mode: 'min' or 'max'.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    keep: int = 2,
    best: str | None = None,
    best_mode: str = 'min',
  ):
    if best_mode not in ('min', 'max'):
      raise InputError(f"checkpoint.best_mode is {best_mode!r}; it must be 'min' or 'max'.")
    self.directory = Path(directory).absolute()
    self.best, self.best_mode = best, best_mode
    policies: list[Any] = [preservation_policy.LatestN(n=max(int(keep), 1))]
    score = _score(best, best_mode) if best else None
    if score:
      policies.append(
        preservation_policy.BestN(
          get_metric_fn=score,
          reverse=best_mode == 'min',
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._options = ocp.CheckpointManagerOptions(
      preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
      # Without it orbax does not write the metrics down, and whoever goes on has forgotten them.
      best_fn=score,
      best_mode=best_mode,
      enable_async_checkpointing=True,
      cleanup_tmp_directories=True,
    )
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    try:
      self.directory.mkdir(parents=True, exist_ok=True)
      for file in self.directory.glob('*/metrics/metrics'):
        _without_damage(file)
      return ocp.CheckpointManager(
        self.directory, item_names=('state', 'data'), options=self._options
      )
    except OSError as error:
      raise InputError(
        f'Cannot write checkpoints to {self.directory}: {error.strerror or error}. '
        'Choose another --workdir.'
      ) from error

  def steps(self) -> list[int]:
    """Steps of the checkpoints that are there, oldest first."""
    return sorted(self._manager.all_steps())

  def save(
    self, step: int, state: State, position: Any, metrics: Mapping[str, float] | None = None
  ) -> None:
    """Starts to save in the background; a failure of the previous save is raised here.

    Args:
      step: the number of the checkpoint.
      state: what to save.
      position: of the input.
      metrics: what evaluations found at this very step.

    Raises:
      InputError: when the disk is full or not writable; older checkpoints are intact.
    """
    if step in self._manager.all_steps():
      return
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state.to_dict()),
      data=ocp.args.JsonSave({'position': position}),
    )
    scores = {k: float(v) for k, v in (metrics or {}).items()} if self.best else None
    with self._disk_errors(step):
      self._manager.save(step, args=args, metrics=scores)

  def wait(self, step: int | None = None) -> None:
    """Waits until everything is on disk (and raises what went wrong)."""
    with self._disk_errors(step):
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, then closes."""
    self.wait()
    self._manager.close()

  def _disk_errors(self, step: int | None) -> '_DiskErrors':
    return _DiskErrors(self, step)

  def restore_newest(self, target: State) -> tuple[State, Any] | None:
    """The newest checkpoint that can be read, as (state, input position), or None when there is
    none.

    Args:
      target: shapes, dtypes and shardings of what is expected (from `jax.eval_shape`); another
        mesh than the one that saved is fine.

    Raises:
      InputError: when checkpoints exist (or were set aside) and none can be read, or they are of
        another model.
    """
    tried = []
    for step in reversed(self.steps()):
      try:
        return self._restore(step, target)
      except Exception as error:
        if not _is_damage(error):
          raise InputError(
            f'Checkpoint {self.directory / str(step)} does not fit this configuration '
            f'({_first_line(error)}). Use the config it was made with, or another --workdir.'
          ) from error
        # Every array that was being read with it would be reported at exit, below what matters.
        python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)
        logging.warning('checkpoint %d cannot be read: %s', step, _first_line(error))
        tried.append(step)
        self._set_aside(step)
    aside = self.directory.parent / ASIDE
    if tried:
      raise InputError(
        f'None of the checkpoints in {self.directory} can be read (steps {tried}); they were '
        f'moved to {aside}. Start again in another --workdir, or restore a backup.'
      )
    # A job that is started again and again must not begin anew where it has lost its checkpoints.
    if aside.is_dir() and any(aside.iterdir()):
      raise InputError(
        f'{self.directory} holds no checkpoint, but {aside} has some that could not be read. '
        f'Start again in another --workdir, restore a backup, or remove {aside} to begin here '
        'anew.'
      )
    return None

  def _restore(self, step: int, target: State) -> tuple[State, Any]:
    wanted = target.to_dict()
    args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted), data=ocp.args.JsonRestore())
    restored = self._manager.restore(step, args=args)
    state = State.from_dict(restored['state'])
    return state, restored['data']['position']

  def _set_aside(self, step: int) -> None:
    """Moves a broken checkpoint out of the way (process 0), so that its step can be saved again."""
    if jax.process_index() == 0:
      folder = self.directory.parent / ASIDE
      folder.mkdir(exist_ok=True)
      target = folder / str(step)
      n = 0
      while target.exists():
        n += 1
        target = folder / f'{step}.{n}'
      os.rename(self.directory / str(step), target)
      print(f'warning: checkpoint {step} cannot be read; moved to {target}', flush=True)
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      multihost_utils.sync_global_devices(f'set-aside-{step}')
    self._manager.reload()


def _score(best: str, mode: str) -> Callable[[Any], float]:
  """metrics -> the one that counts; the worst value where it was not found, or is not finite."""
  worst = float('inf') if mode == 'min' else float('-inf')

  def score(metrics: Any) -> float:
    value = (metrics or {}).get(best)
    return value if value is not None and math.isfinite(value) else worst

  return score


def _without_damage(file: Path) -> None:
  """Sets scores aside that cannot be read: the checkpoint counts as one without."""
  try:
    json.loads(file.read_text())
  except ValueError:
    logging.warning('%s cannot be read: that checkpoint counts as one without a score', file)
    with contextlib.suppress(FileNotFoundError):  # another process was faster
      file.rename(file.with_name('damaged'))
  except FileNotFoundError:
    pass


class _DiskErrors:
  """Turns a failed write into a sentence."""

  def __init__(self, checkpointer: Checkpointer, step: int | None):
    self._checkpointer, self._step = checkpointer, step

  def __enter__(self) -> None:
    pass

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    if error is None or isinstance(error, (InputError, KeyboardInterrupt, SystemExit)):
      return
    text = ' '.join(str(error).split())
    signs = ('No space left', 'File too large', 'Disk quota', 'Read-only', 'Permission denied')
    if isinstance(error, OSError) or any(sign.lower() in text.lower() for sign in signs):
      reason = next((s for s in signs if s.lower() in text.lower()), text[:200])
      steps = [s for s in self._checkpointer.steps() if s != self._step]
      kept = f'the checkpoint of step {steps[-1]} is intact' if steps else 'there is no older one'
      raise InputError(
        f'Could not write a checkpoint to {self._checkpointer.directory}: {reason}; {kept}. '
        'Free some space and start the same command again: it goes on from there.'
      ) from error


def _first_line(error: BaseException) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _is_damage(error: BaseException) -> bool:
  """Whether an error says that files are missing or damaged, and not that the structure is
  another."""
  text = str(error).lower()
  mismatch = ('structure mismatch', 'not compatible with the stored shape', 'dict key mismatch')
  return not any(sign in text for sign in mismatch)

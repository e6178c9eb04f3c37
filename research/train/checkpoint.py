"""Atomic checkpoints of state, random key and input position.

`checkpoints/<step>/state` holds the arrays, `checkpoints/<step>/data` the input position and the
checksums of both. A damaged checkpoint is moved aside, never deleted, and the previous one is used.
"""

import contextlib
import functools
import json
import logging as python_logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from research import distributed
from research.audio import trouble
from research.errors import InputError
from research.jobs import orbax_s3, paths
from research.train.state import State
from research.weights import sums

ASIDE = 'unreadable'
# What orbax writes last into a checkpoint of a store.
_LAST_FILE = 'commit_success.txt'


class Checkpointer:
  """Saves and restores the state of a run.

  Args:
    directory: folder of the checkpoints; created if missing.
    keep: number of latest checkpoints to keep.
    best: metric that ranks checkpoints; the best one is kept too (None: none). Its value is saved
      with each checkpoint, so that it survives a resume.
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
    python_logging.getLogger('absl').addFilter(_raised_too)
    if sys.excepthook is sys.__excepthook__:
      sys.excepthook = _of_our_threads
    if sys.unraisablehook is sys.__unraisablehook__:
      sys.unraisablehook = _of_our_coroutines
    self.directory = paths.path(directory)
    if not paths.is_remote(directory):
      self.directory = self.directory.absolute()
    elif str(directory).startswith(orbax_s3.PREFIX):
      orbax_s3.teach()
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
      # Without `best_fn` orbax does not save the metrics, and a resumed run would lose them.
      best_fn=score,
      best_mode=best_mode,
      enable_async_checkpointing=True,
      # It removes them beside its own listing, which then finds the folder of a store gone.
      cleanup_tmp_directories=not paths.is_remote(self.directory),
    )
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    try:
      if paths.is_remote(self.directory):
        distributed.first(self._remove_unfinished)
      else:
        self.directory.mkdir(parents=True, exist_ok=True)
      for file in self.directory.glob('*/metrics/metrics'):
        _set_aside_damaged(file)
      return ocp.CheckpointManager(
        self.directory, item_names=('state', 'data'), options=self._options
      )
    except InputError:
      raise
    except Exception as error:
      if not (isinstance(error, OSError) or paths.is_remote(self.directory)):
        raise
      why = getattr(error, 'strerror', None) or paths.reason(error)
      raise InputError(
        f'Cannot write checkpoints to {self.directory}: {why}. Choose another --workdir.'
      ) from error

  def _remove_unfinished(self) -> bytes:
    """Removes what a killed run left in a store: checkpoints without their last file."""
    with paths.sentences(self.directory, 'written to'):
      for name in filter(str.isdecimal, paths.names(self.directory)):
        if paths.info(self.directory / name / _LAST_FILE) is None:
          paths.remove(self.directory / name)
    return b''

  def steps(self) -> list[int]:
    """Steps of the existing checkpoints, oldest first."""
    return sorted(self._manager.all_steps())

  def _steps_of_all(self) -> list[int]:
    """The steps that process 0 sees, on every process.

    Raises:
      InputError: this process does not see them.
    """
    steps = json.loads(distributed.broadcast(json.dumps(self.steps()).encode()))
    unseen = [step for step in steps if not (self.directory / str(step)).is_dir()]
    if unseen:
      raise InputError(
        f'This process does not see checkpoint {unseen[-1]} in {self.directory}, which process 0 '
        'sees: --workdir must be one folder that all hosts share.'
      )
    return steps

  def save(
    self, step: int, state: State, position: Any, metrics: Mapping[str, float] | None = None
  ) -> None:
    """Saves in the background; raises the error of the previous save, if any.

    Args:
      step: number of the checkpoint.
      state: state to save.
      position: input position.
      metrics: metrics computed at this step; used to rank the checkpoint.

    Raises:
      InputError: the disk is full or not writable; older checkpoints are intact.
    """
    if step in self._manager.all_steps():
      return
    arrays = state.to_dict()
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(arrays),
      data=ocp.args.JsonSave({'position': position, 'sums': sums.of(arrays, position)}),
    )
    scores = {k: float(v) for k, v in (metrics or {}).items()} if self.best else None
    with self._disk_errors(step):
      self._manager.save(step, args=args, metrics=scores)

  def wait(self, step: int | None = None) -> None:
    """Waits until everything is on disk; raises the error of the save, if any."""
    with self._disk_errors(step):
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for pending saves and closes the manager."""
    self.wait()
    self._manager.close()

  def _disk_errors(self, step: int | None) -> '_DiskErrors':
    return _DiskErrors(self, step)

  def restore_newest(self, target: State) -> tuple[State, Any] | None:
    """(state, input position) of the newest readable checkpoint, or None without checkpoints.

    Args:
      target: expected shapes, dtypes and shardings (from `jax.eval_shape`). The mesh may differ
        from the one that saved.

    Raises:
      InputError: checkpoints exist (or were moved aside) and none can be read, they do not match
        `target`, or the machine or the store cannot read them now, though it was tried again.
    """
    tried = []
    for step in reversed(self._steps_of_all()):
      restored, damage = None, ''
      try:
        restored = trouble.patiently(functools.partial(self._restore, step, target))
      except InputError:  # trouble of the machine: the checkpoint stays where it is
        raise
      except Exception as error:
        if not _is_damage(error):
          raise InputError(
            f'Checkpoint {self.directory / str(step)} does not match this configuration '
            f'({_first_line(error)}). Use the config it was saved with, or another --workdir.'
          ) from error
        if paths.is_remote(self.directory):
          paths.check_store(self.directory, error)
        _silence_asyncio()
        damage = _first_line(error)
      # What one process cannot read, all leave.
      if not distributed.somewhere(bool(damage)) and restored is not None:
        damage = self._other_bits(step, *restored)
        if not damage:
          return restored[:2]
      logging.warning('checkpoint %d cannot be read: %s', step, damage or 'by another process')
      tried.append(step)
      self._set_aside(step)
    aside = self.directory.parent / ASIDE
    if tried:
      raise InputError(
        f'None of the checkpoints in {self.directory} can be read (steps {tried}); they were '
        f'moved to {aside}. Start again in another --workdir, or restore a backup.'
      )
    # A job that is restarted automatically must not train from scratch after losing checkpoints.
    if aside.is_dir() and any(aside.iterdir()):
      raise InputError(
        f'{self.directory} holds no checkpoint, but {aside} holds unreadable ones. Start again in '
        f'another --workdir, restore a backup, or remove {aside} to train from scratch here.'
      )
    return None

  def _other_bits(self, step: int, state: State, position: Any, saved: Any) -> str:
    """What differs from what was saved, on all processes; '' if nothing does."""
    try:
      sums.check(saved, state.to_dict(), position, where=str(self.directory / str(step)))
    except InputError as error:
      return str(error)
    return ''

  def _restore(self, step: int, target: State) -> tuple[State, Any, Any]:
    """Reads what this process needs of a checkpoint, waiting for no other process: one that cannot
    read its part would leave the others in a barrier.

    Returns:
      (state, input position, checksums or None).

    Raises:
      Trouble: the machine cannot read it now.
    """
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
      primary_host=me, active_processes={me}, barrier_sync_key_prefix=f'restore-{me}'
    )
    folder = self.directory / str(step)
    handlers = (
      (ocp.StandardCheckpointHandler, 'state', ocp.args.StandardRestore(target.to_dict())),
      (ocp.JsonCheckpointHandler, 'data', ocp.args.JsonRestore()),
    )
    found = []
    for handler, item, args in handlers:
      reader = ocp.Checkpointer(
        handler(multiprocessing_options=alone), multiprocessing_options=alone
      )
      try:
        with reader:
          found.append(reader.restore(folder / item, args=args))
      except Exception as error:
        if why := trouble.reason(error):
          raise trouble.Trouble(str(folder), why) from error
        raise
    return State.from_dict(found[0]), found[1]['position'], found[1].get('sums')

  def _set_aside(self, step: int) -> None:
    """Moves an unreadable checkpoint aside (process 0), so that its step can be saved again."""
    if jax.process_index() == 0:
      folder = self.directory.parent / ASIDE
      if not paths.is_remote(folder):
        folder.mkdir(exist_ok=True)
      target = folder / str(step)
      n = 0
      while target.exists():
        n += 1
        target = folder / f'{step}.{n}'
      paths.move(self.directory / str(step), target)
      print(f'warning: checkpoint {step} cannot be read; moved to {target}', flush=True)
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      multihost_utils.sync_global_devices(f'set-aside-{step}')
    self._manager.reload()


def _of_our_threads(kind: Any, error: BaseException, trace: Any) -> None:
  """Python's own hook, but for what tensorstore's threads say of writes whose save has failed."""
  if not (kind is RuntimeError and str(error) == 'Event loop is closed'):
    sys.__excepthook__(kind, error, trace)


def _of_our_coroutines(unraisable: Any) -> None:
  """Python's own hook, but for orbax's reads that were given up after another has failed."""
  code = getattr(unraisable.object, 'cr_code', None)
  if code is None or 'orbax' not in code.co_filename:
    sys.__unraisablehook__(unraisable)


def _raised_too(record: python_logging.LogRecord) -> bool:
  """False for the tracebacks that orbax logs in its threads: it raises the error to us as well."""
  return not (record.exc_info and 'orbax' in record.pathname)


def _score(best: str, mode: str) -> Callable[[Any], float]:
  """Function metrics -> value of `best`; the worst value if it is missing or not finite."""
  worst = float('inf') if mode == 'min' else float('-inf')

  def score(metrics: Any) -> float:
    value = (metrics or {}).get(best)
    return value if value is not None and math.isfinite(value) else worst

  return score


def _set_aside_damaged(file: paths.AnyPath) -> None:
  """Renames an unreadable metrics file; its checkpoint is then treated as unranked."""
  try:
    json.loads(file.read_text())
  except ValueError:
    logging.warning('%s cannot be read; the checkpoint is treated as unranked', file)
    with contextlib.suppress(FileNotFoundError):  # another process renamed it first
      file.rename(file.with_name('damaged'))
  except FileNotFoundError:
    pass


class _DiskErrors:
  """Context that turns a failed write into an InputError."""

  def __init__(self, checkpointer: Checkpointer, step: int | None):
    self._checkpointer, self._step = checkpointer, step

  def __enter__(self) -> None:
    pass

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    if error is None or isinstance(error, (InputError, KeyboardInterrupt, SystemExit)):
      return
    text = ' '.join(str(error).split())
    signs = ('No space left', 'File too large', 'Disk quota', 'Read-only', 'Permission denied')
    directory = self._checkpointer.directory
    remote = paths.is_remote(directory) and isinstance(error, Exception)
    if remote or isinstance(error, OSError) or any(sign.lower() in text.lower() for sign in signs):
      reason = next((s for s in signs if s.lower() in text.lower()), text[:200])
      _silence_asyncio()
      try:
        steps = [s for s in self._checkpointer.steps() if s != self._step]
      except Exception:  # a store that does not answer
        steps = []
      kept = f'the checkpoint of step {steps[-1]} is intact' if steps else 'no older one is known'
      # A jump of the clock looks like a disk in trouble, too.
      late = isinstance(error, TimeoutError)
      advice = 'Look at the disk and the clock, and' if late else 'Free some space and'
      if remote:
        advice = 'Check the bucket, the credentials and the network, and'
      raise InputError(
        f'Could not write a checkpoint to {directory}: {reason}; {kept}. '
        f'{advice} run the same command again to resume from it.'
      ) from error


def _silence_asyncio() -> None:
  """Otherwise it reports every array of a failed read or write at exit, after our message."""
  python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)


def _first_line(error: BaseException) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _is_damage(error: BaseException) -> bool:
  """Whether an error means missing or damaged files, rather than a different structure."""
  text = str(error).lower()
  mismatch = ('structure mismatch', 'not compatible with the stored shape', 'dict key mismatch')
  return not any(sign in text for sign in mismatch)

"""The folder of a run and its config.json."""

import json
import os
import secrets
from collections.abc import Mapping
from typing import Any

import jax

from research import distributed
from research.errors import InputError
from research.jobs import locks, paths
from research.train.checkpoint import ASIDE
from research.train.config import changed


def make_workdir(workdir: str | os.PathLike, config: Mapping[str, Any]) -> paths.AnyPath:
  """Creates the folder and its config.json, or checks that an existing run has the same config.

  The folder (of a disk, gs:// or s3://) is this process's own until it ends. The config of a run
  without checkpoints is overwritten.

  Raises:
    InputError: the folder holds a run with another config, is in use by another process, or is not
      writable.
  """
  path = paths.path(workdir, 'workdir')
  file = path / 'config.json'
  try:
    if not paths.is_remote(path):
      path.mkdir(parents=True, exist_ok=True)
    _lock(path)
    _check_shared(path)
    if file.exists() and _has_checkpoints(path):
      different = changed(json.loads(file.read_text()), config)
      if different:
        raise InputError(
          f'{path} holds a run with another config ({"; ".join(different[:4])}). Give another '
          '--workdir, or the old settings to resume that run.'
        )
    if jax.process_index() == 0:
      paths.write_bytes(file, json.dumps(config, indent=2).encode())
  except InputError:
    raise
  except Exception as error:
    if not (paths.is_remote(path) or isinstance(error, OSError)):
      raise
    why = getattr(error, 'strerror', None) or paths.reason(error)
    raise InputError(f'Cannot use --workdir={path}: {why}.') from error
  return path


def _has_checkpoints(path: paths.AnyPath) -> bool:
  """Whether there is a checkpoint, possibly unreadable or unfinished."""
  return any(p for name in ('checkpoints', ASIDE) for p in (path / name).glob('*'))


def _check_shared(path: paths.AnyPath) -> None:
  """Raises InputError on a process that does not see the folder of process 0."""
  if jax.process_count() == 1:
    return
  mark = distributed.broadcast(secrets.token_hex(8).encode()).decode()
  seen = path / f'.shared-{mark}'
  if jax.process_index() == 0:
    paths.write_bytes(seen, b'')
  distributed.broadcast(b'there')
  found = seen.exists()
  distributed.somewhere(found)  # all have looked
  if jax.process_index() == 0:
    seen.unlink()
  if not found:
    raise InputError(
      f'--workdir={path} is another folder on this host than on that of process 0: give one that '
      'all hosts share.'
    )


def _lock(path: paths.AnyPath) -> None:
  """Locks the folder on process 0; raises on all processes if that fails."""
  refused = ''
  if jax.process_index() == 0:
    try:
      locks.claim(path)
    except InputError as error:
      refused = str(error)
    except OSError as error:
      refused = f'Cannot use --workdir={path}: {error.strerror or error}.'
  refused = distributed.broadcast(refused.encode()).decode()
  if refused:
    raise InputError(refused)

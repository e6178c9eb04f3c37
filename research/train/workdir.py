"""The folder of a run and its config.json."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from research import distributed
from research.errors import InputError
from research.jobs import locks
from research.train.checkpoint import ASIDE
from research.train.config import changed


def make_workdir(workdir: str | os.PathLike, config: Mapping[str, Any]) -> Path:
  """Creates the folder and its config.json, or checks that an existing run has the same config.

  The folder is locked by this process until it ends. The config of a run without checkpoints is
  overwritten.

  Raises:
    InputError: the folder holds a run with another config, is in use by another process, or is not
      writable.
  """
  path = Path(workdir)
  file = path / 'config.json'
  try:
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
      partial = path / 'config.json.partial'
      partial.write_text(json.dumps(config, indent=2))
      partial.replace(file)
  except OSError as error:
    raise InputError(f'Cannot use --workdir={path}: {error.strerror or error}.') from error
  return path


def _has_checkpoints(path: Path) -> bool:
  """Whether there is a checkpoint, possibly unreadable or unfinished."""
  return any(p for name in ('checkpoints', ASIDE) for p in (path / name).glob('*'))


def _check_shared(path: Path) -> None:
  """Raises InputError on a process that does not see the folder of process 0."""
  if jax.process_count() == 1:
    return
  mark = distributed.broadcast(secrets.token_hex(8).encode()).decode()
  seen = path / f'.shared-{mark}'
  if jax.process_index() == 0:
    seen.touch()
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


def _lock(path: Path) -> None:
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

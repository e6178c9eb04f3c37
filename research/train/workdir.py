"""The folder of a run and the config it was started with."""

import json
import os
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
  """Makes the folder and its config.json, or checks that a run that is there had the same config.

  The folder is this process's until it ends. A run that has saved nothing has no config to keep.

  Raises:
    InputError: a run with another config, in use by another process, or no folder to write to.
  """
  path = Path(workdir)
  file = path / 'config.json'
  try:
    path.mkdir(parents=True, exist_ok=True)
    _claim(path)
    if file.exists() and _has_begun(path):
      different = changed(json.loads(file.read_text()), config)
      if different:
        raise InputError(
          f'{path} holds a run with another config ({"; ".join(different[:4])}). Give another '
          '--workdir, or the old settings to go on with that run.'
        )
    if jax.process_index() == 0:
      partial = path / 'config.json.partial'
      partial.write_text(json.dumps(config, indent=2))
      partial.replace(file)
  except OSError as error:
    raise InputError(f'Cannot use --workdir={path}: {error.strerror or error}.') from error
  return path


def _has_begun(path: Path) -> bool:
  """Whether there is a checkpoint, one that could not be read, or one being written."""
  return any(p for name in ('checkpoints', ASIDE) for p in (path / name).glob('*'))


def _claim(path: Path) -> None:
  """Takes the folder on the first process, and stops all of them where that cannot be."""
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

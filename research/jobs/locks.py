"""Folders that one process at a time may write."""

import fcntl
import os
import platform
from pathlib import Path

from absl import logging

from research.errors import InputError

LOCK = '.lock'
_CLAIMED: dict[Path, int] = {}


def claim(folder: Path) -> None:
  """Makes a folder this process's own until it ends: two would lose each other's work.

  Raises:
    InputError: another process has it.
    OSError: it cannot be written to.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for path in [p for p in _CLAIMED if not p.exists()]:
    os.close(_CLAIMED.pop(path))
  path = folder.resolve() / LOCK
  if path in _CLAIMED and os.path.samestat(os.fstat(_CLAIMED[path]), path.stat()):
    return
  lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
  try:
    # POSIX's kind: workers forked from this process do not keep the folder when it is killed.
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except (BlockingIOError, PermissionError):
    who = os.read(lock, 200).decode(errors='replace').strip() or 'another process'
    os.close(lock)
    raise InputError(
      f'{folder} is in use by {who}: wait for its end, or write somewhere else.'
    ) from None
  except OSError as error:
    logging.warning(
      '%s is on a disk without locks (%s): no two runs may use it at once.', folder, error
    )
  if not path.exists() or not os.path.samestat(os.fstat(lock), path.stat()):
    # Whoever had it gave it back in between, and the file with it.
    os.close(lock)
    return claim(folder)
  os.ftruncate(lock, 0)
  os.write(lock, f'process {os.getpid()} on {platform.node()}\n'.encode())
  _CLAIMED[path] = lock


def release(folder: Path) -> None:
  """Gives a folder back before this process ends, and leaves no trace in it."""
  path = folder.resolve() / LOCK
  if path in _CLAIMED:
    path.unlink(missing_ok=True)
    os.close(_CLAIMED.pop(path))

"""Folders that one process at a time may write: locks on a disk, leases in an object store."""

import atexit
import contextlib
import os
import platform
from pathlib import Path

import filelock
from absl import logging

from research.errors import InputError
from research.jobs import paths
from research.jobs.leases import Lease

LOCK = '.lock'
# A process that is being killed holds its folder until its forked workers have closed their copies
# of the lock: seconds that a claim waits for that.
PATIENCE = 1.0
_CLAIMED: dict[Path, tuple[filelock.BaseFileLock, os.stat_result]] = {}
_LEASES: dict[str, Lease] = {}


def claim(folder: paths.AnyPath) -> None:
  """Makes a folder this process's own until it ends: two would lose each other's work.

  Raises:
    InputError: another process has it.
    OSError: it cannot be written to.
  """
  if paths.is_remote(folder):
    if str(folder) not in _LEASES:
      _LEASES[str(folder)] = Lease(folder)
      # A run that ends by an error need not be waited for.
      atexit.register(release, folder)
    return
  folder.mkdir(parents=True, exist_ok=True)
  # A folder that was removed and made again is another one.
  for path in [p for p, (_, file) in _CLAIMED.items() if not _is_file(p, file)]:
    _CLAIMED.pop(path)[0].release(force=True)
  path = folder.resolve() / LOCK
  if path in _CLAIMED:
    return
  path.touch()  # a folder that cannot be written to is told from a disk without locks
  lock = filelock.FileLock(path, thread_local=False, fallback_to_soft=False, on_acquired=_sign)
  try:
    lock.acquire(timeout=PATIENCE)
  except filelock.Timeout:
    who = 'another process'
    with contextlib.suppress(FileNotFoundError):  # given back just now
      who = path.read_text(errors='replace').strip() or who
    raise InputError(
      f'{folder} is in use by {who}: wait for its end, or write somewhere else.'
    ) from None
  except OSError as error:
    logging.warning(
      '%s is on a disk without locks (%s): no two runs may use it at once.', folder, error
    )
  _CLAIMED[path] = lock, path.stat()


def _is_file(path: Path, file: os.stat_result) -> bool:
  return path.exists() and os.path.samestat(path.stat(), file)


def _sign(descriptor: int) -> None:
  """Writes who has the folder into its lock file."""
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, f'process {os.getpid()} on {platform.node()}\n'.encode(), 0)


def check(folder: paths.AnyPath) -> None:
  """Raises InputError if a remote folder that was this process's own has been lost to another."""
  lease = _LEASES.get(str(folder))
  if lease is not None and lease.lost:
    raise InputError(f'{lease.lost}; this one ends, so that they do not mix.')


def release(folder: paths.AnyPath) -> None:
  """Gives a folder back before this process ends, and leaves no trace in it."""
  if paths.is_remote(folder):
    if lease := _LEASES.pop(str(folder), None):
      lease.release()
    return
  path = folder.resolve() / LOCK
  if path in _CLAIMED:
    # The file is removed first: a process that waits for it sees that and makes another.
    path.unlink(missing_ok=True)
    _CLAIMED.pop(path)[0].release(force=True)

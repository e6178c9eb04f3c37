"""A folder on this machine whose files are copied to an object store as they change.

Object stores have no append, and code that draws, plots or writes arrays wants a file. So what a
run writes is written to a local folder; a thread copies every file that has changed, whole. Files
that grow are divided into parts by those who write them, so that little is copied again.
"""

import atexit
import contextlib
import fnmatch
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import logging

from research.jobs import paths
from research.jobs.cache import cache_folder

# Seconds between copies.
EVERY = 15.0


class Mirror:
  """The local folder for what is written to `home`; `home` itself where that is of a disk.

  Attributes:
    folder: where to write. Names with '.partial' in them are not copied.
    remote: whether `home` is an address.
  """

  def __init__(
    self,
    home: paths.AnyPath,
    pull: Sequence[str] = (),
    every: float | None = EVERY,
    folder: Path | None = None,
  ):
    """
    Args:
      home: the folder.
      pull: patterns of names of files that are fetched first.
      every: seconds between copies by a thread; None copies on `push` alone.
      folder: the local folder of a remote one, which stays; None for one that is removed. What lies
        in it already is not fetched.

    Raises:
      InputError: the store cannot be read.
    """
    self.home, self.remote = home, paths.is_remote(home)
    if not self.remote:
      self.folder = home
      return
    self._made = None if folder else _spool()
    if self._made:
      atexit.register(shutil.rmtree, self._made, ignore_errors=True)
    self.folder = folder or (self._made or Path()) / home.name
    self.folder.mkdir(exist_ok=True)
    self._there: dict[str, tuple[int, int]] = {}
    self._lock, self._end = threading.Lock(), threading.Event()
    self.pull(*pull)
    self._thread = None
    if every is not None:
      self._thread = threading.Thread(target=self._run, args=(every,), daemon=True, name='mirror')
      self._thread.start()

  def pull(self, *patterns: str) -> None:
    """Fetches the files whose names match.

    Raises:
      InputError: the store cannot be read.
    """
    if not (self.remote and patterns):
      return
    with self._lock, paths.sentences(self.home, 'read'):
      for name in paths.names(self.home):
        wanted = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        if wanted and not (self.folder / name).exists():
          (self.folder / name).write_bytes(paths.read_bytes(self.home / name))
          self._there[name] = _version(self.folder / name)

  def push(self) -> None:
    """Copies what has changed, and removes what is gone.

    Raises:
      InputError: the store cannot be written to.
    """
    if not self.remote:
      return
    with self._lock, paths.sentences(self.home, 'written to'):
      found = {}
      for file in sorted(self.folder.rglob('*')):
        if file.is_file() and '.partial' not in file.name and not file.name.startswith('.'):
          found[file.relative_to(self.folder).as_posix()] = file
      for name, file in found.items():
        version = _version(file)
        if self._there.get(name) != version:
          paths.upload(file, self.home / name)
          self._there[name] = version
      for name in set(self._there) - set(found):
        paths.remove(self.home / name)
        del self._there[name]

  def close(self, push: bool = True) -> None:
    """Copies for the last time, and removes the local folder.

    Raises:
      InputError: see `push`.
    """
    if not self.remote:
      return
    self._end.set()
    if self._thread:
      self._thread.join()
    try:
      if push:
        self.push()
    finally:
      if self._made:
        shutil.rmtree(self._made, ignore_errors=True)

  def _run(self, every: float) -> None:
    while not self._end.wait(every):
      try:
        self.push()
      except Exception as error:  # the next copy, or the one of a checkpoint, says it
        logging.warning('%s', error)


def _spool() -> Path:
  """A new folder in the cache; those of processes of this machine that were killed are removed."""
  spool = cache_folder() / 'spool'
  spool.mkdir(parents=True, exist_ok=True)
  host = platform.node()
  for old in spool.glob(f'{host}@*@*'):
    pid = old.name.split('@')[1]
    if pid.isdecimal() and not Path(f'/proc/{pid}').exists() and Path('/proc/self').exists():
      shutil.rmtree(old, ignore_errors=True)
  return Path(tempfile.mkdtemp(dir=spool, prefix=f'{host}@{os.getpid()}@'))


def _version(file: Path) -> tuple[int, int]:
  found = file.stat()
  return found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def folder(home: paths.AnyPath, pull: Sequence[str] = ()) -> Iterator[Path]:
  """A local folder, copied to `home` when the block ends well; `home` itself on a disk.

  Args:
    home: the folder.
    pull: patterns of names of files that are fetched first.

  Raises:
    InputError: the store cannot be read or written to.
  """
  made = Mirror(home, pull, every=None)
  done = False
  try:
    yield made.folder
    done = True
  finally:
    made.close(push=done)

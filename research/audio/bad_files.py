"""Bad files: counted, listed once each; too many of them stop the run.

Every process of a run writes a list of its own, so that no two hosts write one file:
bad_files.jsonl, bad_files-00001.jsonl, … (`jobs/lines.py`). All are read.
"""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import threading
from typing import BinaryIO

from research.errors import InputError
from research.jobs import lines


def _line(row: dict) -> bytes:
  try:
    return json.dumps(row, ensure_ascii=False).encode() + b'\n'
  except UnicodeEncodeError:  # A file name that is not UTF-8.
    return json.dumps(row).encode() + b'\n'


class BadFiles:
  """The list of bad files of a run.

  The run stops when more than `max_fraction` of all clips are known to be bad. It also stops
  earlier, or without a known number of clips, when significantly more reads of this process fail
  than `max_fraction`: a wrong folder is noticed in the first batch, not after 100,000 files.

  A run that was stopped for its bad files is marked in the list: after that they stay listed, but
  count only if they fail again, for they may have been mended. A run that was killed goes on.

  Thread-safe. Processes that see one folder see each other's records.
  """

  def __init__(
    self,
    path: str | os.PathLike | None,
    max_fraction: float = 0.1,
    total: int | None = None,
    process: int = 0,
  ):
    """Reads the list at `path` if it exists, so that a resumed run continues it.

    Args:
      path: bad_files.jsonl, the list of process 0; None keeps the list in memory.
      max_fraction: maximum fraction of bad clips; 0 stops at the first bad file, 1 never stops.
      total: number of clips of the data set, if known; `train_batches` sets it.
      process: index of this process, which appends to a list of its own. Its workers share that.
    """
    if not 0 <= max_fraction <= 1:
      raise InputError(f'max_bad_fraction is {max_fraction}; give a fraction between 0 and 1.')
    self.path = pathlib.Path(path) if path is not None else None
    self.max_fraction, self.total = max_fraction, total
    self._known: dict[str, str] = {}
    # Those that count: by list, so that each list begins anew at its own mark.
    self._counted: dict[pathlib.Path | None, set[str]] = {None: set()}
    self._own = None if self.path is None else lines.part(self.path, process)
    self._reads = self._failures = 0
    # Bytes that have been read of every list.
    self._offsets: dict[pathlib.Path, int] = {}
    self._last = ''
    self._lock = threading.Lock()
    self._catch_up_all()

  def __getstate__(self):
    return {k: v for k, v in self.__dict__.items() if k != '_lock'}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._lock = threading.Lock()

  def __len__(self) -> int:
    """Number of distinct bad clips, including those of other processes and earlier runs."""
    return len(self.items())

  @property
  def reads(self) -> int:
    """Number of clips this process has read, including bad ones."""
    return self._reads

  @property
  def failures(self) -> int:
    """Number of those reads that failed."""
    return self._failures

  def items(self) -> list[tuple[str, str]]:
    """(id, reason) of every bad clip."""
    with self._lock:
      self._catch_up_all()
      return list(self._known.items())

  def seen(self, n: int) -> None:
    """Counts `n` more clips read."""
    with self._lock:
      self._reads += n

  def record(self, id: str, path: str | None, reason: str) -> None:
    """Counts a bad clip and adds it to the list."""
    with self._lock:
      self._failures += 1
      self._last = f'{path or id}: {reason}'
      if self._counts(id):
        return
      if self._own is None:
        self._known[id] = reason
        self._counted[None].add(id)
        return
      self._own.parent.mkdir(parents=True, exist_ok=True)
      with open(self._own, 'a+b') as file:
        # Between the workers of one process, on one host; other disks may have no locks.
        with contextlib.suppress(OSError):
          fcntl.flock(file, fcntl.LOCK_EX)
        self._catch_up(self._own, file)
        if not self._counts(id):
          self._known[id] = reason
          self._counted.setdefault(self._own, set()).add(id)
          self._append(file, {'id': id, 'path': path, 'reason': reason})

  def _append(self, file: BinaryIO, row: dict) -> None:
    if file.tell() > self._offsets.get(self._own, 0):  # type: ignore[arg-type]
      file.write(b'\n')  # behind a line truncated by a kill
    file.write(_line(row))
    file.flush()
    self._offsets[self._own] = file.tell()  # type: ignore[index]

  def _counts(self, id: str) -> bool:
    return any(id in counted for counted in self._counted.values())

  def check(self) -> None:
    """Stops the run if too many files are bad.

    Raises:
      InputError: states the counts, the limit, the last reason, and the path of the list.
    """
    with self._lock:
      limit = self.max_fraction * self._reads
      # Four standard deviations plus three, for small counts; no tolerance for max_fraction 0.
      chance = 4 * math.sqrt(limit) + 3 if self.max_fraction else 0
      many = self._failures > limit + chance
      bad = len(set().union(*self._counted.values()))
      known = self.total is not None and bad > self.max_fraction * self.total
      if not (many or known) or self.max_fraction == 1:
        return
      if known:
        counted = f'{bad} of {self.total} clips'
      else:
        counted = f'{self._failures} of {self._reads} clips read'
      listed = f'; the list is in {self.path}' if self.path is not None else ''
      last = f' Last: {self._last}' if self._last else ''
      if self._own is not None and self._own.exists():
        with open(self._own, 'a+b') as file:
          self._catch_up(self._own, file)
          self._append(file, {'stopped': counted})
    raise InputError(
      f'Too many bad audio files: {counted} could not be used, more than the allowed fraction '
      f'max_bad_fraction={self.max_fraction:g} (--config.data.max_bad_fraction in training, '
      f'--max_bad_fraction of commands that have it){listed}.{last}'
    )

  def merge(self, remove: bool = False) -> None:
    """Adds to the first list what the others have, and may `remove` those; for one process, when
    all have ended."""
    if self.path is None or lines.parts(self.path) in ([], [self.path]):
      return
    with self._lock:
      rows: dict[str, dict] = {}
      for line in lines.read(self.path):
        with contextlib.suppress(ValueError, KeyError, TypeError):
          row = json.loads(line)
          rows.setdefault(row['id'], row)
      partial = self.path.with_name(f'{self.path.name}.partial')
      partial.write_bytes(b''.join(map(_line, rows.values())))
      os.replace(partial, self.path)
      self._offsets[self.path] = self.path.stat().st_size
      for part in lines.parts(self.path) if remove else ():
        if part != self.path:
          part.unlink()

  def _catch_up_all(self) -> None:
    """Reads what all processes have added to their lists."""
    for part in lines.parts(self.path) if self.path is not None else ():
      with contextlib.suppress(FileNotFoundError), open(part, 'rb') as file:
        self._catch_up(part, file)

  def _catch_up(self, part: pathlib.Path, file) -> None:
    """Reads lines appended since the last call; skips lines truncated by a kill."""
    file.seek(self._offsets.setdefault(part, 0))
    for line in file.read().splitlines(keepends=True):
      if not line.endswith(b'\n'):
        break
      self._offsets[part] += len(line)
      try:
        row = json.loads(line)
        if 'stopped' in row:
          self._counted[part] = set()
          continue
        self._known[row['id']] = row['reason']
        self._counted.setdefault(part, set()).add(row['id'])
      except (ValueError, KeyError, TypeError):
        continue
    file.seek(0, os.SEEK_END)

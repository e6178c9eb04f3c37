"""Files that could not be used: counted, listed once each, and too many of them stop the run."""

import fcntl
import json
import math
import os
import pathlib
import threading

from research.errors import InputError


def _line(row: dict) -> bytes:
  try:
    return json.dumps(row, ensure_ascii=False).encode() + b'\n'
  except UnicodeEncodeError:  # A name that is not UTF-8.
    return json.dumps(row).encode() + b'\n'


class BadFiles:
  """The list of bad files of a run.

  The run stops as soon as the clips known to be bad are more than `max_fraction` of all clips. On
  the way there, or where the number of clips is not known, it also stops when the reads of this
  process fail far more often than chance could explain: a wrong folder is noticed in the first
  batch, not after a hundred thousand files.

  Safe to use from threads, and from processes that share `path`: each sees what others recorded.
  """

  def __init__(
    self, path: str | os.PathLike | None, max_fraction: float = 0.1, total: int | None = None
  ):
    """Reads the list at `path` if there is one, so that a resumed run goes on with it.

    Args:
      path: bad_files.jsonl to append to; None keeps the list in memory.
      max_fraction: of the clips; 0 stops at the first bad file, 1 never stops.
      total: number of clips of the data, if known; `train_batches` sets it.
    """
    if not 0 <= max_fraction <= 1:
      raise InputError(f'max_bad_fraction is {max_fraction}; give a fraction between 0 and 1.')
    self.path = pathlib.Path(path) if path is not None else None
    self.max_fraction, self.total = max_fraction, total
    self._known: dict[str, str] = {}
    self._reads = self._failures = self._offset = 0
    self._last = ''
    self._lock = threading.Lock()
    if self.path is not None and self.path.exists():
      with open(self.path, 'rb') as file:
        self._catch_up(file)

  def __getstate__(self):
    return {k: v for k, v in self.__dict__.items() if k != '_lock'}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._lock = threading.Lock()

  def __len__(self) -> int:
    """How many different clips were bad, in other processes and earlier runs on the list too."""
    return len(self.items())

  @property
  def reads(self) -> int:
    """How many clips this process has read, bad ones included."""
    return self._reads

  @property
  def failures(self) -> int:
    """How many of those reads met a bad file."""
    return self._failures

  def items(self) -> list[tuple[str, str]]:
    """(id, reason) of every bad clip so far."""
    with self._lock:
      if self.path is not None and self.path.exists():
        with open(self.path, 'rb') as file:
          self._catch_up(file)
      return list(self._known.items())

  def seen(self, n: int) -> None:
    """Counts `n` more clips read."""
    with self._lock:
      self._reads += n

  def record(self, id: str, path: str | None, reason: str) -> None:
    """Counts a bad clip, and lists it if it is not listed yet."""
    with self._lock:
      self._failures += 1
      self._last = f'{path or id}: {reason}'
      if id in self._known:
        return
      if self.path is None:
        self._known[id] = reason
        return
      self.path.parent.mkdir(parents=True, exist_ok=True)
      with open(self.path, 'a+b') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        self._catch_up(file)
        if id not in self._known:
          self._known[id] = reason
          row = {'id': id, 'path': path, 'reason': reason}
          if file.tell() > self._offset:  # A line cut by a kill ends here.
            file.write(b'\n')
          file.write(_line(row))
          file.flush()
          self._offset = file.tell()

  def check(self) -> None:
    """Stops the run if too many files are bad.

    Raises:
      InputError: says how many of how many, the limit, the last reason, and where the list is.
    """
    with self._lock:
      limit = self.max_fraction * self._reads
      # Four standard deviations, and three more for small numbers; with nothing allowed, no chance.
      chance = 4 * math.sqrt(limit) + 3 if self.max_fraction else 0
      many = self._failures > limit + chance
      known = self.total is not None and len(self._known) > self.max_fraction * self.total
      if not (many or known) or self.max_fraction == 1:
        return
      if known:
        counted = f'{len(self._known)} of {self.total} clips'
      else:
        counted = f'{self._failures} of {self._reads} clips read'
      listed = f'; the list is in {self.path}' if self.path is not None else ''
      last = f' Last: {self._last}' if self._last else ''
    raise InputError(
      f'Too many bad audio files: {counted} could not be used, more than the allowed fraction '
      f'max_bad_fraction={self.max_fraction:g} (--config.data.max_bad_fraction in training, '
      f'--max_bad_fraction of commands that have it){listed}.{last}'
    )

  def _catch_up(self, file) -> None:
    """Reads what was appended to the list since; a line cut by a kill is passed over."""
    file.seek(self._offset)
    for line in file.read().splitlines(keepends=True):
      if not line.endswith(b'\n'):
        break
      self._offset += len(line)
      try:
        row = json.loads(line)
        self._known[row['id']] = row['reason']
      except (ValueError, KeyError, TypeError):
        continue
    file.seek(0, os.SEEK_END)

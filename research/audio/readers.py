"""Open readers of ArrayRecord files: a bounded number of them, shared by threads."""

import collections
import contextlib
import resource
import threading
from collections.abc import Iterator
from typing import Any

from array_record.python import array_record_module

from research.audio.decode import AudioError
from research.audio.trouble import Trouble, reason

# Each holds a file descriptor, of which a process usually has 1024, and the offsets of its records.
MAX_OPEN = 128
# No read-ahead: in shuffled order it would read the neighbours of every clip for nothing.
OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'


class Readers:
  """The readers that were used last. One that a thread is reading from is never closed."""

  def __init__(self, max_open: int | None = None):
    """`max_open`: MAX_OPEN by default, a quarter of what the process may open at most."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    allowed = MAX_OPEN if limit == resource.RLIM_INFINITY else max(1, min(MAX_OPEN, limit // 4))
    self.max_open = allowed if max_open is None else max_open
    # Path -> [reader, number of threads that read from it now]; the one used last at the end.
    self._open: collections.OrderedDict[str, list[Any]] = collections.OrderedDict()
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self._open)

  def read(self, path: str, number: int) -> bytes:
    """Record `number` of a file.

    Raises:
      AudioError: the record is damaged.
      Trouble: the machine cannot read the file now; a further call opens it anew.
    """
    with self._reader(path) as reader:
      try:
        return reader.read([number])[0]
      except (ValueError, IndexError, RuntimeError, OSError, MemoryError) as error:
        # A reader that has failed once fails for ever; other idle ones make room for a new one.
        why = reason(error)
        self._drop(path, everything=why is not None)
        if why is not None:
          raise Trouble(path, why) from None
        reading = f'The record cannot be read ({error}).'
        raise AudioError(f'{path}#{number}', reading) from None

  @contextlib.contextmanager
  def _reader(self, path: str) -> Iterator[Any]:
    with self._lock:
      held = self._open.get(path)
      if held is not None:
        held[1] += 1
        self._open.move_to_end(path)
    if held is None:
      # Opened outside of the lock: on a network disk it takes a while.
      try:
        made = [array_record_module.ArrayRecordReader(path, OPTIONS), 1]
      except (ValueError, RuntimeError, OSError, MemoryError) as error:
        why = reason(error)
        self._drop(path, everything=why is not None)
        if why is not None:
          raise Trouble(path, why) from None
        raise AudioError(path, f'The shard cannot be opened ({error}).') from None
      with self._lock:
        held = self._open.setdefault(path, made)
        if held is not made:  # Another thread was faster.
          held[1] += 1
          _close(made[0])
        self._open.move_to_end(path)
    try:
      yield held[0]
    finally:
      with self._lock:
        held[1] -= 1
        if self._open.get(path) is not held and not held[1]:
          _close(held[0])  # It was dropped while it was in use.
        self._close_idle(self.max_open)

  def _drop(self, path: str, everything: bool) -> None:
    """Forgets the reader of a file, which is closed when no thread reads from it; and with
    `everything` closes all that are idle."""
    with self._lock:
      held = self._open.pop(path, None)
      if held is not None and not held[1]:
        _close(held[0])
      if everything:
        self._close_idle(0)

  def _close_idle(self, keep: int) -> None:
    for path in list(self._open) if len(self._open) > keep else ():
      if len(self._open) <= keep:
        return
      if not self._open[path][1]:
        _close(self._open.pop(path)[0])


def _close(reader: Any) -> None:
  # One that could not open its file says so once more.
  with contextlib.suppress(RuntimeError):
    reader.close()

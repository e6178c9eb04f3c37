"""Parts of remote objects, kept on this machine in blocks; the least recently used go first.

Processes share the blocks without locks: a block is a file that is there whole or not at all, and
one that another process has removed is fetched again.
"""

import contextlib
import hashlib
import os
import pathlib
import threading

from research.jobs import paths
from research.jobs.cache import cache_folder

# Bytes: about a clip of ten seconds; and what all blocks of a machine may take.
BLOCK = 2**18
LIMIT = int(float(os.environ.get('OIDO_BLOCK_CACHE_GB', '20')) * 2**30)
# Seconds before each further attempt of a request; those who read wait longer, see `audio/trouble`.
WAITS = (0.5, 1.0, 2.0)


class Object:
  """A remote object to be read in parts. Thread-safe.

  Attributes:
    path: its address.
    size: bytes.

  Raises:
    FileNotFoundError: it is not there.
  """

  def __init__(self, path: paths.AnyPath):
    self.path = path
    found = paths.info(path)
    if found is None:
      raise FileNotFoundError(str(path))
    self.size = int(found['size'])
    version = found.get('ETag') or found.get('etag') or found.get('generation') or ''
    key = hashlib.sha256(f'{path} {self.size} {version}'.encode()).hexdigest()[:24]
    self.folder = cache_folder() / 'blocks' / key
    self.folder.mkdir(parents=True, exist_ok=True)

  def read(self, start: int, end: int) -> bytes:
    """The bytes from `start` to `end`; fewer at the end of the object."""
    end = min(end, self.size)
    if start >= end:
      return b''
    first, last = start // BLOCK, (end - 1) // BLOCK
    blocks = {k: self._kept(k) for k in range(first, last + 1)}
    missing = [k for k, block in blocks.items() if block is None]
    if missing:  # one request for all that lies between
      a, b = missing[0], missing[-1]
      begin, until = a * BLOCK, min((b + 1) * BLOCK, self.size)
      data = paths.patiently(
        lambda: paths.store(self.path).cat_file(str(self.path), start=begin, end=until), WAITS
      )
      if len(data) != until - begin:
        raise ConnectionError(f'{len(data)} of {until - begin} bytes of {self.path} came')
      for k in range(a, b + 1):
        block = data[(k - a) * BLOCK : (k - a + 1) * BLOCK]
        if blocks[k] is None:
          self._keep(k, block)
        blocks[k] = block
    whole = b''.join(block or b'' for block in blocks.values())
    return whole[start - first * BLOCK : end - first * BLOCK]

  def _kept(self, number: int) -> bytes | None:
    file = self.folder / str(number)
    try:
      data = file.read_bytes()
    except FileNotFoundError:
      return None
    if len(data) != min(BLOCK, self.size - number * BLOCK):
      return None  # a disk that was full
    with contextlib.suppress(OSError):
      os.utime(file)
    return data

  def _keep(self, number: int, block: bytes) -> None:
    # A disk that is full slows the reading down, and does not end it.
    with contextlib.suppress(OSError):
      self.folder.mkdir(parents=True, exist_ok=True)
      partial = self.folder / f'{number}.{os.getpid()}.{threading.get_ident()}'
      partial.write_bytes(block)
      os.replace(partial, self.folder / str(number))
    _ROOM.taken(len(block))


class _Room:
  """Keeps all blocks of the machine below `LIMIT`, approximately while several processes write."""

  def __init__(self) -> None:
    self._lock = threading.Lock()
    self._written: int | None = None

  def taken(self, size: int) -> None:
    with self._lock:
      # The first look is at once, later ones are when a twentieth has been added.
      if self._written is not None and self._written + size < LIMIT / 20:
        self._written += size
        return
      self._written = 0
      trim(cache_folder() / 'blocks', LIMIT)


_ROOM = _Room()


def trim(folder: pathlib.Path, limit: int) -> None:
  """Removes the least recently used blocks until nine tenths of `limit` are taken."""
  found = []
  for entry in folder.glob('*/*'):
    with contextlib.suppress(OSError):
      about = entry.stat()
      found.append((about.st_mtime, about.st_size, entry))
  total = sum(size for _, size, _ in found)
  if total <= limit:
    return
  for _, size, entry in sorted(found, key=lambda each: each[0]):
    with contextlib.suppress(OSError):
      entry.unlink()
    total -= size
    if total <= 0.9 * limit:
      return

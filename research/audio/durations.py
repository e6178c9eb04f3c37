"""How long the clips of a table are, from the headers of their files; kept on disk."""

import concurrent.futures
import hashlib
import os
import pathlib

import numpy as np
from jaxtyping import Float, Int

from research.audio import decode
from research.audio.clips import Example, Table

# Headers of fewer files than this are read faster than a cache is looked after.
CACHE_FROM = 1000
THREADS = 8


def measure(table: Table, rows: Int[np.ndarray, 'clips']) -> Float[np.ndarray, 'clips']:
  """Seconds of the clips in `rows`; 0 for a file that cannot be opened (decoding it says why)."""
  numbers = rows.tolist()
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    if len(rows) < CACHE_FROM:
      return np.fromiter(pool.map(lambda r: _seconds(table, r), numbers), np.float64, len(rows))
    # The key holds size and time of every file: a changed file is measured again.
    digest = hashlib.sha256()
    for state in pool.map(lambda r: _state(table, r), numbers, chunksize=256):
      digest.update(repr(state).encode())
    path = cache_folder() / f'durations-{digest.hexdigest()[:24]}.npy'
    if path.exists():
      known = np.load(path)
      if known.shape == rows.shape:
        return known
    found = pool.map(lambda r: _seconds(table, r), numbers, chunksize=64)
    seconds = np.fromiter(found, np.float64, len(rows))
  _save(path, seconds)
  return seconds


def cache_folder() -> pathlib.Path:
  """Where results that can be computed again are kept: $OIDO_CACHE, else ~/.cache/oido."""
  home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
  return pathlib.Path(os.environ.get('OIDO_CACHE') or os.path.join(home, 'oido'))


def _seconds(table: Table, row: int) -> float:
  try:
    return decode.duration(Example(id=table.ids[row], columns={}, **table.locate(row)))
  except decode.AudioError:
    return 0.0


def _state(table: Table, row: int) -> tuple:
  where = dict(table.locate(row))
  path = where.pop('path', None)
  if path is None:
    return (table.ids[row],)
  try:
    stat = os.stat(path)
  except OSError:
    return (path, where.items())
  return (path, stat.st_size, stat.st_mtime_ns, sorted(where.items()))


def _save(path: pathlib.Path, seconds: np.ndarray) -> None:
  temporary = path.with_name(f'{path.stem}.{os.getpid()}.npy')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(temporary, seconds)
    os.replace(temporary, path)
  except OSError:  # A cache that cannot be written costs time later, nothing else.
    temporary.unlink(missing_ok=True)

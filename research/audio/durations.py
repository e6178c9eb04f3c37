"""Durations of the clips of a table, read from file headers and cached on disk."""

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from research.audio import decode
from research.audio.example import Example
from research.jobs.cache import cache_folder

# Below this many files, reading the headers is faster than checking a cache.
CACHE_FROM = 1000
THREADS = 8
# How durations are found: those of earlier versions believed every header.
MEASURED = b'durations-2'


def measure(
  ids: Sequence[str], locate: Callable[[int], Mapping[str, Any]], rows: Int[np.ndarray, 'clips']
) -> Float[np.ndarray, 'clips']:
  """Durations of the clips in `rows`, seconds; 0 if a file cannot be opened (decoding says why).

  Args:
    ids: ids of all clips.
    locate: row -> location of its audio, as `Table.locate`.
    rows: the clips to measure.
  """
  numbers = rows.tolist()
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    if len(rows) < CACHE_FROM:
      return np.fromiter(
        pool.map(lambda r: _seconds(ids[r], locate(r)), numbers), np.float64, len(rows)
      )
    # The key contains size and mtime of every file: a changed file is measured again.
    digest = hashlib.sha256(MEASURED)
    for state in pool.map(lambda r: _state(ids[r], locate(r)), numbers, chunksize=256):
      digest.update(repr(state).encode())
    path = cache_folder() / f'durations-{digest.hexdigest()[:24]}.npy'
    known = _known(path)
    if known is not None and known.shape == rows.shape:
      return known
    found = pool.map(lambda r: _seconds(ids[r], locate(r)), numbers, chunksize=64)
    seconds = np.fromiter(found, np.float64, len(rows))
  _save(path, seconds)
  return seconds


def _known(path: pathlib.Path) -> np.ndarray | None:
  """The durations of a file of the cache; None where there is none, or a damaged one."""
  try:
    known = np.load(path, allow_pickle=False)
  except (OSError, ValueError, EOFError, MemoryError):
    return None
  return known if isinstance(known, np.ndarray) and known.dtype == np.float64 else None


def _seconds(clip: str, where: Mapping[str, Any]) -> float:
  try:
    return decode.duration(Example(id=clip, columns={}, **where))
  except decode.AudioError:
    return 0.0


def _state(clip: str, where: Mapping[str, Any]) -> tuple:
  where = dict(where)
  path = where.pop('path', None)
  if path is None:
    return (clip,)
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
  except OSError:  # Without the cache, only the next run is slower.
    temporary.unlink(missing_ok=True)

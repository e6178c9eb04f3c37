"""Discrete units of clips on disk: the cluster index of every frame, by clip id.

A folder holds `codes.npy` (uint8, or uint16 above 256 clusters, all clips concatenated),
`offsets.npy` (int64 [n + 1]), `ids.txt` (one id per line) and `about.json`. Unit j of a clip covers
its samples j * hop to j * hop + window; there are no units for partial windows.
"""

import contextlib
import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from research.errors import InputError, unknown

# Required keys of about.json.
FIGURES = ('clusters', 'sample_rate', 'hop', 'window', 'fingerprint')
# Ids come from file names, which may not be UTF-8.
ESCAPED = 'surrogateescape'


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
  """The units of many clips, read from disk on demand.

  Attributes:
    codes: units of all clips, concatenated.
    offsets: start of each clip in `codes`, and the end of the last.
    ids: clip ids.
    about: 'clusters' k; 'sample_rate' (Hz); 'hop' and 'window' (samples); 'fingerprint', a hash of
      the weights, front-end, layer and codebook that made the units; and further metadata.
    path: the folder.
  """

  codes: np.ndarray
  offsets: np.ndarray
  ids: Sequence[str]
  about: Mapping[str, Any]
  path: Path

  @classmethod
  def open(cls, path: str | os.PathLike) -> 'Units':
    """Opens a folder of units, or fairseq's units: a .km file beside its .tsv, or their folder.

    Raises:
      InputError: not a folder of units, or its files are inconsistent.
    """
    path = Path(path)
    if path.suffix == '.km' or not (path / 'about.json').is_file():
      from research.audio import kmeans_lines  # it writes units

      path = kmeans_lines.folder_of(path) if kmeans_lines.is_kmeans(path) else path
    names = ('about.json', 'codes.npy', 'offsets.npy', 'ids.txt')
    absent = [name for name in names if not (path / name).is_file()]
    if absent:
      raise InputError(
        f'{path} is not a folder of units: {", ".join(absent)} is missing. '
        'Make one with python -m launch.label_kmeans.'
      )
    try:
      about = json.loads((path / 'about.json').read_text(encoding='utf-8'))
      codes = np.load(path / 'codes.npy', mmap_mode='r', allow_pickle=False)
      offsets = np.load(path / 'offsets.npy', allow_pickle=False)
      # Read as bytes: ids may contain other line separators, and bytes that are not UTF-8.
      ids = (path / 'ids.txt').read_bytes().decode('utf-8', ESCAPED).split('\n')[:-1]
    except (ValueError, OSError, EOFError, MemoryError) as error:
      raise InputError(f'The units in {path} cannot be read: {error}') from error
    missing = [n for n in FIGURES if not isinstance(about, dict) or n not in about]
    if missing:
      raise InputError(f'{path / "about.json"} lacks {", ".join(missing)}.')
    for name in ('clusters', 'sample_rate', 'hop', 'window'):
      if type(about[name]) is not int or about[name] < 1:
        raise InputError(
          f'{path / "about.json"} has {name} {about[name]!r}: expected a whole number above 0.'
        )
    for name, array in (('codes', codes), ('offsets', offsets)):
      if array.ndim != 1 or array.dtype.kind not in 'iu':
        raise InputError(
          f'{path / name}.npy has dtype {array.dtype} and shape {array.shape}: expected integers '
          'in one dimension.'
        )
    if len(offsets) != len(ids) + 1 or offsets[-1] != len(codes) or (np.diff(offsets) < 0).any():
      raise InputError(
        f'{path} has {len(ids)} ids, {len(offsets)} offsets up to {offsets[-1:]} and {len(codes)} '
        'codes, which do not match: label the clips again.'
      )
    return cls(codes, offsets, ids, about, path)

  def __reduce__(self):
    # The codes of a large corpus stay on disk: an unpickled copy reopens the folder.
    return _open, (self.path.absolute(),)

  @property
  def clusters(self) -> int:
    """Number of clusters, k."""
    return int(self.about['clusters'])

  @property
  def rate(self) -> float:
    """Units per second."""
    return self.about['sample_rate'] / self.about['hop']

  def frames(self, samples: int) -> int:
    """Number of units of N samples."""
    return max(0, 1 + (samples - self.about['window']) // self.about['hop'])

  @functools.cached_property
  def _rows(self) -> dict[str, int]:
    return {name: row for row, name in enumerate(self.ids)}

  def __contains__(self, clip: str) -> bool:
    return clip in self._rows

  def __len__(self) -> int:
    return len(self.ids)

  def rows(self, clips: Sequence[str]) -> Int[np.ndarray, 'clips']:
    """Rows of clips; -1 for clips without units."""
    return np.array([self._rows.get(clip, -1) for clip in clips], np.int64)

  def count(self, row: int | np.integer) -> int:
    """Number of units of the clip in a row."""
    return int(self.offsets[row + 1] - self.offsets[row])

  def part(self, row: int, first: int, count: int) -> Int[np.ndarray, 'n']:
    """Units `first` to `first + count` of the clip in a row, int32; fewer at the end of the clip.

    Raises:
      InputError: a code is not below the number of clusters.
    """
    low = self.offsets[row] + min(first, self.count(row))
    found = np.asarray(self.codes[low : min(low + count, self.offsets[row + 1])], np.int32)
    # Checked on read: checking all codes of a large corpus on open would take minutes.
    if found.size and not 0 <= found.min() <= found.max() < self.clusters:
      raise InputError(
        f'Clip {self.ids[row]!r} of {self.path} has unit {found.max()}, but there are '
        f'{self.clusters} clusters: codes.npy is damaged; label the clips again.'
      )
    return found

  def __getitem__(self, clip: str) -> Int[np.ndarray, 'n']:
    """The units of a clip; for an unknown clip raises InputError with the nearest ids."""
    if clip not in self._rows:
      raise unknown(f'clip of {self.path}', clip, self.ids)
    row = self._rows[clip]
    return self.part(row, 0, self.count(row))


def _open(path: Path) -> Units:
  # grain's workers are sent functions of a module by name, methods of a class by value.
  return Units.open(path)


def save(
  path: str | os.PathLike,
  ids: Sequence[str],
  codes: Iterable[Integer[np.ndarray, '_']],
  about: Mapping[str, Any],
) -> None:
  """Writes a folder of units atomically; holds the codes of one clip at a time.

  Args:
    path: a folder that does not exist yet.
    ids: unique clip ids.
    codes: units of each clip.
    about: see `Units`.

  Raises:
    InputError: the folder exists, an id is not unique, or a code is not below the number of
      clusters.
  """
  check_ids(ids)
  counts = []
  with Writer(path, int(about['clusters'])) as writer:
    position = 0
    for part in codes:
      writer.put(position, np.asarray(part))
      counts.append(len(part))
      position += len(part)
    writer.finish(ids, np.array(counts, np.int64), about)


def check_ids(ids: Sequence[str]) -> None:
  """Raises InputError if ids are not unique or contain a newline."""
  if len(set(ids)) != len(ids) or any('\n' in name for name in ids):
    raise InputError('Units need unique clip ids without newlines.')


class Writer:
  """Writes a folder of units, codes in any order. Codes are not held in memory.

  A context manager: the folder appears when `finish` is called; otherwise nothing is left.

  Args:
    path: a folder that does not exist yet.
    clusters: number of clusters, k.

  Raises:
    InputError: the folder exists, or there are too many clusters.
  """

  def __init__(self, path: str | os.PathLike, clusters: int):
    self._path = Path(path)
    if self._path.exists():
      raise InputError(f'{path} exists already; give another folder.')
    if clusters > 2**16:
      raise InputError(f'There are {clusters} clusters; units are stored for {2**16} at most.')
    self._clusters = clusters
    self._kind = np.dtype(np.uint8 if clusters <= 2**8 else np.uint16)
    self._partial = self._path.with_name(f'{self._path.name}.partial')
    self._end = 0

  def __enter__(self) -> 'Writer':
    shutil.rmtree(self._partial, ignore_errors=True)
    self._partial.mkdir(parents=True)
    # Not a memory map: on a full disk that kills the process, but this raises OSError.
    self._file = open(self._partial / 'codes.npy', 'wb')
    self._write_header(0)
    self._first = self._file.tell()
    return self

  def __exit__(self, *error: object) -> None:
    with contextlib.suppress(OSError):  # the folder is dropped
      self._file.close()
    shutil.rmtree(self._partial, ignore_errors=True)

  def _write_header(self, count: int) -> None:
    shape = {'descr': np.lib.format.dtype_to_descr(self._kind), 'fortran_order': False}
    np.lib.format.write_array_header_1_0(self._file, {**shape, 'shape': (count,)})

  def put(self, position: int, codes: Integer[np.ndarray, 'n']) -> None:
    """Writes codes at index `position` of the concatenated codes.

    Raises:
      InputError: a code is not below the number of clusters.
    """
    if not len(codes):
      return
    if not 0 <= codes.min() <= codes.max() < self._clusters:
      raise InputError(
        f'Units range from {codes.min()} to {codes.max()}, but there are {self._clusters} clusters.'
      )
    self._file.seek(self._first + position * self._kind.itemsize)
    self._file.write(codes.astype(self._kind).tobytes())
    self._end = max(self._end, position + len(codes))

  def finish(
    self, ids: Sequence[str], counts: Int[np.ndarray, 'clips'], about: Mapping[str, Any]
  ) -> None:
    """Completes the folder.

    Args:
      ids: unique clip ids.
      counts: number of units of each clip, in the order of the codes.
      about: see `Units`.

    Raises:
      InputError: an id is not unique, or ids and counts differ in length.
    """
    check_ids(ids)
    if len(counts) != len(ids):
      raise InputError(f'There are {len(ids)} ids, but units of {len(counts)} clips.')
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    if self._end != offsets[-1]:
      raise ValueError(f'counts add up to {offsets[-1]} units, but {self._end} were written.')
    self._file.seek(0)
    self._write_header(self._end)
    # numpy pads the header, so that its length does not depend on the shape.
    assert self._file.tell() == self._first
    self._file.close()
    np.save(self._partial / 'offsets.npy', offsets)
    with open(self._partial / 'ids.txt', 'wb') as file:
      file.writelines(f'{name}\n'.encode('utf-8', ESCAPED) for name in ids)
    text = json.dumps(dict(about), indent=1)
    (self._partial / 'about.json').write_text(text, encoding='utf-8')
    os.replace(self._partial, self._path)

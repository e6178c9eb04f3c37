"""Discrete units of clips on disk: the cluster of every frame, by clip id.

A folder holds `codes.npy` (uint8, or uint16 above 256 clusters, all clips one after the other),
`offsets.npy` (int64 [n + 1]), `ids.txt` (one id a line) and `about.json`. Unit j of a clip stands
for its samples j * hop to j * hop + window; only whole windows have one.
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

# What about.json has to say.
FIGURES = ('clusters', 'sample_rate', 'hop', 'window', 'fingerprint')
# Ids come from file names, which need not be UTF-8.
ESCAPED = 'surrogateescape'


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
  """The units of many clips, read from disk when they are asked for.

  Attributes:
    codes: all clips one after the other.
    offsets: where each clip begins, and the end of the last.
    ids: of the clips.
    about: 'clusters' k; 'sample_rate' (Hz); 'hop' and 'window' (samples); 'fingerprint', a hash of
      what made them: weights, front-end, layer and codebook; and what else is worth knowing.
    path: the folder.
  """

  codes: np.ndarray
  offsets: np.ndarray
  ids: Sequence[str]
  about: Mapping[str, Any]
  path: Path

  @classmethod
  def open(cls, path: str | os.PathLike) -> 'Units':
    """The units of a folder.

    Raises:
      InputError: it is none of these folders, or its files do not belong together.
    """
    path = Path(path)
    names = ('about.json', 'codes.npy', 'offsets.npy', 'ids.txt')
    absent = [name for name in names if not (path / name).is_file()]
    if absent:
      raise InputError(
        f'{path} is no folder of units: {", ".join(absent)} is missing. '
        'python -m launch.label_kmeans makes one.'
      )
    try:
      about = json.loads((path / 'about.json').read_text(encoding='utf-8'))
      codes = np.load(path / 'codes.npy', mmap_mode='r', allow_pickle=False)
      offsets = np.load(path / 'offsets.npy', allow_pickle=False)
      # Not as text: ids may hold what else ends a line, and bytes that are not UTF-8.
      ids = (path / 'ids.txt').read_bytes().decode('utf-8', ESCAPED).split('\n')[:-1]
    except (ValueError, OSError, EOFError) as error:
      raise InputError(f'{path} holds units that cannot be read: {error}') from error
    missing = [n for n in FIGURES if not isinstance(about, dict) or n not in about]
    if missing:
      raise InputError(f'{path / "about.json"} does not say {", ".join(missing)}.')
    for name in ('clusters', 'sample_rate', 'hop', 'window'):
      if type(about[name]) is not int or about[name] < 1:
        raise InputError(
          f'{path / "about.json"} says {name} {about[name]!r}: expected a whole number above 0.'
        )
    for name, array in (('codes', codes), ('offsets', offsets)):
      if array.ndim != 1 or array.dtype.kind not in 'iu':
        raise InputError(
          f'{path / name}.npy holds {array.dtype} of shape {array.shape}: expected a line of whole '
          'numbers.'
        )
    if len(offsets) != len(ids) + 1 or offsets[-1] != len(codes) or (np.diff(offsets) < 0).any():
      raise InputError(
        f'{path} has {len(ids)} ids, {len(offsets)} offsets up to {offsets[-1:]} and {len(codes)} '
        'codes: its files do not belong together.'
      )
    return cls(codes, offsets, ids, about, path)

  def __reduce__(self):
    # The codes of a large corpus stay on disk: another process opens the folder for itself.
    return _open, (self.path.absolute(),)

  @property
  def clusters(self) -> int:
    """k: codes are below it."""
    return int(self.about['clusters'])

  @property
  def rate(self) -> float:
    """Units a second."""
    return self.about['sample_rate'] / self.about['hop']

  def frames(self, samples: int) -> int:
    """How many units so many samples have."""
    return max(0, 1 + (samples - self.about['window']) // self.about['hop'])

  @functools.cached_property
  def _rows(self) -> dict[str, int]:
    return {name: row for row, name in enumerate(self.ids)}

  def __contains__(self, clip: str) -> bool:
    return clip in self._rows

  def __len__(self) -> int:
    return len(self.ids)

  def rows(self, clips: Sequence[str]) -> Int[np.ndarray, 'clips']:
    """Where clips are among the ids; -1 for one that has no units."""
    return np.array([self._rows.get(clip, -1) for clip in clips], np.int64)

  def count(self, row: int | np.integer) -> int:
    """How many units the clip of a row has."""
    return int(self.offsets[row + 1] - self.offsets[row])

  def part(self, row: int, first: int, count: int) -> Int[np.ndarray, 'n']:
    """Units `first` to `first + count` of the clip of a row, int32; fewer where it has fewer.

    Raises:
      InputError: the file holds a code of no cluster.
    """
    low = self.offsets[row] + min(first, self.count(row))
    found = np.asarray(self.codes[low : min(low + count, self.offsets[row + 1])], np.int32)
    # Looked at here: reading all codes of a large corpus when it is opened would take minutes.
    if found.size and not 0 <= found.min() <= found.max() < self.clusters:
      raise InputError(
        f'{self.path} says that {self.ids[row]!r} has unit {found.max()} of {self.clusters} '
        'clusters: codes.npy is damaged or of other units; label the clips again.'
      )
    return found

  def __getitem__(self, clip: str) -> Int[np.ndarray, 'n']:
    """The units of a clip; raises InputError with the nearest ids for one that has none."""
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
  """Writes a folder of units, whole or not at all; of the codes one clip's are held at a time.

  Args:
    path: a folder that is not there yet.
    ids: of the clips, all different.
    codes: units of each.
    about: see `Units`.

  Raises:
    InputError: the folder is there, an id comes twice, or a code is not below the clusters.
  """
  demand_ids(ids)
  counts = []
  with Writer(path, int(about['clusters'])) as writer:
    position = 0
    for part in codes:
      writer.put(position, np.asarray(part))
      counts.append(len(part))
      position += len(part)
    writer.finish(ids, np.array(counts, np.int64), about)


def demand_ids(ids: Sequence[str]) -> None:
  """Raises InputError where two ids are the same, or one is not of one line."""
  if len(set(ids)) != len(ids) or any('\n' in name for name in ids):
    raise InputError('Units need clip ids that are all different and of one line.')


class Writer:
  """A folder of units that is being written, codes in any order: nothing of them is held.

  `with Writer(…) as writer:` the folder is there when `finish` has been called, and nothing is left
  of it otherwise.

  Args:
    path: a folder that is not there yet.
    clusters: k.

  Raises:
    InputError: the folder is there, or there are too many clusters.
  """

  def __init__(self, path: str | os.PathLike, clusters: int):
    self._path = Path(path)
    if self._path.exists():
      raise InputError(f'{path} is there already.')
    if clusters > 2**16:
      raise InputError(f'{clusters} clusters are more than the {2**16} that units are stored for.')
    self._clusters = clusters
    self._kind = np.dtype(np.uint8 if clusters <= 2**8 else np.uint16)
    self._partial = self._path.with_name(f'{self._path.name}.partial')
    self._end = 0

  def __enter__(self) -> 'Writer':
    shutil.rmtree(self._partial, ignore_errors=True)
    self._partial.mkdir(parents=True)
    # Not as a memory map: on a full disk that ends the process, and this raises an OSError.
    self._file = open(self._partial / 'codes.npy', 'wb')
    self._write_header(0)
    self._first = self._file.tell()
    return self

  def __exit__(self, *error: object) -> None:
    with contextlib.suppress(OSError):  # what is not yet written no longer matters
      self._file.close()
    shutil.rmtree(self._partial, ignore_errors=True)

  def _write_header(self, count: int) -> None:
    shape = {'descr': np.lib.format.dtype_to_descr(self._kind), 'fortran_order': False}
    np.lib.format.write_array_header_1_0(self._file, {**shape, 'shape': (count,)})

  def put(self, position: int, codes: Integer[np.ndarray, 'n']) -> None:
    """Writes codes that begin at number `position` among those of all clips.

    Raises:
      InputError: a code is not below the clusters.
    """
    if not len(codes):
      return
    if not 0 <= codes.min() <= codes.max() < self._clusters:
      raise InputError(
        f'Units go from {codes.min()} to {codes.max()}, but there are {self._clusters}.'
      )
    self._file.seek(self._first + position * self._kind.itemsize)
    self._file.write(codes.astype(self._kind).tobytes())
    self._end = max(self._end, position + len(codes))

  def finish(
    self, ids: Sequence[str], counts: Int[np.ndarray, 'clips'], about: Mapping[str, Any]
  ) -> None:
    """Makes it the folder of these clips.

    Args:
      ids: of the clips, all different.
      counts: how many units each has, in the order in which they lie.
      about: see `Units`.

    Raises:
      InputError: an id comes twice, or ids and counts are not of the same clips.
    """
    demand_ids(ids)
    if len(counts) != len(ids):
      raise InputError(f'{len(ids)} ids were given with the units of {len(counts)} clips.')
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    if self._end != offsets[-1]:
      raise ValueError(f'{offsets[-1]} units were promised, {self._end} were written.')
    self._file.seek(0)
    self._write_header(self._end)
    # numpy leaves room for the number of any array.
    assert self._file.tell() == self._first
    self._file.close()
    np.save(self._partial / 'offsets.npy', offsets)
    with open(self._partial / 'ids.txt', 'wb') as file:
      file.writelines(f'{name}\n'.encode('utf-8', ESCAPED) for name in ids)
    text = json.dumps(dict(about), indent=1)
    (self._partial / 'about.json').write_text(text, encoding='utf-8')
    os.replace(self._partial, self._path)

"""Discrete units of clips on disk: the cluster of every frame, by clip id.

A folder holds `codes.npy` (uint8, or uint16 above 256 clusters, all clips one after the other),
`offsets.npy` (int64 [n + 1]), `ids.txt` (one id a line) and `about.json`. Unit j of a clip stands
for its samples j * hop to j * hop + window; only whole windows have one.
"""

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
  """Writes a folder of units, whole or not at all.

  Args:
    path: a folder that is not there yet.
    ids: of the clips, all different.
    codes: units of each.
    about: see `Units`.

  Raises:
    InputError: the folder is there, an id comes twice, or a code is not below the clusters.
  """
  path = Path(path)
  if path.exists():
    raise InputError(f'{path} is there already.')
  if len(set(ids)) != len(ids) or any('\n' in name for name in ids):
    raise InputError('Units need clip ids that are all different and of one line.')
  clusters = int(about['clusters'])
  kind = np.uint8 if clusters <= 2**8 else np.uint16
  if clusters > 2**16:
    raise InputError(f'{clusters} clusters are more than the {2**16} that units are stored for.')
  partial = path.with_name(f'{path.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  parts = [np.asarray(part) for part in codes]
  if len(parts) != len(ids):
    raise InputError(f'{len(ids)} ids were given with the units of {len(parts)} clips.')
  flat = np.concatenate([np.zeros(0, np.uint8), *parts])
  if flat.size and not 0 <= flat.min() <= flat.max() < clusters:
    raise InputError(f'Units go from {flat.min()} to {flat.max()}, but there are {clusters}.')
  np.save(partial / 'codes.npy', flat.astype(kind))
  np.save(partial / 'offsets.npy', np.cumsum([0, *map(len, parts)], dtype=np.int64))
  lines = ''.join(f'{name}\n' for name in ids)
  (partial / 'ids.txt').write_bytes(lines.encode('utf-8', ESCAPED))
  (partial / 'about.json').write_text(json.dumps(dict(about), indent=1), encoding='utf-8')
  os.replace(partial, path)

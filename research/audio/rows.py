"""Rows of a manifest to a source: `Clips` collects them column by column and packs the columns.

A manifest may have millions of rows, so no row is kept as a dict: values that repeat are kept once
while the rows are read, and the columns of many rows are packed into arrays (`columns.py`).
"""

import array
import collections
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from research.audio import columns as packed
from research.audio.clips import Files, Source, Table
from research.audio.example import Value
from research.errors import InputError

# Columns of at least N rows are packed.
PACKED_FROM = 2**14
# Texts that are kept once while rows are read: at most this many of at most that length.
MAX_SHARED, MAX_CHARACTERS = 2**18, 64
# The split that other tools call otherwise, and what they call it.
VALID, ALSO_VALID = 'valid', ('validation', 'dev', 'val')
# Names that other tools give to the columns that are found by name here.
NAMES = {
  'transcript': ('transcription', 'text', 'sentence', 'normalized_text'),
  'speaker': ('speaker_id', 'client_id', 'spk_id'),
}

# A part of a file: start and duration in seconds; NaN reads to the end of the file.
Place = tuple[float, float]


class Clips:
  """The clips of a manifest, one `add` a row.

  Attributes:
    columns: name -> the values so far; shorter than the rows if the last rows lack the column.
  """

  def __init__(self, name: str, root: str | os.PathLike, check: Callable[[str, str], str]):
    """
    Args:
      name: name of the data set.
      root: folder of relative paths.
      check: (path, where it is written) -> the path, or InputError; see `folder.Inside`.
    """
    self.name, self._root, self._check = name, str(root), check
    self.columns: dict[str, list[Value]] = {}
    self._paths: list[str] = []
    self._ids: list[str] = []
    self._starts, self._lengths, self._seconds = (array.array('d') for _ in range(3))
    self._segments = False
    self._shared: dict[str, str] = {}

  def __len__(self) -> int:
    return len(self._paths)

  def add(
    self,
    where: str,
    path: str,
    columns: Mapping[str, Value],
    *,
    id: str = '',
    prefix: str = '',
    place: Place | None = None,
    seconds: float = math.nan,
  ) -> None:
    """Adds a row.

    Args:
      where: names the row in messages: file and line.
      path: the audio file.
      columns: all other values.
      id: of the clip; its path by default, and for a segment `path@start-end`.
      prefix: of the default id.
      place: of a segment of the file.
      seconds: duration of the clip if the manifest tells it.
    """
    path = self._check(path, where)
    count = len(self._paths)
    self._paths.append(path)
    if not id:
      id = prefix + path.lstrip('/') if prefix else path
      if place is not None:
        id = f'{id}@{_written(place[0])}'
        id = id if math.isnan(place[1]) else f'{id}-{_written(place[0] + place[1])}'
    self._ids.append(id)
    for name, value in columns.items():
      values = self.columns.get(name)
      if values is None:
        values = self.columns[name] = []
      if len(values) < count:
        values.extend([''] * (count - len(values)))
      if type(value) is str and len(value) <= MAX_CHARACTERS and len(self._shared) < MAX_SHARED:
        value = self._shared.setdefault(value, value)
      values.append(value)
    if place is None:
      place = (0.0, math.nan)
    else:
      self._segments = True
      seconds = place[1] if math.isnan(seconds) else seconds
    self._starts.append(place[0])
    self._lengths.append(place[1])
    self._seconds.append(seconds)

  def rename(self, names: Mapping[str, tuple[str, ...]] = NAMES) -> None:
    """Gives columns of other tools the names that are used here, {name: other names}."""
    for name, others in names.items():
      other = next((o for o in others if o in self.columns), None)
      if name not in self.columns and other is not None:
        self.columns = {name if n == other else n: v for n, v in self.columns.items()}

  def identify(self, column: str = 'id') -> None:
    """Takes the ids from a column, if there is one and paths do not name the clips: where they are
    segments, or where a path occurs twice.

    Raises:
      InputError: a row has no id.
    """
    unique = len(set(self._paths)) == len(self._paths)
    if column not in self.columns or (unique and not self._segments):
      return
    ids = [str(v) for v in self._padded(self.columns.pop(column))]
    if not all(ids):
      raise InputError(
        f'Row {ids.index("") + 1} of {self.name!r} ({self._paths[ids.index("")]}) has no '
        f'{column!r}: give every row its own, or leave out that column.'
      )
    self._ids = ids

  def tell_seconds(self, seconds: Float[np.ndarray, 'rows']) -> None:
    """Durations of the first rows, for those that `add` was not told; NaN where unknown."""
    if len(seconds):
      own = np.array(self._seconds)
      seconds = np.pad(seconds, (0, len(own) - len(seconds)), constant_values=np.nan)
      self._seconds = array.array('d', np.where(np.isnan(own), seconds, own))

  def values(self) -> tuple[list[str], dict[str, list[Value]], np.ndarray]:
    """Ids, columns and seconds (NaN: unknown) of all rows, for tables of audio that is in no files
    of its own.

    Raises:
      InputError: there are no rows.
    """
    if not self._paths:
      raise InputError(f'{self.name!r} lists no clips.')
    columns = {n: self._padded(v) for n, v in self.columns.items()}
    return self._ids, columns, np.array(self._seconds)

  def source(self, **fields: Any) -> Source:
    """All rows; `fields` are further ones of `Table`.

    Raises:
      InputError: there are no rows, or an id occurs twice.
    """
    ids, columns, seconds = self.values()
    if len(set(ids)) != len(ids):
      duplicate = collections.Counter(ids).most_common(1)[0][0]
      raise InputError(
        f'Data set {self.name!r} lists {duplicate!r} twice; every clip needs a unique id, which a '
        'column "id" may give.'
      )
    places = np.stack([np.array(self._starts), np.array(self._lengths)], axis=1)
    starts, lengths = (places[:, 0], places[:, 1]) if self._segments else (None, None)
    splits, paths = self.splits(), self._below_one_root()
    # Each list is given up as soon as it is packed.
    self.columns, self._shared = {}, {}
    many = len(ids) >= PACKED_FROM
    table = Table(
      name=self.name,
      ids=packed.pack_texts(ids) if many else ids,
      columns={n: packed.pack(columns.pop(n)) if many else columns[n] for n in list(columns)},
      locate=Files(self._root, packed.pack_texts(paths) if many else paths, starts, lengths),
      seconds=seconds,
      segments=places if self._segments else None,
      **{'splits': splits, **fields},
    )
    return Source(table)

  def _padded(self, values: list[Value]) -> list[Value]:
    short = len(self._paths) - len(values)
    return values + [''] * short if short else values

  def splits(self) -> dict[str, tuple[str, ...]]:
    """'valid' for the validation split, if it is called otherwise."""
    own = {v for v in self.columns.get('split', ()) if isinstance(v, str)}
    other = next((n for n in ALSO_VALID if n in own), None)
    return {VALID: (other,)} if other and VALID not in own else {}

  def _below_one_root(self) -> list[str]:
    """The paths, all relative to one root: where some are absolute, the folder of all of them."""
    absolute = {os.path.dirname(p) for p in self._paths if p.startswith(os.sep)}
    if not absolute:
      return self._paths
    own = os.path.abspath(self._root)
    relative = any(not p.startswith(os.sep) for p in self._paths)
    self._root = os.path.commonpath([*absolute, *([own] if relative else [])])
    skip = len(self._root.rstrip(os.sep)) + 1
    return [p[skip:] if p.startswith(os.sep) else f'{own}/{p}'[skip:] for p in self._paths]


def _written(seconds: float) -> str:
  """Seconds to a microsecond, as short as they can be written."""
  return f'{seconds:.6f}'.rstrip('0').rstrip('.')

"""Sources: tables of clips with columns. Clips are located one at a time."""

import collections
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from research.audio import durations
from research.audio.columns import Codes, Column, Texts
from research.audio.example import Example, Value
from research.errors import InputError, unknown


@dataclasses.dataclass
class Files:
  """Locates row i: a file under `root`, or a part of it if `starts` is given."""

  root: str
  paths: Sequence[str]
  starts: Sequence[float] | np.ndarray | None = None
  seconds: Sequence[float | None] | np.ndarray | None = None
  gain: float = 1.0

  def __call__(self, row: int) -> dict[str, Any]:
    fields: dict[str, Any] = {'path': os.path.join(self.root, self.paths[row])}
    if self.gain != 1.0:
      fields['gain'] = self.gain
    if self.starts is not None:
      fields['start'] = float(self.starts[row])
    length = None if self.seconds is None else self.seconds[row]
    return fields if length is None or np.isnan(length) else fields | {'seconds': float(length)}


@dataclasses.dataclass
class Table:
  """All clips of a data set, shared by the sources that are selections of it.

  Attributes:
    name: name of the data set.
    ids: unique ids of the rows.
    columns: name -> one value per row.
    locate: row -> the fields of `Example` that locate its audio; picklable.
    label_sets: column -> its classes in published order, if that is not the sorted order.
    splits: name of a group of splits -> values of the column `split` in that group.
    seconds: durations, NaN if unknown; measured on demand.
    absent: value of the column `split` -> number of clips in the published lists without an audio
      file here.
    segments: start and duration (NaN: to the end) of each row in its file, seconds; for rows that
      are parts of files by other ids than `windows` gives. None if there are none.
    stored: what an index on disk knows of all rows: their fingerprint, the hashes of their
      recordings, and how the table is opened again where it is unpickled. Its ids are unique.
  """

  name: str
  ids: Sequence[str]
  columns: Mapping[str, Sequence[Value]]
  locate: Callable[[int], dict[str, Any]]
  label_sets: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  splits: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  seconds: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
  absent: Mapping[str, int] = dataclasses.field(default_factory=dict)
  segments: np.ndarray | None = None
  stored: Any = None

  def __post_init__(self):
    # Ids that are packed or stored have been checked where they were.
    checked = self.stored is not None or isinstance(self.ids, Texts)
    if not checked and len(set(self.ids)) != len(self.ids):
      duplicate = collections.Counter(self.ids).most_common(1)[0][0]
      raise InputError(
        f'Data set {self.name!r} lists {duplicate!r} twice; every clip needs a unique id.'
      )
    if not len(self.seconds):
      self.seconds = np.full(len(self.ids), np.nan)

  def __reduce__(self) -> Any:
    if self.stored is None:
      return object.__reduce__(self)
    function, *args = self.stored.reopen
    return function, tuple(args)

  @property
  def root(self) -> str:
    """The folder that relative paths start at; '' if the data set has no folder."""
    locate: Any = self.locate
    while isinstance(locate, _Windows):
      locate = locate.source.table.locate
    return locate.root if isinstance(locate, Files) else ''


class Source:
  """A selection of the rows of a table; `len`, indexing and iteration give examples."""

  def __init__(
    self,
    table: Table,
    rows: np.ndarray | None = None,
    universe: np.ndarray | None = None,
  ):
    """`rows` are rows of `table`, in order; classes are those that occur in the rows `universe`."""
    everything = np.arange(len(table.ids), dtype=np.int64)
    self.table = table
    self.rows = everything if rows is None else np.asarray(rows, np.int64)
    self.universe = everything if universe is None else np.asarray(universe, np.int64)

  def __getstate__(self):
    size = len(self.table.ids)
    return self.table, _packed(self.rows, size), _packed(self.universe, size)

  def __setstate__(self, state):
    self.table, *packed = state
    self.rows, self.universe = (_unpacked(rows, len(self.table.ids)) for rows in packed)

  @property
  def name(self) -> str:
    return self.table.name

  @property
  def column_names(self) -> tuple[str, ...]:
    return tuple(self.table.columns)

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, i: int | np.integer) -> Example:
    row = int(self.rows[i])
    columns = {name: values[row] for name, values in self.table.columns.items()}
    return Example(id=self.table.ids[row], columns=columns, **self.table.locate(row))

  def __iter__(self) -> Iterator[Example]:
    return (self[i] for i in range(len(self)))

  def __repr__(self) -> str:
    return f'Source({self.name!r}, {len(self)} of {len(self.table.ids)} clips)'

  def id(self, i: int | np.integer) -> str:
    """The id of clip `i`, without locating its audio."""
    return self.table.ids[int(self.rows[i])]

  def column(self, name: str) -> list[Value]:
    """The values of a column, one per clip.

    Raises:
      InputError: no such column.
    """
    values = self._values(name)
    if isinstance(values, Column):
      return values.take(self.rows)
    return [values[r] for r in self.rows]

  def codes(self, name: str) -> tuple[np.ndarray, Sequence[str]] | None:
    """The values of a column of an index as numbers [clips] and the text of each number; None if
    they are not stored so."""
    values = self._values(name)
    return (values.codes[self.rows], values.values) if isinstance(values, Codes) else None

  def classes(self, name: str) -> tuple[str, ...]:
    """The classes of a label column over all splits, in a fixed order.

    The order is the published one if there is one, else sorted: numerically if all classes are
    numbers. The empty value means "no label" and is not a class.
    """
    if name in self.table.label_sets:
      return tuple(self.table.label_sets[name])
    values = self._values(name)
    return _ordered(_present(values, self.universe) - {''})

  def present(self, name: str) -> set[str]:
    """The distinct values of a column; those in lists each for itself."""
    return _present(self._values(name), self.rows)

  def durations(self) -> Float[np.ndarray, 'clips']:
    """Duration of every clip in seconds, from file headers; 0 if a file cannot be opened.

    Headers are read once. For large data sets the durations are cached on disk.
    """
    unknown_rows = self.rows[np.isnan(self.table.seconds[self.rows])]
    if len(unknown_rows):
      self.table.seconds[unknown_rows] = durations.measure(
        self.table.ids, self.table.locate, unknown_rows
      )
    return self.table.seconds[self.rows].copy()

  def starts(self) -> Float[np.ndarray, 'clips']:
    """Where every clip begins in its audio file, seconds: of segments and windows."""
    return _starts(self.table, self.rows)

  def select(self, indices: Sequence[int] | np.ndarray) -> 'Source':
    """The clips at `indices` of this source, in that order; the classes do not change."""
    return Source(self.table, self.rows[np.asarray(indices, np.int64)], self.universe)

  def split(self, name: str) -> 'Source':
    """The clips of a split; 'a+b' selects several, and data sets may name groups of splits.

    Raises:
      InputError: no such split, or no column `split`.
    """
    if 'split' not in self.table.columns:
      raise InputError(
        f'Data set {self.name!r} has no column "split", so split={name!r} cannot be selected; '
        'give split=None, or a labels.csv with that column.'
      )
    values = self.table.columns['split']
    known, wanted = _present(values, self.rows), set[str]()
    for part in name.split('+'):
      names = self.table.splits.get(part, (part,))
      if not any(n in known for n in names):
        known = {v for v in known if v} | set(self.table.splits)
        raise unknown(f'split of data set {self.name}', part, known)
      wanted.update(names)
    return self.select(np.flatnonzero(_matches(values, wanted, self.rows)))

  def where(self, conditions: Mapping[str, Any]) -> 'Source':
    """The clips whose columns have the given values; the classes are those of matching clips.

    Args:
      conditions: column -> a value, or a list of accepted values.

    Raises:
      InputError: no such column, or no clip matches.
    """
    keep, universe = np.ones(len(self.rows), bool), np.ones(len(self.universe), bool)
    for name, value in conditions.items():
      wanted = {str(value)} if isinstance(value, str | int | float) else {str(v) for v in value}
      values = self._values(name)
      keep &= _matches(values, wanted, self.rows)
      universe &= _matches(values, wanted, self.universe)
    if not keep.any():
      raise InputError(f'No clip of data set {self.name!r} matches {dict(conditions)}.')
    return Source(self.table, self.rows[keep], self.universe[universe])

  def fingerprint(self) -> str:
    """A hash of ids and columns: equal for the same clips in the same order, on any machine.

    That of a selection of an index is of the index and the numbers of the rows.
    """
    stored = self.table.stored
    if stored is None:
      table = self.table
      return fingerprint(table.ids, table.columns, self.rows, table.segments)
    if _is_all(self.rows, len(self.table.ids)):
      return stored.fingerprint
    digest = hashlib.sha256(stored.fingerprint.encode())
    digest.update(self.rows.astype('<i8').tobytes())
    return digest.hexdigest()[:16]

  def recordings(self) -> UInt64[np.ndarray, 'clips']:
    """A hash of the recording of every clip: windows and segments of one have the same."""
    if self.table.stored is not None:
      return self.table.stored.recordings[self.rows]
    if self.table.segments is not None and isinstance(self.table.locate, Files):
      files = self.table.locate.paths
      hashes = (recording_hash(files[r], whole=True) for r in self.rows)
      return np.fromiter(hashes, np.uint64, len(self))
    ids = (self.id(i) for i in range(len(self)))
    return np.fromiter(map(recording_hash, ids), np.uint64, len(self))

  def _values(self, name: str) -> Sequence[Value]:
    if name not in self.table.columns:
      raise unknown(f'column of data set {self.name}', name, self.table.columns)
    return self.table.columns[name]


def fingerprint(
  ids: Sequence[str],
  columns: Mapping[str, Sequence[Value]],
  rows: range | Int[np.ndarray, 'n'],
  segments: np.ndarray | None = None,
) -> str:
  """A hash of the ids and columns of some rows, and of the places of segments."""
  digest = hashlib.sha256()
  names = sorted(columns)
  digest.update(repr(names).encode())
  values = [columns[n] for n in names]
  for row in rows:
    digest.update(repr((ids[row], [c[row] for c in values])).encode())
  if segments is not None:
    digest.update(segments[np.asarray(rows, np.int64)].astype('<f8').tobytes())
  return digest.hexdigest()[:16]


def recording_hash(id: str, whole: bool = False) -> int:
  """The first 64 bits of the sha256 of an id, without the place of a window or segment (`@3`,
  `@0.5-1.5`) unless `whole`."""
  name = id if whole else re.sub(r'(@[\d.]+(-[\d.]+)?)+$', '', id)
  return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], 'big')


def _matches(
  values: Sequence[Value], wanted: set[str], rows: Int[np.ndarray, 'n']
) -> Bool[np.ndarray, 'n']:
  """Which rows have one of the values, or a list with one of them."""
  if isinstance(values, Column):
    return values.matches(wanted)[rows]
  return np.array([not wanted.isdisjoint(_as_list(values[r])) for r in rows], bool)


def _present(values: Sequence[Value], rows: Int[np.ndarray, 'n']) -> set[str]:
  """The distinct values of some rows."""
  if isinstance(values, Column):
    return values.present(rows)
  return {v for r in rows for v in _as_list(values[r])}


def _is_all(rows: np.ndarray, size: int) -> bool:
  return len(rows) == size and bool((rows == np.arange(size)).all())


def _packed(rows: np.ndarray, size: int) -> Any:
  """Rows in ascending order as one bit a row of the table, None for all: workers are sent them."""
  if _is_all(rows, size):
    return None
  if len(rows) < size // 64 or not (np.diff(rows) > 0).all():
    return rows
  chosen = np.zeros(size, bool)
  chosen[rows] = True
  return np.packbits(chosen).tobytes()


def _unpacked(rows: Any, size: int) -> np.ndarray:
  if rows is None:
    return np.arange(size, dtype=np.int64)
  if isinstance(rows, bytes):
    return np.flatnonzero(np.unpackbits(np.frombuffer(rows, np.uint8), count=size))
  return rows


def _ordered(classes: set[str]) -> tuple[str, ...]:
  numbers = all(c.isdecimal() for c in classes)
  return tuple(sorted(classes, key=lambda c: (int(c) if numbers else 0, c)))


def _as_list(value: Value) -> list[str]:
  return [value] if isinstance(value, str) else value


@dataclasses.dataclass
class _Pooled:
  """Locates row i of several concatenated tables."""

  parts: Sequence[Source]
  starts: np.ndarray

  def __call__(self, row: int) -> dict[str, Any]:
    part = int(np.searchsorted(self.starts, row, side='right')) - 1
    source = self.parts[part]
    return source.table.locate(int(source.rows[row - self.starts[part]]))


def pool(sources: Sequence[Source]) -> Source:
  """Concatenates sources. Ids are prefixed with the source's name; missing columns are empty.

  Classes of the same name are merged.
  """
  names: list[str] = []
  for source in sources:
    same = sum(n.split('#')[0] == source.name for n in names)
    names.append(source.name if not same else f'{source.name}#{same + 1}')
  columns = list(dict.fromkeys(c for s in sources for c in s.column_names))
  sizes = [len(s) for s in sources]
  table = Table(
    name='+'.join(names),
    ids=[f'{name}/{s.id(i)}' for name, s in zip(names, sources) for i in range(len(s))],
    columns={
      c: [v for s in sources for v in (s.column(c) if c in s.column_names else [''] * len(s))]
      for c in columns
    },
    locate=_Pooled(list(sources), np.concatenate([[0], np.cumsum(sizes)[:-1]])),
    label_sets=_PooledLabels(list(sources)),
    seconds=np.concatenate([s.table.seconds[s.rows] for s in sources]),
    segments=_pooled_segments(sources),
  )
  return Source(table)


def _pooled_segments(sources: Sequence[Source]) -> np.ndarray | None:
  if all(s.table.segments is None for s in sources):
    return None
  whole = np.array([[0.0, np.nan]])
  parts = (whole if s.table.segments is None else s.table.segments[s.rows] for s in sources)
  return np.concatenate([np.broadcast_to(p, (len(s), 2)) for p, s in zip(parts, sources)])


class _PooledLabels(Mapping[str, tuple[str, ...]]):
  """Classes of pooled sources: the union over all parts and their splits."""

  def __init__(self, parts: Sequence[Source]):
    self._parts = parts

  def __getitem__(self, name: str) -> tuple[str, ...]:
    parts = [p.classes(name) for p in self._parts if name in p.column_names]
    if not parts:
      raise KeyError(name)
    return parts[0] if len(set(parts)) == 1 else _ordered({c for part in parts for c in part})

  def __iter__(self) -> Iterator[str]:
    return iter(dict.fromkeys(c for p in self._parts for c in p.column_names))

  def __len__(self) -> int:
    return len(list(iter(self)))


@dataclasses.dataclass
class _Windows:
  """Locates windows of the clips of another source."""

  source: Source
  clips: Int[np.ndarray, 'clips']
  starts: Float[np.ndarray, 'clips']
  seconds: Float[np.ndarray, 'clips']

  def __call__(self, row: int) -> dict[str, Any]:
    fields = self.source.table.locate(int(self.source.rows[self.clips[row]]))
    fields['start'] = fields.get('start', 0.0) + float(self.starts[row])
    fields['seconds'] = float(self.seconds[row])
    return fields


def _starts(table: Table, rows: Int[np.ndarray, 'n']) -> Float[np.ndarray, 'n']:
  locate: Any = table.locate
  if isinstance(locate, _Windows):
    return locate.starts[rows] + _starts(
      locate.source.table, locate.source.rows[locate.clips[rows]]
    )
  if isinstance(locate, Files) and locate.starts is not None:
    return np.asarray(locate.starts, np.float64)[rows]
  return np.zeros(len(rows))


def windows(source: Source, seconds: float, shortest: float = 1.0) -> Source:
  """Cuts long clips into windows of `seconds`, so that sampling is uniform over time.

  Args:
    source: any source; its durations are read.
    seconds: length of a window; shorter clips stay whole.
    shortest: minimum length of the last window in seconds; a shorter one is dropped.
  """
  durations = source.durations()
  counts = np.maximum(1, np.floor((durations - shortest) / seconds) + 1).astype(np.int64)
  clips = np.repeat(np.arange(len(source)), counts)
  order = np.arange(len(clips)) - np.repeat(np.cumsum(counts) - counts, counts)
  starts = order * float(seconds)
  lengths = np.minimum(durations[clips] - starts, float(seconds))
  table = Table(
    name=source.name,
    ids=[
      source.id(c) if counts[c] == 1 else f'{source.id(c)}@{s:g}' for c, s in zip(clips, starts)
    ],
    columns={n: _take(source.column(n), clips) for n in source.column_names},
    locate=_Windows(source, clips, starts, lengths),
    label_sets=_PooledLabels([source]),
    splits=source.table.splits,
    seconds=lengths,
    segments=None if source.table.segments is None else source.table.segments[source.rows[clips]],
  )
  return Source(table)


def _take(values: list[Value], rows: np.ndarray) -> list[Value]:
  return [values[r] for r in rows]

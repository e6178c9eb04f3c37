"""Columns of an index on disk, memory-mapped, or packed in memory: sequences that only read what is
asked for.

Each is a `Sequence` of the values of all rows. They also answer questions about all rows at once
with NumPy: which rows `matches` some values, which values are `present` in some rows.
"""

import abc
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from research.audio.example import Value

ESCAPED = 'surrogateescape'  # File names may contain arbitrary bytes.
# Columns with more distinct values are stored as texts.
MAX_CODES = 2**16
# Bytes compared at once.
_CHUNK = 2**22


@runtime_checkable
class Arrays(Protocol):
  """Named arrays on disk; unpickled copies open the file again."""

  def array(self, name: str) -> np.ndarray:
    """One of them, memory-mapped."""


@dataclasses.dataclass
class Packed:
  """Named arrays in memory."""

  arrays: Mapping[str, np.ndarray]

  def array(self, name: str) -> np.ndarray:
    """One of them."""
    return self.arrays[name]


@runtime_checkable
class Column(Protocol):
  """A column that answers for all rows at once."""

  def take(self, rows: Int[np.ndarray, 'n']) -> list[Value]:
    """The values of some rows."""

  def matches(self, wanted: Collection[str]) -> Bool[np.ndarray, 'rows']:
    """Which rows have one of these values, or a list with one of them."""

  def present(self, rows: Int[np.ndarray, 'n']) -> set[str]:
    """The distinct values of some rows; those in lists each for itself."""


class _Stored(Sequence):
  def __init__(self, arrays: Arrays, key: str):
    """The column `key` of a file of arrays."""
    self._arrays, self._key = arrays, key
    self._load()

  def __reduce__(self):
    return type(self), (self._arrays, self._key)

  @abc.abstractmethod
  def _load(self) -> None:
    """Maps the arrays of the column."""

  @abc.abstractmethod
  def _value(self, row: int) -> Any:
    """The value of a row."""

  def __getitem__(self, row: Any) -> Any:
    row = range(len(self))[row]
    return [self._value(r) for r in row] if isinstance(row, range) else self._value(row)

  def take(self, rows: Int[np.ndarray, 'n']) -> list[Value]:
    """See `Column`."""
    return [self._value(r) for r in rows.tolist()]

  def _array(self, part: str) -> np.ndarray:
    return self._arrays.array(f'{self._key}.{part}')

  def __iter__(self) -> Iterator[Any]:
    return (self[i] for i in range(len(self)))


class Texts(_Stored):
  """One text a row: the bytes of all, and where each begins."""

  def _load(self) -> None:
    self.offsets, self.bytes = self._array('offsets'), self._array('bytes')

  def __len__(self) -> int:
    return len(self.offsets) - 1

  def _value(self, row: int) -> Any:
    return self.bytes[self.offsets[row] : self.offsets[row + 1]].tobytes().decode(errors=ESCAPED)

  def matches(self, wanted: Collection[str]) -> Bool[np.ndarray, 'rows']:
    """See `Column`."""
    found, lengths = np.zeros(len(self), bool), np.diff(self.offsets)
    for text in wanted:
      sought = np.frombuffer(text.encode(errors=ESCAPED), np.uint8)
      rows = np.flatnonzero(lengths == len(sought))
      size = max(1, _CHUNK // max(1, len(sought)))
      for part in (rows[i : i + size] for i in range(0, len(rows), size)):
        own = self.bytes[self.offsets[part][:, None] + np.arange(len(sought))]
        found[part[(own == sought).all(axis=1)]] = True
    return found

  def present(self, rows: Int[np.ndarray, 'n']) -> set[str]:
    """See `Column`."""
    return set(self.take(rows))  # type: ignore[arg-type]


class Codes(_Stored):
  """One of few texts a row: its number in a dictionary."""

  def _load(self) -> None:
    self.codes = self._array('codes')
    self.values: tuple[str, ...] = tuple(Texts(self._arrays, f'{self._key}.values'))
    self._objects = np.array([*self.values, None], object)[:-1]

  def __len__(self) -> int:
    return len(self.codes)

  def _value(self, row: int) -> Any:
    return self.values[self.codes[row]]

  def __getitem__(self, row: Any) -> Any:
    if isinstance(row, slice):
      return self._objects[self.codes[row]].tolist()
    return super().__getitem__(row)

  def take(self, rows: Int[np.ndarray, 'n']) -> list[Value]:
    """See `Column`."""
    return self._objects[self.codes[rows]].tolist()

  def matches(self, wanted: Collection[str]) -> Bool[np.ndarray, 'rows']:
    """See `Column`."""
    return np.array([v in wanted for v in self.values], bool)[self.codes]

  def present(self, rows: Int[np.ndarray, 'n']) -> set[str]:
    """See `Column`."""
    counts = np.bincount(self.codes[rows], minlength=len(self.values))
    return {v for v, n in zip(self.values, counts, strict=True) if n}


class Lists(_Stored):
  """A list of texts a row, as numbers in a dictionary; rows that are `single` are one text."""

  def _load(self) -> None:
    self.offsets, self.single = self._array('offsets'), self._array('single')
    self.items = Codes(self._arrays, f'{self._key}.items')

  def __len__(self) -> int:
    return len(self.offsets) - 1

  def _value(self, row: int) -> Any:
    found = self.items[int(self.offsets[row]) : int(self.offsets[row + 1])]
    return found[0] if self.single[row] else found

  def matches(self, wanted: Collection[str]) -> Bool[np.ndarray, 'rows']:
    """See `Column`."""
    before = np.concatenate([[0], np.cumsum(self.items.matches(wanted))])
    return before[self.offsets[1:]] > before[self.offsets[:-1]]

  def present(self, rows: Int[np.ndarray, 'n']) -> set[str]:
    """See `Column`."""
    counts = np.diff(self.offsets)[rows]
    starts = np.repeat(self.offsets[:-1][rows] - (np.cumsum(counts) - counts), counts)
    return self.items.present(starts + np.arange(len(starts)))


KINDS: dict[str, type[_Stored]] = {'texts': Texts, 'codes': Codes, 'lists': Lists}


def pack(values: Sequence[Value]) -> Sequence[Value]:
  """The values of a column as a `Column` in memory, a fraction of the size of a list of strings."""
  arrays: dict[str, np.ndarray] = {}
  kind = store('', values, arrays)
  return KINDS[kind](Packed(arrays), '')


def pack_texts(values: Sequence[str]) -> Texts:
  """Ids or paths as one array of bytes."""
  arrays: dict[str, np.ndarray] = {}
  store_texts('', values, arrays)
  return Texts(Packed(arrays), '')


def store(key: str, values: Sequence[Value], arrays: dict[str, np.ndarray]) -> str:
  """Adds the arrays of a column to `arrays`; its kind, a key of KINDS."""
  if any(not isinstance(v, str) for v in values):
    lists = [[v] if isinstance(v, str) else v for v in values]
    arrays[f'{key}.offsets'] = _offsets(map(len, lists), len(lists))
    arrays[f'{key}.single'] = np.array([isinstance(v, str) for v in values], bool)
    _store_codes(f'{key}.items', [v for several in lists for v in several], arrays, np.inf)
    return 'lists'
  if _store_codes(key, values, arrays, min(MAX_CODES, max(256, len(values) // 4))):
    return 'codes'
  store_texts(key, values, arrays)
  return 'texts'


def store_texts(key: str, values: Sequence[Any], arrays: dict[str, np.ndarray]) -> None:
  """Adds texts of any number of distinct values."""
  encoded = [v.encode(errors=ESCAPED) for v in values]
  arrays[f'{key}.offsets'] = _offsets(map(len, encoded), len(encoded))
  arrays[f'{key}.bytes'] = np.frombuffer(b''.join(encoded), np.uint8)


def _store_codes(
  key: str, values: Sequence[Any], arrays: dict[str, np.ndarray], most: float
) -> bool:
  """Adds texts by their numbers, unless there are too many different ones."""
  numbers: dict[str, int] = {}
  codes = np.zeros(len(values), np.int64)
  for i, value in enumerate(values):
    codes[i] = numbers.setdefault(value, len(numbers))
    if len(numbers) > most:
      return False
  smallest = np.min_scalar_type(max(1, len(numbers)))
  arrays[f'{key}.codes'] = codes.astype(smallest)
  store_texts(f'{key}.values', list(numbers), arrays)
  return True


def _offsets(lengths: Any, count: int) -> np.ndarray:
  return np.concatenate([[0], np.cumsum(np.fromiter(lengths, np.int64, count))]).astype(np.int64)

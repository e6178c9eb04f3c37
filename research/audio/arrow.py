"""Tables of audio in Parquet and Arrow files, through pyarrow (the [parquet] extra).

Columns are read when a table is opened, audio when a clip is read: of Parquet a row group at a
time, of Arrow from a memory map.
"""

import collections
import dataclasses
import importlib.util
import os
import pathlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from research.audio import lines, trouble
from research.audio.decode import AudioError
from research.audio.example import Value
from research.errors import InputError

# Bytes of row groups that a process holds; a larger group is read in steps for every clip.
MAX_HELD = 2**28
# Rows that are read at once.
ROWS, STEP = 8192, 16


def need(path: str | os.PathLike) -> None:
  """Raises InputError if pyarrow is not installed."""
  if importlib.util.find_spec('pyarrow') is None:
    raise InputError(f"{path} needs pyarrow, which is not installed: pip install -e '.[parquet]'.")


def is_stream(path: pathlib.Path) -> bool:
  """Whether it is an Arrow file, and not one of Parquet."""
  return path.suffix == '.arrow'


def schema(path: pathlib.Path) -> Any:
  """The pyarrow.Schema of a file.

  Raises:
    InputError: it cannot be read, or pyarrow is not installed.
  """
  return _mapped(path).schema if is_stream(path) else _parquet(path).schema_arrow


def count(path: pathlib.Path) -> list[int]:
  """Rows of each group of a file, in order; an Arrow file is one group."""
  if is_stream(path):
    return [_mapped(path).num_rows]
  about = _parquet(path).metadata
  return [about.row_group(g).num_rows for g in range(about.num_row_groups)]


def plain_rows(
  path: pathlib.Path, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Value]]:
  """The rows of some columns, or of all; nested ones by names such as `audio.path`."""
  names = schema(path).names if columns is None else list(columns)
  if not names:
    yield from ({} for rows in count(path) for _ in range(rows))
  for batch in _batches(path, names) if names else ():
    found = []
    for name in names:
      column = batch
      for part in name.split('.') if name not in batch.schema.names else [name]:
        column = column.column(part) if column is batch else column.field(part)
      found.append([lines.value(v) if _plain(v) else str(v) for v in column.to_pylist()])
    yield from (dict(zip(names, row)) for row in zip(*found))


def _plain(value: Any) -> bool:
  return value is None or isinstance(value, str | int | float | bool | list | dict)


def _batches(path: pathlib.Path, names: list[str]) -> Iterator[Any]:
  if is_stream(path):
    table = _mapped(path).select(list(dict.fromkeys(n.split('.')[0] for n in names)))
    yield from table.to_batches(max_chunksize=ROWS)
  else:
    yield from _read(path, lambda: _parquet(path).iter_batches(ROWS, columns=names))


def _read(path: pathlib.Path, open_batches: Any) -> Iterator[Any]:
  import pyarrow

  try:
    yield from open_batches()
  except (pyarrow.ArrowException, OSError) as error:
    raise _damaged(path, error) from None


def _damaged(path: str | os.PathLike, error: Exception) -> InputError:
  why = str(error).split('\n')[0].rstrip('. ')
  return InputError(f'{path} is damaged or not of its format ({why}); copy it again.')


def _parquet(path: str | os.PathLike) -> Any:
  need(path)
  import pyarrow
  import pyarrow.parquet

  try:
    return pyarrow.parquet.ParquetFile(path, memory_map=True)
  except (pyarrow.ArrowException, OSError) as error:
    raise _damaged(path, error) from None


def _mapped(path: str | os.PathLike) -> Any:
  """The table of an Arrow file, a memory map; `datasets` writes streams."""
  need(path)
  import pyarrow

  try:
    source = pyarrow.memory_map(os.fspath(path))
    try:
      return pyarrow.ipc.open_stream(source).read_all()
    except pyarrow.ArrowInvalid:
      return pyarrow.ipc.open_file(source).read_all()
  except (pyarrow.ArrowException, OSError) as error:
    raise _damaged(path, error) from None


@dataclasses.dataclass
class Cells:
  """Locates row i: a cell with bytes, a path, or both. Thread-safe; reopened in every process.

  Attributes:
    files: the tables, in order.
    groups: (file, group, rows) of all groups, [g, 3].
    column: the column of audio.
    root: folder of relative paths, which stay below it; `datasets` writes absolute ones for files
      of its machine.
  """

  files: Sequence[str]
  groups: np.ndarray
  column: str
  root: str

  def __post_init__(self):
    self._starts = np.concatenate([[0], np.cumsum(self.groups[:, 2])])
    self._held: collections.OrderedDict[int, Any] = collections.OrderedDict()
    self._lock = threading.Lock()

  def __getstate__(self):
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self.__post_init__()

  def __call__(self, row: int) -> dict[str, Any]:
    group = int(np.searchsorted(self._starts, row, side='right')) - 1
    file = self.files[self.groups[group, 0]]
    where = f'{file}, row {row - int(self._starts[group])} of group {self.groups[group, 1]}'
    cell = trouble.patiently(lambda: self._cell(file, group, row - int(self._starts[group])))
    found = cell if isinstance(cell, Mapping) else {'path' if type(cell) is str else 'bytes': cell}
    if found.get('bytes') is not None:
      return {'data': found['bytes']}
    if not found.get('path'):
      raise AudioError(where, 'It has neither bytes nor a path.')
    return {'path': self._below(found['path'], where)}

  def _below(self, path: str, where: str) -> str:
    if '..' in path.split('/') or '\0' in path:
      raise AudioError(where, f'Its path {path!r} goes up by "..", out of the data set.')
    return os.path.join(self.root, path)

  def _cell(self, file: str, group: int, row: int) -> Any:
    import pyarrow

    try:
      with self._lock:
        if group in self._held:
          self._held.move_to_end(group)
          return self._held[group][row].as_py()
        column = self._column(file, int(self.groups[group, 1]))
        if column is None:
          return self._stepwise(file, int(self.groups[group, 1]), row)
        self._held[group] = column
        # A memory map costs no memory.
        while not file.endswith('.arrow') and len(self._held) > 1 and self._bytes() > MAX_HELD:
          self._held.popitem(last=False)
        return column[row].as_py()
    except (pyarrow.ArrowException, OSError, MemoryError, InputError) as error:
      if why := trouble.reason(error):
        raise trouble.Trouble(file, why) from None
      raise AudioError(file, f'Row {row} of group {group} cannot be read ({error}).') from None

  def _bytes(self) -> int:
    return sum(column.nbytes for column in self._held.values())

  def _column(self, file: str, group: int) -> Any:
    """The audio of a group; None if it is too large to be held."""
    if file.endswith('.arrow'):
      return _mapped(file).column(self.column)
    table = _parquet(file)
    about = table.metadata.row_group(group)
    columns = [about.column(c) for c in range(about.num_columns)]
    size = sum(
      c.total_uncompressed_size for c in columns if c.path_in_schema.split('.')[0] == self.column
    )
    if size > MAX_HELD:
      return None
    return table.read_row_group(group, columns=[self.column]).column(0)

  def _stepwise(self, file: str, group: int, row: int) -> Any:
    batches = _parquet(file).iter_batches(STEP, row_groups=[group], columns=[self.column])
    for batch in batches:
      if row < batch.num_rows:
        return batch.column(0)[row].as_py()
      row -= batch.num_rows
    raise InputError('the group has fewer rows')

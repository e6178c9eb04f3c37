"""Makes sources from the tables of data sets, which `audio/tables.py` reads."""

import pathlib
from collections.abc import Iterable

from research.audio.clips import Files, Source, Table
from research.audio.example import Value
from research.audio.folder import Inside
from research.audio.tables import check_columns, read_rows

__all__ = ['check_columns', 'read_rows', 'source']


def source(
  name: str,
  root: str | pathlib.Path,
  rows: Iterable[tuple[str, str, dict[str, Value]]],
  **fields,
) -> Source:
  """A source from rows (id, path below `root`, columns); missing columns are empty.

  Raises:
    InputError: a path leads out of `root`, or there are no rows.
  """
  rows = list(rows)
  inside = Inside(pathlib.Path(root))
  paths = [inside(path, f'data set {name}') for _, path, _ in rows]
  names = list(dict.fromkeys(n for _, _, columns in rows for n in columns))
  table = Table(
    name=name,
    ids=[i for i, _, _ in rows],
    columns={n: [columns.get(n, '') for _, _, columns in rows] for n in names},
    locate=Files(str(root), paths),
    **fields,
  )
  return Source(table)

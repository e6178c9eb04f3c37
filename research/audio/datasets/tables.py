"""Reads the tables of data sets and makes sources from them."""

import csv
import pathlib
from collections.abc import Iterable

from research.audio.clips import Files, Source, Table
from research.audio.example import Value
from research.audio.folder import Inside
from research.errors import InputError, listed


def read_rows(path: pathlib.Path, names: tuple[str, ...] | None = None) -> list[dict[str, str]]:
  """The rows of a .csv, or of a .tsv (without quoting).

  Args:
    path: the file.
    names: column names, for a file without a header.

  Raises:
    InputError: the file is missing or not a text table.
  """
  tsv = path.suffix == '.tsv'
  try:
    with open(path, newline='', encoding='utf-8-sig') as file:
      reader = csv.DictReader(
        file,
        names,
        delimiter='\t' if tsv else ',',
        quoting=csv.QUOTE_NONE if tsv else csv.QUOTE_MINIMAL,
      )
      rows = list(reader)
  except OSError as error:
    raise InputError(f'{path} cannot be read: {error.strerror}.') from None
  except (csv.Error, UnicodeDecodeError) as error:
    raise InputError(f'{path} is not a text table ({error}).') from None
  return [{k: v or '' for k, v in row.items() if k is not None} for row in rows]


def check_columns(path: pathlib.Path, row: dict[str, str], *names: str) -> None:
  """Raises InputError if a row of a table lacks a column."""
  for name in names:
    if name not in row:
      raise InputError(f'{path} has no column {name!r} (it has: {listed(row)}).')


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

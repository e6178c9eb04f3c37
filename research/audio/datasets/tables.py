"""Reading the tables that data sets are described by, and making sources of them."""

import csv
import pathlib
from collections.abc import Iterable

from research.audio.clips import Files, Source, Table
from research.audio.example import Value
from research.audio.folder import Inside
from research.errors import InputError


def read_rows(path: pathlib.Path, names: tuple[str, ...] | None = None) -> list[dict[str, str]]:
  """The rows of a .csv, or of a .tsv, whose quotes are ordinary characters.

  Args:
    path: the file.
    names: of the columns, for a file without a header.

  Raises:
    InputError: it is missing or not a table of text.
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
    raise InputError(f'{path} is not a table of text ({error}).') from None
  return [{k: v or '' for k, v in row.items() if k is not None} for row in rows]


def need(path: pathlib.Path, row: dict[str, str], *names: str) -> None:
  """Checks that a table has the columns that its readers use."""
  for name in names:
    if name not in row:
      raise InputError(f'{path} has no column {name!r} (it has: {", ".join(row)}).')


def source(
  name: str,
  root: str | pathlib.Path,
  rows: Iterable[tuple[str, str, dict[str, Value]]],
  **fields,
) -> Source:
  """A source of rows (id, path below `root`, columns); a column that a row lacks is empty there.

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

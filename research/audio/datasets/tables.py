"""Makes sources from the tables of data sets, which `audio/tables.py` reads."""

import pathlib
from collections.abc import Iterable

from research.audio.clips import Files, Source, Table
from research.audio.example import Value
from research.audio.folder import Inside
from research.audio.tables import check_columns, read_rows

__all__ = ['check_columns', 'clip_names', 'read_rows', 'source']


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


def clip_names(ytid: str, start: float, end: float) -> list[str]:
  """Names of the file of a segment, without endings, as common download tools write them."""
  ms = f'{round(start * 1000)}', f'{round(end * 1000)}'
  tails = (
    '', f'_{start:g}', f'_{start:.3f}', f'_{start:.1f}', f'_{ms[0]}', f'_{ms[0]}_{ms[1]}',
    f'_{start:g}_{end:g}', f'_{start:.3f}_{end:.3f}',
  )  # fmt: skip
  return [f'{prefix}{ytid}{tail}' for tail in tails for prefix in ('', 'Y')]

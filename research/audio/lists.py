"""Lists of files that a person names: .txt (a path a line), .csv, .tsv or .jsonl with `path`."""

import os
import pathlib
from collections.abc import Iterator

from research.audio import lines, segments, tables
from research.audio.clips import Source
from research.audio.example import Value
from research.audio.folder import SEVERAL, durations
from research.audio.rows import Clips
from research.audio.spelling import Spelling
from research.errors import InputError, listed

SUFFIXES = ('.txt', '.csv', '.tsv', '.jsonl')


def is_list(path: pathlib.Path) -> bool:
  """Whether a file is a list by its name."""
  return path.suffix.lower() in SUFFIXES and path.is_file()


def file_list(path: str) -> Source:
  """The files of a list. Unlike those of a manifest in a folder, they may be in any folder;
  relative paths start at the folder of the list.

  Rows with `start` or `offset` are segments (`audio/segments.py`), named by a column `id`, else by
  `path@start-end`. A column seconds or duration gives durations; all others are labels.

  Raises:
    InputError: no path in some row, or no rows.
  """
  given = pathlib.Path(path)
  spelling = Spelling(given.parent)
  clips = Clips(given.name, given.parent, lambda path, where: spelling(path))
  for line, row in _rows(given):
    where = f'{given}, line {line}'
    if 'path' not in row:
      raise InputError(f"{where}: no column 'path' (it has: {listed(row)}).")
    name = row.pop('path')
    if not isinstance(name, str) or not name:
      raise InputError(f'The list {given} names no file in some row (line {line}).')
    clips.add(where, os.path.expanduser(name), row, place=segments.take(row, where))
  if not len(clips):
    raise InputError(f'The list {given} names no file.')
  clips.tell_seconds(durations(clips.columns))
  clips.identify()
  return clips.source()


def _rows(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Value]]]:
  if path.suffix.lower() == '.txt':
    for line, text in tables.lines(path):
      if not text.startswith('#'):
        yield line, {'path': text}
    return
  for line, row in tables.rows(path):
    columns = {name: lines.value(value) for name, value in row.items()}
    if path.suffix.lower() != '.jsonl' and SEVERAL in row:
      columns[SEVERAL] = [v.strip() for v in row[SEVERAL].split(';') if v.strip()]
    yield line, columns

"""Text tables and lists: one reader of .csv, .tsv, .jsonl and .txt, for all that reads them.

All are UTF-8, with or without a byte order mark. In a .tsv quotation marks are characters like any
other; in a .csv they enclose fields. Every row has as many fields as the header. Errors name the
file and the line.
"""

import csv
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from research.audio import lines as texts
from research.errors import InputError, listed

SUFFIXES = ('.csv', '.tsv', '.jsonl', '.json')


def text(path: str | os.PathLike) -> str:
  """The text of a file, without a byte order mark.

  Raises:
    InputError: the file cannot be read, or is not UTF-8.
  """
  try:
    data = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise InputError(f'{path} cannot be read: {error.strerror or error}.') from None
  texts.check_encoding(path, data)
  try:
    return data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    line = data.count(b'\n', 0, error.start) + 1
    raise InputError(
      f'{path}, line {line}: not UTF-8 text ({error.reason} {data[error.start]:#04x}): save the '
      'file as UTF-8.'
    ) from None


def lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
  """(number, text) of the lines of a file that are not blank, without white space around them."""
  for number, line in texts.lines(path):
    if line.strip():
      yield number, line.strip()


def records(
  path: str | os.PathLike, *, delimiter: str | None = None, spaced: bool = False
) -> Iterator[tuple[int, list[str]]]:
  """(line, fields) of a table without a header; blank lines are left out.

  Args:
    path: a .csv, or a .tsv, whose fields are not quoted.
    delimiter: by default a tab for .tsv and a comma otherwise; fields between tabs are not quoted.
    spaced: blanks behind a delimiter do not belong to the field.

  Raises:
    InputError: a row is not one of a table; names the line where it begins.
  """
  delimiter = delimiter or ('\t' if os.fspath(path).lower().endswith('.tsv') else ',')
  if delimiter == '\t':
    for number, line in texts.lines(path):
      if line.strip():
        fields = line.split('\t')
        yield number, [f.lstrip(' ') for f in fields] if spaced else fields
    return
  reader = csv.reader(
    io.StringIO(text(path), newline=''), delimiter=delimiter, strict=True, skipinitialspace=spaced
  )
  while True:
    start = reader.line_num + 1
    try:
      fields = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      raise InputError(f'{path}, line {start}: not a csv row ({error}).') from None
    if any(field.strip() for field in fields) or len(fields) > 1:
      yield start, fields


def rows(
  path: str | os.PathLike, names: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
  """(line, row) of a .csv, .tsv or .jsonl; the values of a .jsonl are those of JSON.

  Names of columns have no blanks around them; where the header has blanks behind its delimiters,
  those of the fields do not count either.

  Args:
    path: the file.
    names: names of the columns of a table without a header.

  Raises:
    InputError: the file cannot be read, a name occurs twice, or a row has another number of fields.
  """
  if os.fspath(path).lower().endswith(('.jsonl', '.json')):
    yield from texts.records(path)
    return
  found = records(path)
  if names is None:
    _, header = next(found, (0, []))
    names = [name.strip() for name in header]
    if any(name != name.lstrip() for name in header):
      found = records(path, spaced=True)
      next(found)
  if len(set(names)) != len(names):
    raise InputError(f'{path} names a column twice: {listed(names)}.')
  for line, fields in found:
    if len(fields) != len(names):
      raise InputError(
        f'{path}, line {line}: {len(fields)} fields, the header names {len(names)}; a field with a '
        'delimiter in it has to be quoted in a .csv.'
      )
    yield line, dict(zip(names, fields))


def header(path: str | os.PathLike) -> list[str]:
  """Names of the columns of a .csv or .tsv."""
  return [name.strip() for name in next(records(path), (0, []))[1]]


def read_rows(path: pathlib.Path, names: tuple[str, ...] | None = None) -> list[dict[str, str]]:
  """The rows of a .csv or .tsv; see `rows`."""
  return [row for _, row in rows(path, names)]


def check_columns(path: pathlib.Path, row: dict[str, str], *names: str) -> None:
  """Raises InputError if a row of a table lacks a column."""
  for name in names:
    if name not in row:
      raise InputError(f'{path} has no column {name!r} (it has: {listed(row)}).')

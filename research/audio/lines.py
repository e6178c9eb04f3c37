"""Lines of manifests: text, gzipped text and JSON lines, one line at a time."""

import codecs
import gzip
import json
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

from research.audio import tables
from research.audio.example import Value
from research.errors import InputError


def lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
  """(number, text without its end) of every line of a UTF-8 file; `.gz` is decompressed.

  Raises:
    InputError: the file cannot be read, is not UTF-8, or is damaged.
  """
  path = pathlib.Path(path)
  opened = gzip.open if path.suffix == '.gz' else open
  number = 0
  try:
    with opened(path, 'rb') as file:
      for number, line in enumerate(file, start=1):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        yield number, line.decode().rstrip('\r\n')
  except UnicodeDecodeError as error:
    raise InputError(
      f'{path}, line {number}: not UTF-8 text ({error.reason}); convert it to UTF-8.'
    ) from None
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise InputError(f'{path} is damaged behind line {number} ({error}); copy it again.') from None
  except OSError as error:
    raise InputError(f'{path} cannot be read: {error.strerror or error}.') from None


def records(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
  """(line, object) of a file of JSON lines; blank lines are skipped.

  Raises:
    InputError: a line is not a JSON object; see also `lines`.
  """
  for number, text in lines(path):
    if not text.strip():
      continue
    try:
      found = json.loads(text)
    except (ValueError, RecursionError) as error:
      raise InputError(f'{path}, line {number}: not JSON ({error}).') from None
    if not isinstance(found, dict):
      raise InputError(f'{path}, line {number}: not a JSON object.')
    yield number, found


def first_line(path: str | os.PathLike) -> str:
  """The first line that is not blank, '' if there is none or the file is not text.

  Raises:
    InputError: it is text in another encoding.
  """
  tables.check_encoding(path)
  try:
    for _, text in lines(path):
      if text.strip():
        return text
  except InputError:
    pass
  return ''


def first_record(path: str | os.PathLike) -> dict[str, Any]:
  """The object of the first line, {} if the file is not one of JSON lines.

  Raises:
    InputError: it is text in another encoding.
  """
  tables.check_encoding(path)
  try:
    return next(iter(records(path)), (0, {}))[1]
  except InputError:
    return {}


def value(found: object) -> Value:
  """A JSON value as the value of a column."""
  if isinstance(found, str):
    return found
  if isinstance(found, list):
    return [v if isinstance(v, str) else json.dumps(v) for v in found]
  if found is None:
    return ''
  return json.dumps(found) if isinstance(found, bool | dict) else str(found)

"""Lines of text, gzipped text and JSON lines, one at a time.

All text is UTF-8, with or without a byte order mark.
"""

import codecs
import contextlib
import gzip
import json
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

from research.audio.example import Value
from research.errors import InputError

_MARKS = (
  (b'\xff\xfe\0\0', 'UTF-32'),
  (b'\0\0\xfe\xff', 'UTF-32'),
  (b'\xff\xfe', 'UTF-16'),
  (b'\xfe\xff', 'UTF-16'),
)


def check_encoding(path: str | os.PathLike, data: bytes) -> None:
  """Raises InputError if the first bytes of a file are those of UTF-16 or UTF-32."""
  for mark, name in _MARKS:
    if data.startswith(mark):
      raise InputError(f'{path} is {name}, not UTF-8 text: save it as UTF-8.')


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
        if number == 1:
          check_encoding(path, line)
          line = line.removeprefix(codecs.BOM_UTF8)
        yield number, line.decode().rstrip('\r\n')
  except UnicodeDecodeError as error:
    raise InputError(
      f'{path}, line {number}: not UTF-8 text ({error.reason} {error.object[error.start]:#04x}): '
      'save the file as UTF-8.'
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
    InputError: it is text in UTF-16 or UTF-32.
  """
  _check_file(path)
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
    InputError: it is text in UTF-16 or UTF-32, or damaged gzip.
  """
  _check_file(path)
  try:
    return next(iter(records(path)), (0, {}))[1]
  except InputError:
    if os.fspath(path).endswith('.gz'):
      raise
    return {}


def _check_file(path: str | os.PathLike) -> None:
  with contextlib.suppress(OSError), open(path, 'rb') as file:
    check_encoding(path, file.read(4))


def value(found: object) -> Value:
  """A JSON value as the value of a column."""
  if isinstance(found, str):
    return found
  if isinstance(found, list):
    return [v if isinstance(v, str) else json.dumps(v) for v in found]
  if found is None:
    return ''
  return json.dumps(found) if isinstance(found, bool | dict) else str(found)

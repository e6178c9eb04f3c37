"""What was asked and answered, in a file of JSON lines, so that nothing is asked twice.

A line is written and synced as soon as its answer is there. A run that was killed goes on with the
next question; of a line that was cut, only that question is asked again.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.errors import InputError
from research.jobs import locks


def key_of(**asked: Any) -> str:
  """A hash of everything that an answer depends on."""
  text = json.dumps(asked, sort_keys=True, ensure_ascii=False, default=str)
  return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:24]


class Transcripts:
  """A file of answers by key. Used by several threads, but by one process at a time."""

  def __init__(self, path: str | os.PathLike | None):
    """
    Args:
      path: the file, which is made if it is not there; None keeps answers in memory.

    Raises:
      InputError: another process writes into its folder, or the file is something else.
    """
    self._lock = threading.Lock()
    self._rows: dict[str, dict[str, Any]] = {}
    self._file = None
    if path is None:
      return
    file = Path(path).expanduser()
    if file.is_dir():
      raise InputError(f'{file} is a folder; expected a file of JSON lines to keep answers in.')
    try:
      locks.claim(file.parent)
      kept = self._read(file) if file.exists() else 0
      self._file = open(file, 'ab')  # noqa: SIM115
      self._file.truncate(kept)
    except OSError as error:
      raise InputError(
        f'{file} cannot be written ({error.strerror or error}); answers would be lost.'
      ) from None

  def _read(self, file: Path) -> int:
    """Reads all whole lines; returns where they end."""
    data = file.read_bytes()
    end = data.rfind(b'\n') + 1
    for number, line in enumerate(data[:end].split(b'\n')[:-1], start=1):
      try:
        row = json.loads(line)
        self._rows[row['key']] = row
      except (ValueError, TypeError, KeyError):
        raise InputError(
          f'{file}, line {number}: not an answer with its key; expected a file that this command '
          'has written. Name another file.'
        ) from None
    return end

  def __len__(self) -> int:
    return len(self._rows)

  def get(self, key: str) -> dict[str, Any] | None:
    """The row of a key; None if it was not asked yet."""
    return self._rows.get(key)

  def add(self, key: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps an answer.

    Raises:
      InputError: the file cannot be written.
    """
    kept = {'key': key, **row}
    with self._lock:
      if self._file is not None:
        line = json.dumps(kept, ensure_ascii=False).encode('utf-8', 'backslashreplace') + b'\n'
        try:
          self._file.write(line)
          self._file.flush()
          os.fsync(self._file.fileno())
        except OSError as error:
          raise InputError(
            f'{self._file.name} cannot be written ({error.strerror or error}); the answers so far '
            'are kept: start again to go on.'
          ) from None
      self._rows[key] = kept
    return kept

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      self._file.close()

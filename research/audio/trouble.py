"""Trouble of the machine, which is no fault of a clip: tried again, then the end of the run.

A full table of open files, a disk or network error, or a lack of memory would make healthy clips
look bad. Such reads are repeated a few times; if that does not help, the run stops with the reason.
Nothing of it enters bad_files.jsonl.
"""

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import TypeVar

from absl import logging

from research.errors import InputError

ERRNOS = tuple(
  getattr(errno, name)
  for name in ('EMFILE', 'ENFILE', 'EIO', 'ESTALE', 'ENOMEM', 'ENOSPC', 'ETIMEDOUT')
  if hasattr(errno, name)
)
# array_record and libsndfile hand over only the text of an error.
_TEXTS = tuple(os.strerror(number).lower() for number in ERRNOS)
# Seconds before each further attempt: a stale handle or a busy server is back after some of them.
WAITS = (0.1, 0.5, 2.0)

T = TypeVar('T')


class Trouble(Exception):
  """Trouble of the machine with a file; `reason` as the operating system says it."""

  def __init__(self, where: str, reason: str):
    super().__init__(where, reason)
    self.where, self.reason = where, reason


def reason(error: BaseException) -> str | None:
  """What troubles the machine, in the system's words; None if this error is about the file."""
  number = getattr(error, 'errno', None)
  if isinstance(error, OSError) and number is not None:
    return os.strerror(number) if number in ERRNOS else None
  text = str(error).lower()
  for number, known in zip(ERRNOS, _TEXTS):
    if known in text:
      return os.strerror(number)
  return 'Out of memory' if isinstance(error, MemoryError) else None


def special(path: str) -> bool:
  """Whether it is there and neither a file nor a folder: opening a pipe may wait for ever, and a
  device may have no end."""
  try:
    mode = os.stat(path).st_mode
  except (OSError, ValueError):
    return False
  return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def probe(path: str) -> bool:
  """Whether a file that could not be decoded can be read from its first to its last byte.

  Raises:
    Trouble: the machine cannot read it now; not if the file is missing or may not be read.
  """
  if special(path):
    return False
  try:
    with open(path, 'rb', buffering=0) as file:
      while file.read(2**20):
        pass
    return True
  except OSError as error:
    if why := reason(error):
      raise Trouble(path, why) from None
    return False


def patiently(read: Callable[[], T]) -> T:
  """What `read` gives, which is called again if it raises `Trouble`.

  Raises:
    InputError: the trouble lasts; names the file and the reason.
  """
  for wait in WAITS:
    try:
      return read()
    except Trouble as trouble:
      logging.warning('%s: %s. Trying again in %g s.', trouble.where, trouble.reason, wait)
      time.sleep(wait)
  try:
    return read()
  except Trouble as trouble:
    raise InputError(
      f'{trouble.where} cannot be read after {len(WAITS) + 1} attempts: {trouble.reason}. This is '
      f'trouble of the machine, not of the file{_advice(trouble.reason)}; start the same command '
      'again to go on.'
    ) from None


def _advice(text: str) -> str:
  if text in (os.strerror(errno.EMFILE), os.strerror(errno.ENFILE)):
    return ' (raise the limit of open files: `ulimit -n`)'
  return ''

"""A remote folder for one run at a time: a lease is an object that its owner keeps writing.

Object stores have no locks. A lease that is not refreshed for `STALE` seconds, by the clock of the
store, belongs to a run that has ended, and another takes it over. Leases are numbered, and each is
created by a request that fails if it is there, so that of two that take over one gets it.
"""

import contextlib
import json
import os
import platform
import re
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from absl import logging

from research.errors import InputError
from research.jobs import paths

FOLDER = '.lease'
# A lease that was not written for STALE seconds is free; its owner writes it every EVERY seconds.
STALE = float(os.environ.get('OIDO_LEASE_SECONDS', '60'))
EVERY = STALE / 4
_NAME = re.compile(r'(\d{6})\.json')


def _machine() -> str:
  """What processes share that can see each other by number: a start of a host, a container."""
  found = [platform.node()]
  with contextlib.suppress(OSError):
    found.append(Path('/proc/sys/kernel/random/boot_id').read_text().strip())
  with contextlib.suppress(OSError):
    found.append(os.readlink('/proc/self/ns/pid'))
  return ' '.join(found)


class Lease:
  """The lease of a folder; taken when it is made, refreshed by a thread until `release`.

  Raises:
    InputError: another run has it; the folder cannot be written to.
  """

  def __init__(self, folder: Any):
    self.folder, self.lost = folder, ''
    self._about = {
      'owner': f'process {os.getpid()} on {platform.node()}',
      'pid': os.getpid(),
      'machine': _machine(),
      'nonce': secrets.token_hex(8),
    }
    with paths.sentences(folder, 'written to'):
      self._number = self._take()
    self._end = threading.Event()
    self._thread = threading.Thread(target=self._refresh, daemon=True, name='lease')
    self._thread.start()

  def _path(self, number: int) -> Any:
    return self.folder / FOLDER / f'{number:06d}.json'

  def _numbers(self) -> list[int]:
    found = [_NAME.fullmatch(name) for name in paths.names(self.folder / FOLDER)]
    return sorted(int(match[1]) for match in found if match)

  def _write(self, number: int, create: bool = False) -> None:
    text = json.dumps({**self._about, 'time': time.time()})
    paths.write_bytes(self._path(number), text.encode(), create=create)

  def _read(self, number: int) -> dict[str, Any] | None:
    try:
      return json.loads(paths.read_bytes(self._path(number)))
    except FileNotFoundError:  # given back just now
      return None

  def _take(self) -> int:
    held = self._numbers()
    if held:
      self._await_end(held[-1])
    number = (held[-1] if held else 0) + 1
    try:
      self._write(number, create=True)
    except FileExistsError:
      # An answer that got lost on its way is asked for again, and finds its own object.
      if (self._read(number) or {}).get('nonce') != self._about['nonce']:
        self._refuse(self._read(number))
    if self._numbers()[-1:] != [number] or (self._read(number) or {}) == {}:
      self._refuse(self._read(self._numbers()[-1]) if self._numbers() else None)
    for old in held:
      paths.remove(self._path(old))
    return number

  def _await_end(self, number: int) -> None:
    """Returns when the lease of that number is free; refuses when its owner writes it again."""
    first = self._read(number)
    if first is None or self._is_dead(first):
      return
    # By the store's clock alone: those of two hosts may differ by more than a lease lasts.
    mark = self.folder / FOLDER / f'{self._about["nonce"]}.now'
    paths.write_bytes(mark, b'')
    try:
      age = paths.modified(mark) - paths.modified(self._path(number))
    except FileNotFoundError:  # given back, or taken over, just now
      return
    finally:
      paths.remove(mark)
    end = time.monotonic() + STALE - age
    if end > time.monotonic():
      logging.warning(
        '%s was in use %.0f s ago by %s: waiting for up to %.0f s whether it still is.',
        self.folder, age, first.get('owner'), STALE - age,
      )  # fmt: skip
    while time.monotonic() < end:
      time.sleep(min(EVERY / 4, max(end - time.monotonic(), 0.01)))
      now = self._read(number)
      if now is None:
        return
      if now != first:
        self._refuse(now)
    logging.warning('%s: the lease of %s is taken over.', self.folder, first.get('owner'))

  def _is_dead(self, about: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that has ended."""
    if about.get('machine') != self._about['machine']:
      return False
    if about.get('pid') == os.getpid():
      return True
    try:
      os.kill(int(about['pid']), 0)
    except ProcessLookupError:
      return True
    except (OSError, KeyError, ValueError):
      pass
    return False

  def _refuse(self, about: dict[str, Any] | None) -> None:
    who = (about or {}).get('owner', 'another process')
    raise InputError(
      f'{self.folder} is in use by {who}: wait for its end, or write somewhere else.'
    )

  def _refresh(self) -> None:
    while not self._end.wait(EVERY):
      try:
        mine = self._numbers()[-1:] == [self._number]
        if not (mine and (self._read(self._number) or {}).get('nonce') == self._about['nonce']):
          self.lost = (
            f'{self.folder} was taken over by another run while the store could not be reached'
          )
          return
        self._write(self._number)
      except Exception as error:  # the next attempt is made in time, or the lease is lost
        logging.warning('The lease of %s was not refreshed: %s', self.folder, error)

  def release(self) -> None:
    """Gives the folder back."""
    self._end.set()
    self._thread.join()
    if not self.lost:
      with contextlib.suppress(Exception):  # it goes stale
        paths.remove(self._path(self._number))

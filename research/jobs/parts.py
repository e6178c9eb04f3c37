"""One resumable job: a list of batches worked through by one process or several.

What a batch is depends on the list of clips alone, never on what is done already. A finished batch
has a key, a hash of its content, and lies in a part on disk; a part is there whole or not at all.
Killed at any moment, the same command goes on with the batches whose keys no part has, and ends in
the same bits. Every process works on its own batches and writes its own parts; when all are there,
the first process makes the result of them. Independent workers may divide a job too, at any time
and in any order: worker i of n has every n-th batch, and the one that ends last makes the result.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from research import distributed
from research.errors import InputError
from research.jobs import folders, lines, locks
from research.jobs.progress import bar

# A part is written when it is this old or this large: little is lost to a kill, few files are made.
PART_SECONDS = 20.0
PART_BYTES = 64 * 2**20
# The worker of a run that does the whole job.
_WHOLE = (0, 1)

Result = Mapping[str, Any]
T = TypeVar('T')


def key(*content: Any) -> str:
  """A hash of what a batch holds: JSON-able values and arrays."""
  found = hashlib.sha256()
  for value in content:
    found.update(value.tobytes() if isinstance(value, np.ndarray) else json.dumps(value).encode())
  return found.hexdigest()[:24]


@runtime_checkable
class Store(Protocol):
  """Where finished batches lie."""

  folder: Path

  def open(self) -> None:
    """Begins the job or goes on with it; the first process only."""

  def done(self, keys: Collection[str]) -> set[str]:
    """Which of `keys` are there; the first process only."""

  def write(self, results: Mapping[str, Result]) -> None:
    """Adds a part with the results of some batches, by key."""


@runtime_checkable
class Divisible(Store, Protocol):
  """A store that independent workers may write to."""

  def join(self, worker: tuple[int, int]) -> None:
    """Begins the batches of worker (i, n), or goes on with them."""

  def leave(self, worker: tuple[int, int]) -> None:
    """Ends them."""


class Parts:
  """Finished batches as .npz files in the folder `<out>.parts`.

  The arrays of a part are those of its batches, joined along the first axis, and `keys`.
  """

  def __init__(self, out: str | os.PathLike, settings: Mapping[str, Any]):
    """
    Args:
      out: the file or folder that the job writes in the end.
      settings: what the results depend on, JSON-able; parts made with others are not mixed in.
    """
    self.folder, self.settings = folders.parts_folder(Path(out)), settings

  def open(self) -> None:
    """See `Store`; raises InputError where the parts of another job are in the way."""
    locks.claim(self.folder)
    if not self.files():
      # A command that came to nothing leaves nothing that another must not replace.
      for old in (self.folder / 'job.json', *lines.parts(self.folder / 'bad_files.jsonl')):
        old.unlink(missing_ok=True)
    self._none_at_work('.worker-*')
    locks.claim(self._worker(_WHOLE))
    folders.begin(self.folder, self.settings)

  def join(self, worker: tuple[int, int]) -> None:
    """See `Divisible`; raises InputError where another process is this worker or has the job, or
    the parts of another job are in the way."""
    self._none_at_work(self._worker(_WHOLE).name)
    locks.claim(self._worker(worker))
    with folders.lock(self.folder):
      folders.same_job(self.folder, self.settings)

  def leave(self, worker: tuple[int, int]) -> None:
    """See `Divisible`."""
    locks.release(self._worker(worker))
    shutil.rmtree(self._worker(worker), ignore_errors=True)

  def _none_at_work(self, workers: str) -> None:
    for worker in sorted(self.folder.glob(workers)):
      locks.claim(worker)  # refused while it is worked on
      locks.release(worker)
      shutil.rmtree(worker, ignore_errors=True)

  def _worker(self, worker: tuple[int, int]) -> Path:
    return self.folder / f'.worker-{worker[0]}-of-{worker[1]}'

  def done(self, keys: Collection[str]) -> set[str]:
    """See `Store`. A part with a batch that is not among `keys` is not counted: its clips, or the
    number of devices, have changed since."""
    return {own for part in self.read(keys, only=('keys',)) for own in part['keys'].tolist()}

  def write(self, results: Mapping[str, Result]) -> None:
    """See `Store`; the name of the file is a hash of the keys."""
    arrays: dict[str, Any] = {'keys': np.array(list(results))}
    for name in next(iter(results.values())):
      arrays[name] = np.concatenate([result[name] for result in results.values()])
    path = self.folder / f'part_{key(list(results))}.npz'
    partial = path.with_suffix('.partial')
    with open(partial, 'wb') as file:
      np.savez(file, **arrays)
    os.replace(partial, path)

  def read(
    self, keys: Collection[str] | None = None, only: Sequence[str] | None = None
  ) -> Iterator[dict[str, np.ndarray]]:
    """The arrays, or `only` some, of every part whose batches are all among `keys` (None: of all).

    Raises:
      InputError: a part is damaged.
    """
    wanted = None if keys is None else set(keys)
    for part in self.files():
      own = folders.read_arrays(part, only=('keys',))['keys'].tolist()
      if wanted is None or wanted.issuperset(own):
        yield folders.read_arrays(part, only=only)

  def remove(self) -> None:
    """Gives the folder back and deletes it."""
    locks.release(self._worker(_WHOLE))
    locks.release(self.folder)
    shutil.rmtree(self.folder, ignore_errors=True)

  def files(self) -> list[Path]:
    """The parts that are there."""
    return sorted(self.folder.glob('part_*.npz'))


class Job:
  """Batches to be worked through, and how far they are.

  Attributes:
    done: bool [batches], those that were there before this run; set by `run`.
    begun: whether the store is this job's.
  """

  def __init__(
    self,
    store: Store,
    keys: Sequence[str],
    sizes: Sequence[int],
    *,
    out: str | os.PathLike,
    process: tuple[int, int] = (0, 1),
    worker: tuple[int, int] = (0, 1),
    part_seconds: float = PART_SECONDS,
    part_bytes: int | None = None,
  ):
    """
    Args:
      store: where finished batches lie. Several processes see the same disk.
      keys: of all batches.
      sizes: clips of every batch.
      out: what is written in the end, for messages.
      process: (index, count) of the processes that share the batches.
      worker: (index, count) of the independent runs that do; one process then.
      part_seconds: age at which a part is written.
      part_bytes: size at which it is written before that; None for PART_BYTES.
    """
    self.store, self.keys, self.sizes, self.out = store, list(keys), np.asarray(sizes, int), out
    self.index, self.count = process
    self.worker = worker
    self.part_seconds = part_seconds
    self.part_bytes = PART_BYTES if part_bytes is None else part_bytes
    self.done, self.begun = np.zeros(len(self.keys), bool), False

  @property
  def resumed(self) -> int:
    """Clips that were done before this run."""
    return int(self.sizes[self.done].sum())

  def run(
    self,
    work: Callable[[list[int]], Iterator[Result]],
    finish: Callable[[], T],
    text: str | None = None,
  ) -> T | None:
    """Works through what is not done, then finishes; on all processes at once.

    Args:
      work: takes the numbers of this process's batches, gives a result for each in their order.
      finish: makes the whole out of the parts; called on the first process when all are there.
      text: what a progress bar says; None shows none.

    Returns:
      what `finish` returns; None on the other processes, and for a worker that is not the last.

    Raises:
      InputError: the store, `work` or `finish` raises it; the disk is full; another process failed.
    """
    if self.worker[1] > 1:
      with self._sentences():
        return self._run_worker(work, finish, text)
    left = self._begin()
    self.done, self.begun = np.array([k not in left for k in self.keys], bool), True
    todo = np.flatnonzero(~self.done).tolist()[self.index :: self.count]

    def own() -> None:
      if left - set(self.keys):
        raise InputError(
          f'Process {self.index} of {self.count} finds other clips or lengths of clips than the '
          'first: all have to read the same files, and have as many devices.'
        )
      self._take(work(todo), todo, text)

    found: list[T] = []

    def last() -> None:
      if not self.index:
        self._check_all_there()
        found.append(finish())

    self._together(own)
    self._together(last)
    return found[0] if found else None

  def _run_worker(
    self, work: Callable[[list[int]], Iterator[Result]], finish: Callable[[], T], text: str | None
  ) -> T | None:
    store = self.store
    assert isinstance(store, Divisible) and self.count == 1
    store.join(self.worker)
    there = store.done(self.keys)
    self.done, self.begun = np.array([k in there for k in self.keys], bool), True
    own = range(self.worker[0], len(self.keys), self.worker[1])
    todo = [i for i in own if not self.done[i]]
    self._take(work(todo), todo, text)
    with folders.lock(store.folder):
      # Without job.json it was finished by another worker, and the lock has made the folder again.
      finished = not (store.folder / 'job.json').exists()
      last = not finished and not set(self.keys) - store.done(self.keys)
      found = finish() if last else None
      store.leave(self.worker)
    if finished:
      shutil.rmtree(store.folder, ignore_errors=True)
    return found

  def _begin(self) -> set[str]:
    """The keys that are left; the first process says it to all."""

    def look() -> bytes:
      with self._sentences():
        self.store.open()
        return json.dumps(sorted(set(self.keys) - self.store.done(self.keys))).encode()

    return set(json.loads(look() if self.count == 1 else distributed.first(look)))

  def _check_all_there(self) -> None:
    missing = len(set(self.keys) - self.store.done(self.keys)) if self.count > 1 else 0
    if missing:
      raise InputError(
        f'{missing} of the {len(self.keys)} batches are not in {self.store.folder}: all '
        f'{self.count} processes have to see the same disk there.'
      )

  def _together(self, step: Callable[[], Any]) -> None:
    """A step on every process; all of them fail if one does, instead of waiting for it."""
    error: Exception | None = None
    try:
      with self._sentences():
        step()
    except Exception as raised:
      error = raised
    if self.count > 1:
      distributed.check_all(error)
    elif error is not None:
      raise error

  def _take(self, results: Iterator[Result], todo: Sequence[int], text: str | None) -> None:
    """Writes parts as they get old or large."""
    kept: dict[str, Result] = {}
    started, size, done = time.monotonic(), 0, 0
    active = text is not None and not self.index
    with bar(text or '', int(self.sizes[todo].sum()), active) as progress:
      for number, result in zip(todo, results, strict=True):
        kept[self.keys[number]] = result
        size += sum(value.nbytes for value in result.values() if isinstance(value, np.ndarray))
        done += int(self.sizes[number])
        progress(done)
        if time.monotonic() - started >= self.part_seconds or size >= self.part_bytes:
          self.store.write(kept)
          kept, started, size = {}, time.monotonic(), 0
      if kept:
        self.store.write(kept)

  def _sentences(self) -> AbstractContextManager[None]:
    return folders.disk_errors(self.out, self.store.folder)

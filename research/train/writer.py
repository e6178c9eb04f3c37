"""metrics.jsonl and TensorBoard events; written by process 0, consistent after a resume.

For an object store, which has no append, both are divided: metrics.jsonl, metrics-00001.jsonl, …
and several event files, so that little is copied again when lines are added.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research.errors import InputError
from research.jobs import lines, paths

# Size at which the next part of metrics.jsonl, and the next event file, begins.
PART_BYTES, EVENT_BYTES = 2**20, 2**22


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows of a metrics.jsonl and its parts, also of a remote one; a line left incomplete by a
  kill is dropped.

  Raises:
    InputError: the store cannot be read.
  """
  rows: list[dict[str, Any]] = []
  for line in lines.read(paths.path(path)):
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return rows


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
  """Without torch: tensorboardX would load it wherever it is installed, which takes seconds, for
  tensors that do not occur here."""
  absent = 'torch' not in sys.modules
  if absent:
    sys.modules['torch'] = None  # type: ignore[assignment]
  try:
    yield
  finally:
    if absent:
      del sys.modules['torch']


class _Events:
  """A TensorBoard event file, written at once.

  tensorboardX's SummaryWriter hands events to a thread, which ends at a full disk or a clock that
  is set back by a month; the run would then wait for ever for room in that thread's queue.
  """

  def __init__(self, folder: Path, purge_step: int | None, suffix: str = ''):
    """Events of earlier attempts from `purge_step` on no longer count; `suffix` ends the file's
    name."""
    with _without_torch():
      from tensorboardX import summary
      from tensorboardX.event_file_writer import EventsWriter
      from tensorboardX.proto import event_pb2
    self._summary, self._pb2 = summary, event_pb2
    folder.mkdir(parents=True, exist_ok=True)
    self._file = EventsWriter(str(folder / 'events'), suffix)
    if purge_step is not None:
      self._write(purge_step, file_version='brain.Event:2')
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write(purge_step, session_log=start)

  def _write(self, step: int, **what: Any) -> None:
    self._file.write_event(self._pb2.Event(wall_time=time.time(), step=step, **what))

  def scalar(self, step: int, name: str, value: float) -> None:
    self._write(step, summary=self._summary.scalar(name, value))

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """An image [1, rows, columns] in [0, 1]."""
    self._write(step, summary=self._summary.image(name, image))

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()


class Writer:
  """Writes named scalars and images.

  Args:
    workdir: folder of metrics.jsonl and the event files.
    start_step: step that the run resumes from; later lines of an earlier attempt are removed.
    active: write anything at all; False on every process but the first.
    parts: begin new files when those are large, for a folder that is copied to an object store.

  Every method raises InputError where the disk is full or fails.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    start_step: int = 0,
    active: bool = True,
    parts: bool = False,
  ):
    self._active, self._parts = active, parts
    if not active:
      return
    self._folder = Path(workdir)
    self._path = Path(workdir) / 'metrics.jsonl'
    with self._sentences():
      rows = (row for row in read_metrics(self._path) if row.get('step', 0) <= start_step)
      # A kill below may leave lines in two files.
      kept = dict.fromkeys(json.dumps(row) + '\n' for row in rows)
      partial = self._path.with_suffix('.jsonl.partial')
      partial.write_text(''.join(kept))
      os.replace(partial, self._path)
      for part in lines.parts(self._path)[1:]:
        part.unlink()
      self._number = self._event_files = 0
      self._file = self._open(self._path)
      self._open_events(start_step + 1 if start_step else None)

  def _open(self, path: Path) -> Any:
    # Unbuffered: a line that the disk has no room for is not tried again when the file is closed.
    return path.open('ab', buffering=0)

  def _open_events(self, purge: int | None = None) -> None:
    suffix = f'.{self._event_files}' if self._event_files else ''
    self._event_files += 1
    self._events = _Events(self._folder / 'tensorboard', purge, suffix)

  @contextlib.contextmanager
  def _sentences(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      raise InputError(
        f'Cannot write {self._path}: {error.strerror or error}. Free some space, or mend the disk, '
        'and run the same command again: it goes on from the last checkpoint.'
      ) from error

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes one line {step, name: value, …}; a non-finite value is written as null."""
    if not self._active:
      return
    numbers = {k: float(v) for k, v in values.items() if not isinstance(v, str)}
    finite = {k: v for k, v in numbers.items() if math.isfinite(v)}
    row = {'step': step, **{k: finite.get(k) if k in numbers else v for k, v in values.items()}}
    with self._sentences():
      for name, value in finite.items():
        self._events.scalar(step, name, value)
      self._events.flush()
      line = memoryview(f'{json.dumps(row)}\n'.encode())
      while line:
        line = line[self._file.write(line) :]
      if self._parts and self._file.tell() > PART_BYTES:
        self._file.close()
        self._number += 1
        self._file = self._open(lines.part(self._path, self._number))

  def picture(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes a greyscale image [rows, columns], scaled to its own range."""
    if not self._active:
      return
    low, high = float(np.min(image)), float(np.max(image))
    scaled = (image - low) / max(high - low, 1e-9)
    with self._sentences():
      self._events.image(step, name, np.asarray(scaled, np.float32)[None])
      self._events.flush()

  def flush(self) -> None:
    """Brings everything into the files."""
    if not self._active:
      return
    self._events.flush()
    if self._parts:
      files = (self._folder / 'tensorboard').iterdir()
      newest = max((f.stat() for f in files), key=lambda about: about.st_mtime_ns, default=None)
      if newest and newest.st_size > EVENT_BYTES:
        self._events.close()
        self._open_events()

  def close(self) -> None:
    """Flushes and closes both files."""
    if self._active:
      self._file.close()
      with contextlib.suppress(OSError):  # every event was flushed, or its error raised
        self._events.close()

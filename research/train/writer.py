"""metrics.jsonl and TensorBoard events; written by process 0, consistent after a resume.

For an object store, which has no append, both are divided: metrics.jsonl, metrics-00001.jsonl, …
and several event files, so that little is copied again when lines are added.
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

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


def _summary_writer() -> Any:
  """tensorboardX's SummaryWriter, imported without torch: it would load torch wherever that is
  installed, which takes seconds, for tensors that do not occur here."""
  absent = 'torch' not in sys.modules
  if absent:
    sys.modules['torch'] = None  # type: ignore[assignment]
  try:
    from tensorboardX import SummaryWriter
  finally:
    if absent:
      del sys.modules['torch']
  return SummaryWriter


class Writer:
  """Writes named scalars and images.

  Args:
    workdir: folder of metrics.jsonl and the event files.
    start_step: step that the run resumes from; later lines of an earlier attempt are removed.
    active: write anything at all; False on every process but the first.
    parts: begin new files when those are large, for a folder that is copied to an object store.
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
    kept = [row for row in read_metrics(self._path) if row.get('step', 0) <= start_step]
    partial = self._path.with_suffix('.jsonl.partial')
    partial.write_text(''.join(json.dumps(row) + '\n' for row in kept))
    for part in lines.parts(self._path):
      part.unlink()
    os.replace(partial, self._path)
    self._number = 0
    self._file = self._path.open('a')
    self._event_files = 0
    self._open_events(start_step + 1 if start_step else None)

  def _open_events(self, purge: int | None = None) -> None:
    suffix = f'.{self._event_files}' if self._event_files else ''
    self._event_files += 1
    self._events = _summary_writer()(
      str(self._folder / 'tensorboard'), purge_step=purge, filename_suffix=suffix
    )

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes one line {step, name: value, …}; a non-finite value is written as null."""
    if not self._active:
      return
    row: dict[str, Any] = {'step': step}
    for name, value in values.items():
      if isinstance(value, str):
        row[name] = value
        continue
      value = float(value)
      row[name] = value if math.isfinite(value) else None
      if math.isfinite(value):
        self._events.add_scalar(name, value, step)
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()
    if self._parts and self._file.tell() > PART_BYTES:
      self._file.close()
      self._number += 1
      self._file = lines.part(self._path, self._number).open('a')

  def picture(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes a greyscale image [rows, columns], scaled to its own range."""
    if not self._active:
      return
    low, high = float(np.min(image)), float(np.max(image))
    scaled = (image - low) / max(high - low, 1e-9)
    self._events.add_image(name, np.asarray(scaled, np.float32)[None], step)

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
      self._events.close()

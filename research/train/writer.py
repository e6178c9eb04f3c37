"""metrics.jsonl and TensorBoard events; written by process 0, consistent after a resume."""

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows of a metrics.jsonl; a line left incomplete by a kill is dropped."""
  rows: list[dict[str, Any]] = []
  try:
    lines = Path(path).read_text().splitlines()
  except FileNotFoundError:
    return rows
  for line in lines:
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
  """

  def __init__(self, workdir: str | os.PathLike, start_step: int = 0, active: bool = True):
    self._active = active
    if not active:
      return
    self._path = Path(workdir) / 'metrics.jsonl'
    kept = [row for row in read_metrics(self._path) if row.get('step', 0) <= start_step]
    partial = self._path.with_suffix('.jsonl.partial')
    partial.write_text(''.join(json.dumps(row) + '\n' for row in kept))
    os.replace(partial, self._path)
    self._file = self._path.open('a')
    purge = start_step + 1 if start_step else None
    self._events = _summary_writer()(str(Path(workdir) / 'tensorboard'), purge_step=purge)

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

  def picture(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes a greyscale image [rows, columns], scaled to its own range."""
    if not self._active:
      return
    low, high = float(np.min(image)), float(np.max(image))
    scaled = (image - low) / max(high - low, 1e-9)
    self._events.add_image(name, np.asarray(scaled, np.float32)[None], step)

  def close(self) -> None:
    """Flushes and closes both files."""
    if self._active:
      self._file.close()
      self._events.close()

"""Console output of a run: a progress bar on a terminal, plain lines otherwise."""

import sys
from collections.abc import Mapping
from typing import Any

from research.errors import printable

SHOWN = ('loss', 'grad_norm', 'learning_rate')


def _short(value: float | None) -> str:
  return '-' if value is None else f'{value:.4g}'


class Console:
  """Shows the step, the loss and the remaining time; silent if `active` is False."""

  def __init__(self, total: int, start: int, active: bool = True):
    self._total, self._active = total, active
    self._bar: Any = None
    if active and sys.stderr.isatty():
      from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
      )

      self._bar = Progress(
        TextColumn('[bold]train'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[values]}'),
        TimeRemainingColumn(),
      )
      self._task = self._bar.add_task('train', total=total, completed=start, values='')
      self._bar.start()

  def step(self, step: int) -> None:
    """Moves the bar."""
    if self._bar:
      self._bar.update(self._task, completed=step)

  def metrics(self, step: int, values: Mapping[str, Any], seconds_left: float) -> None:
    """Shows the latest metrics."""
    text = ' '.join(f'{k}={_short(values[k])}' for k in SHOWN if k in values)
    if self._bar:
      self._bar.update(self._task, completed=step, values=text)
    elif self._active:
      minutes, seconds = divmod(round(seconds_left), 60)
      print(f'step {step}/{self._total} {text} left={minutes}:{seconds:02d}', flush=True)

  def log(self, text: str) -> None:
    """Prints a line."""
    if not self._active:
      return
    text = printable(text)
    if self._bar:
      self._bar.console.print(text, markup=False, highlight=False)
    else:
      print(text, flush=True)

  def close(self) -> None:
    """Stops the progress bar."""
    if self._bar:
      self._bar.stop()

"""Clean shutdown on preemption."""

import signal
from typing import Any

import jax


class Stop:
  """Records SIGTERM and Ctrl-C, so that the loop can save and exit between two steps."""

  def __init__(self) -> None:
    self.signal: int | None = None
    self._old: dict[int, Any] = {}

  def __enter__(self) -> 'Stop':
    for number in (signal.SIGTERM, signal.SIGINT):
      try:
        self._old[number] = signal.signal(number, self._note)
      except ValueError:  # Not the main thread; the caller handles signals.
        break
    return self

  def _note(self, number: int, frame: Any) -> None:
    del frame
    self.signal = number

  def __exit__(self, *unused: Any) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def agreed(self, step: int) -> bool:
    """Whether all processes stop after this step; a signal to one of them is enough."""
    if jax.process_count() == 1:
      return self.signal is not None
    from jax.experimental import multihost_utils

    return bool(multihost_utils.reached_preemption_sync_point(step))

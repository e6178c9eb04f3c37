"""Clean shutdown on preemption."""

import os
import signal
from typing import Any

import jax


class Stop:
  """Records SIGTERM and Ctrl-C, so that the loop can save and exit between two steps.

  With several processes, SIGTERM is left to jax, whose notifier tells all processes and finds a
  step that all of them can still stop after; Ctrl-C becomes SIGTERM. A second Ctrl-C interrupts at
  once.
  """

  def __init__(self) -> None:
    self.signal: int | None = None
    self._old: dict[int, Any] = {}

  def __enter__(self) -> 'Stop':
    alone = jax.process_count() == 1
    for number in (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,):
      try:
        self._old[number] = signal.signal(number, self._note)
      except ValueError:  # Not the main thread; the caller handles signals.
        break
    return self

  def _note(self, number: int, frame: Any) -> None:
    del frame
    if number == signal.SIGINT and self.signal is not None:
      raise KeyboardInterrupt
    self.signal = number
    if jax.process_count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)

  def __exit__(self, *unused: Any) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def agreed(self, step: int) -> bool:
    """Whether all processes stop after this step; a signal to one of them is enough."""
    if jax.process_count() == 1:
      return self.signal is not None
    from jax.experimental import multihost_utils

    return bool(multihost_utils.reached_preemption_sync_point(step))

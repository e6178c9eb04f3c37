"""Batches on the devices before they are asked for, each with the input position that follows
it."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Put = Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]


class Feed:
  """Iterates over device batches; `position` is the state of the input after the batch given out
  last.

  The input runs ahead in a thread, so its own state is ahead of training. Each batch therefore
  carries the state that the iterator had when it was made, and that is what a checkpoint must hold.

  Args:
    iterator: yields dicts of NumPy arrays and has `get_state()`, `set_state(state)`.
    put: moves a batch to the devices.
    depth: how many batches are held ready.
    position: a state to start from.
  """

  def __init__(self, iterator: Any, put: Put, depth: int = 2, position: Any = None):
    self._iterator = iterator
    if position is not None:
      iterator.set_state(position)
    self.position: Any = iterator.get_state()
    self.wait_seconds = 0.0
    self._put = put
    self._queue: queue.Queue = queue.Queue(maxsize=depth)
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._run, name='feed', daemon=True)
    self._thread.start()

  def _offer(self, item: Any) -> None:
    while not self._stop.is_set():
      try:
        return self._queue.put(item, timeout=0.1)
      except queue.Full:
        continue

  def _run(self) -> None:
    try:
      while not self._stop.is_set():
        batch = next(self._iterator)
        state = self._iterator.get_state()
        self._offer((self._put(batch), state))
    except StopIteration:
      self._offer(StopIteration())
    except BaseException as error:
      self._offer(error)

  def __iter__(self) -> 'Feed':
    return self

  def __next__(self) -> dict[str, jax.Array]:
    start = time.perf_counter()
    item = self._queue.get()
    self.wait_seconds += time.perf_counter() - start
    if isinstance(item, BaseException):
      raise item
    batch, self.position = item
    return batch

  def close(self) -> None:
    """Stops the thread; batches that were ready are dropped (their position was never given
    out)."""
    self._stop.set()
    while not self._queue.empty():
      self._queue.get_nowait()
    self._thread.join(timeout=10.0)

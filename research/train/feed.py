"""Prefetches batches to the devices, each with the input position after it."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Put = Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]


class Feed:
  """Iterator over device batches; `position` is the input state after the last returned batch.

  A thread reads ahead, so the state of the input iterator is ahead of training. Each batch carries
  the iterator state right after it was produced, which is what a checkpoint must store.

  Args:
    iterator: yields dicts of NumPy arrays and has `get_state()` and `set_state(state)`.
    put: moves a batch to the devices.
    depth: number of prefetched batches.
    position: input state to start from.
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
    """Stops the thread and drops prefetched batches; `position` does not include them."""
    self._stop.set()
    while not self._queue.empty():
      self._queue.get_nowait()
    self._thread.join(timeout=10.0)

"""Paired timings: after warm-up, all runs take turns in random order; medians and ratios."""

import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from launch.memory import keep_freed_memory


def rounds(
  runs: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1
) -> dict[str, list[float]]:
  """Seconds of each run in each round: {name: [seconds]}; the order is shuffled in every round."""
  for run in runs.values():
    for _ in range(warmup):
      run()
  order = random.Random(0)
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(repeats):
    names = list(runs)
    order.shuffle(names)
    for name in names:
      start = time.perf_counter()
      runs[name]()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def compare(seconds: Mapping[str, list[float]], ours: str, **facts: Any) -> list[dict[str, Any]]:
  """One row per peer: median times, and the median over rounds of peer / ours (above 1: ours is
  faster)."""
  rows = []
  for peer, theirs in seconds.items():
    if peer == ours:
      continue
    ratios = [t / o for t, o in zip(theirs, seconds[ours])]
    rows.append(
      {
        'ours': ours,
        'peer': peer,
        'ours_seconds': statistics.median(seconds[ours]),
        'peer_seconds': statistics.median(theirs),
        'ratio': statistics.median(ratios),
        'ratio_low': min(ratios),
        'ratio_high': max(ratios),
        **facts,
      }
    )
  return rows


class Worker:
  """A run in its own process, so that peers share neither threads nor the heap.

  In a shared process, busy-waiting threads of one would take cores from the other, and small arrays
  of one in the gaps left by large arrays of the other would grow the heap in every round.

  Attributes:
    facts: facts about the run, returned by `make`.
  """

  def __init__(self, make: Callable[..., tuple[Callable[[], Any], Any]], **arguments: Any):
    """Starts the process and calls `make` there, which returns (run, facts)."""
    context = multiprocessing.get_context('spawn')
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
    self._process.start()
    theirs.close()
    self.facts = self._answer()

  def __call__(self) -> Any:
    """Runs once and returns the value of the run."""
    self._pipe.send(True)
    return self._answer()

  def __enter__(self) -> 'Worker':
    return self

  def __exit__(self, *error: object) -> None:
    self._pipe.close()  # the process ends when the other end of its pipe is closed
    self._process.join()

  def _answer(self) -> Any:
    try:
      value, error = self._pipe.recv()
    except EOFError:
      self._process.join()
      raise RuntimeError(
        f'The process of a benchmark ended with code {self._process.exitcode}.'
      ) from None
    if error is not None:
      raise error
    return value


def _serve(pipe: Connection, make: Callable[..., Any], arguments: dict[str, Any]) -> None:
  keep_freed_memory()
  try:
    run, facts = make(**arguments)
    pipe.send((facts, None))
    while pipe.recv():
      pipe.send((run(), None))
  except EOFError:
    pass
  except Exception as error:
    pipe.send((None, error))

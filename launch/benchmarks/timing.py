"""Paired timings: everybody runs in every round, in a new order, warmed up; medians and ratios."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


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
  """One row for each peer: medians, and the median over rounds of peer / ours (above 1: ours is
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

"""Paired timings: workers in their own processes, medians and ratios."""

import os

import pytest

from launch.benchmarks import timing
from research.errors import InputError


def make_counter(start: int):
  """A run that returns a count and the id of its process."""
  state = {'count': start}

  def run() -> int:
    state['count'] += 1
    if state['count'] > start + 2:
      raise InputError('That is too many.')
    return state['count']

  return run, os.getpid()


def make_nothing():
  raise InputError('There is nothing to time.')


def make_end():
  return (lambda: os._exit(3)), None


def test_a_worker_runs_in_its_own_process_and_keeps_its_state():
  with timing.Worker(make_counter, start=5) as worker:
    assert worker.facts != os.getpid()
    assert [worker(), worker()] == [6, 7]


def test_errors_of_a_worker_reach_the_caller():
  with pytest.raises(InputError, match='nothing to time'):
    timing.Worker(make_nothing)
  with timing.Worker(make_counter, start=0) as worker:
    worker(), worker()
    with pytest.raises(InputError, match='too many'):
      worker()
  with timing.Worker(make_end) as worker, pytest.raises(RuntimeError, match='code 3'):
    worker()


def test_ratios_are_medians_over_rounds_of_peer_to_ours():
  seconds = {'ours': [1.0, 2.0, 4.0], 'peer': [2.0, 2.0, 12.0]}
  (row,) = timing.compare(seconds, 'ours', device='x')
  assert row['ratio'] == 2.0 and (row['ratio_low'], row['ratio_high']) == (1.0, 3.0)
  assert row['ours_seconds'] == 2.0 and row['peer'] == 'peer' and row['device'] == 'x'


def test_every_run_is_called_in_every_round_after_its_warm_up():
  calls: list[str] = []
  runs = {name: (lambda name=name: calls.append(name)) for name in 'ab'}
  seconds = timing.rounds(runs, repeats=3, warmup=2)
  assert calls[:4] == ['a', 'a', 'b', 'b'] and sorted(calls[4:]) == sorted('ab' * 3)
  assert {name: len(s) for name, s in seconds.items()} == {'a': 3, 'b': 3}

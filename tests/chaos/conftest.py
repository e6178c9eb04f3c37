"""The seed of a run, and the table at its end: what was tried, and how it ended."""

import os
import random
import shutil

import pytest

from tests.chaos import commands


def pytest_configure(config):
  if not hasattr(config, 'workerinput'):
    # Workers inherit it.
    os.environ.setdefault('CHAOS_SEED', str(random.SystemRandom().randrange(10**6)))


def pytest_report_header(config):
  del config
  return f'CHAOS_SEED={os.environ["CHAOS_SEED"]}'


@pytest.fixture
def rng(request):
  return commands.chance(os.environ['CHAOS_SEED'], request.node.nodeid)


@pytest.fixture
def table(record_property):
  """Adds a line to the table: fault, where, tries, how it ended, seconds from fault to exit."""

  def add(fault, where, tries, ended, seconds=None):
    row = (fault, where, str(tries), ended, '' if seconds is None else f'{seconds:.1f}')
    record_property('chaos', row)

  return add


@pytest.fixture(scope='session')
def whole(tmp_path_factory):
  """A function that gives what an undisturbed run of a training leaves, and its seconds."""
  import time

  found = {}

  def of(count=1):
    if count not in found:
      command = commands.training(tmp_path_factory.mktemp('whole') / 'run', count)
      started = time.monotonic()
      same, _ = command.finish()
      found[count] = same, time.monotonic() - started, command.out
    return found[count]

  return of


@pytest.fixture
def place(tmp_path):
  """A folder that is removed after the test: many runs leave much."""
  yield tmp_path
  shutil.rmtree(tmp_path, ignore_errors=True)


def pytest_terminal_summary(terminalreporter):
  rows = []
  for outcome in ('passed', 'failed', 'skipped'):
    for report in terminalreporter.stats.get(outcome, ()):
      # Other tests may run beside these.
      if '_chaos.py' not in report.nodeid:
        continue
      found = [v for name, v in getattr(report, 'user_properties', ()) if name == 'chaos']
      if outcome == 'skipped':
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ''
        found = [(report.head_line, '', '0', reason, '')]
      elif outcome == 'failed' and not found:
        found = [(report.head_line, '', '1', 'FAILED', '')]
      rows += [tuple(row) for row in found]
  if not rows:
    return
  write = terminalreporter.write_line
  write(f'\nCHAOS_SEED={os.environ["CHAOS_SEED"]}')
  write('| fault | where | tries | ended | seconds from fault to exit |')
  write('|---|---|---|---|---|')
  for row in sorted(rows):
    write(f'| {" | ".join(row)} |')

"""Children end with their parents."""

import os
import signal
import subprocess
import sys
import time

import pytest

from research.jobs import children
from tests.launch import runner

# Reads a pipe that nobody writes to, which takes for ever.
COMPILER = [sys.executable, '-m', 'research.train.planning.compiling']
PLAIN = [
  sys.executable,
  '-c',
  'import sys; from research.jobs import children; children.die_together(); open(sys.argv[1])',
]
PARENT = """
import subprocess, sys, time
from research.jobs import children
child = subprocess.Popen(sys.argv[1:], env=children.environment())
print(child.pid, flush=True)
time.sleep(600)
"""


def alive(pid):
  """Whether it runs; one that has ended may still be listed as a zombie."""
  try:
    os.kill(pid, 0)
    with open(f'/proc/{pid}/stat') as file:
      return file.read().rpartition(')')[2].split()[0] != 'Z'
  except (ProcessLookupError, FileNotFoundError):
    return False


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('seconds', [0.0, 3.0], ids=['at once', 'later'])
@pytest.mark.parametrize('command', [PLAIN, COMPILER], ids=['plain', 'compiler'])
def test_a_child_ends_with_its_killed_parent(tmp_path, command, seconds):
  os.mkfifo(tmp_path / 'pipe')
  line = [sys.executable, '-c', PARENT, *command, str(tmp_path / 'pipe'), str(tmp_path / 'out')]
  parent = subprocess.Popen(
    line, cwd=runner.ROOT, env=runner.environment(), stdout=subprocess.PIPE, text=True
  )
  child = int(parent.stdout.readline())
  time.sleep(seconds)
  assert alive(child)
  parent.kill()
  parent.communicate()
  limit = time.monotonic() + 60
  while alive(child) and time.monotonic() < limit:
    time.sleep(0.05)
  ended = not alive(child)
  if not ended:
    os.kill(child, signal.SIGKILL)
  assert ended


def test_a_process_without_such_a_parent_lives(monkeypatch):
  monkeypatch.delenv(children.PARENT, raising=False)
  children.die_together()
  assert children.environment()[children.PARENT] == str(os.getpid())
  assert children.PARENT not in os.environ

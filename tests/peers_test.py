"""Processes that watch each other, without jax: real ones, with a folder as key-value store."""

import subprocess
import sys
import time

import pytest

from tests.launch import runner

# The argument of `peers.start`'s inner part, and what each process does then.
PROGRAM = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from research import peers

index, folder, action = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


class Store:
  def key_value_set(self, key, value):
    (folder / 'part').write_text(value)
    (folder / 'part').rename(folder / 'value')

  def blocking_key_value_get(self, key, milliseconds):
    while not (folder / 'value').exists():
      time.sleep(0.01)
    return (folder / 'value').read_text()


state = SimpleNamespace(
  process_id=index, num_processes=3, coordinator_address='127.0.0.1:1', client=Store()
)
peers._watch = peers._connect(state)
(folder / f'ready{index}').touch()
while not all((folder / f'ready{i}').exists() for i in range(3)):
  time.sleep(0.01)
time.sleep(0.2)
if action == 'end':
  peers.end('The data are gone.', 2)
if action == 'vanish':
  import os, signal
  os.kill(os.getpid(), signal.SIGKILL)
if action == 'done':
  peers.done()
  sys.exit(0)
if action == 'fail':
  try:
    raise RuntimeError('Gloo all-reduce failed: Connection closed by peer')
  except RuntimeError as error:
    peers.await_cause(error)
time.sleep(60)
"""


def run(folder, *actions):
  """(exit code, stderr) of three processes that do these things."""
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', PROGRAM, str(i), str(folder), action],
      cwd=runner.ROOT, stderr=subprocess.PIPE, text=True,
    )
    for i, action in enumerate(actions)
  ]  # fmt: skip
  start = time.monotonic()
  ends = [(p.communicate(timeout=30)[1], p.returncode) for p in processes]
  assert time.monotonic() - start < 25
  return [(code, err) for err, code in ends]


@pytest.mark.parametrize('who', [0, 2])
@pytest.mark.parametrize('waiting', ['wait', 'fail'])
def test_an_error_ends_all_with_its_sentence_and_code(who, waiting, tmp_path):
  actions = [waiting] * 3
  actions[who] = 'end'
  for i, (code, err) in enumerate(run(tmp_path, *actions)):
    assert code == 2, err
    told = '' if i == who else f'Process {who} of 3 '
    assert err.startswith(f'error: {told}') and err.endswith('The data are gone.\n')
    assert err.count('\n') == 1


@pytest.mark.parametrize('who', [0, 1])
def test_a_killed_process_ends_all_others(who, tmp_path):
  actions = ['wait', 'fail', 'wait']
  actions[who] = 'vanish'
  ends = run(tmp_path, *actions)
  assert ends.pop(who)[0] == -9
  for code, err in ends:
    assert code == 4
    assert f'error: Process {who} of 3 ' in err and 'was killed' in err and err.count('\n') == 1


def test_what_is_done_ends_alone(tmp_path):
  assert run(tmp_path, 'done', 'done', 'done') == [(0, '')] * 3

"""Runs the commands in subprocesses, as a user does."""

import os
import subprocess
from pathlib import Path

from tests.launch import fork_server

ROOT = Path(__file__).resolve().parents[2]
DEBUG = 'experiments/audio_mae/builtin_tiny.py:debug'


def environment(devices=1):
  """Environment with `devices` host devices and the compilation cache of the tests."""
  from tests.conftest import CACHE

  flags = f'--xla_force_host_platform_device_count={devices}'
  return {
    **os.environ,
    'XLA_FLAGS': flags,
    'JAX_PLATFORMS': 'cpu',
    # Devices that wait for each other in a collective need a thread each, see conftest.
    'NPROC': '32' if devices > 1 else str(os.cpu_count()),
    'JAX_COMPILATION_CACHE_DIR': CACHE,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'PYTHONUNBUFFERED': '1',
  }


def start(module, *args, devices=1, quick=False):
  """A running `python -m module args`, see `fork_server`."""
  return fork_server.start(module, args, environment(devices), ROOT, quick=quick)


def run(module, *args, devices=1, timeout=300, quick=False):
  """`python -m module args`, finished: the completed process with its text."""
  process = start(module, *args, devices=devices, quick=quick)
  try:
    out, err = process.communicate(timeout=timeout)
  except subprocess.TimeoutExpired:
    process.kill()
    out, err = process.communicate()
    raise AssertionError(
      f'{module} took longer than {timeout} s\n{out[-2000:]}\n{err[-2000:]}'
    ) from None
  return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def train(workdir, *args, config=DEBUG, **kwargs):
  """`python -m launch.train` on the debug experiment."""
  return run('launch.train', f'--config={config}', f'--workdir={workdir}', *args, **kwargs)


def check_mistakes(module, cases):
  """Checks that every command line exits with code 2 and a one-line error.

  Args:
    module: the command.
    cases: {name: (arguments, words that the error must contain)}.
  """
  problems = []
  for name, (argv, words) in cases.items():
    done = run(module, *argv, quick=True)
    text = done.stdout + done.stderr
    lines = [line for line in text.splitlines() if line.startswith('error: ')]
    if done.returncode != 2 or len(lines) != 1 or 'Traceback' in text:
      problems.append(f'{name}: code {done.returncode}\n{text[-1500:]}')
    elif not all(word in lines[0] for word in words):
      problems.append(f'{name}: {lines[0]!r} lacks {[w for w in words if w not in lines[0]]}')
  assert not problems, '\n'.join(problems)

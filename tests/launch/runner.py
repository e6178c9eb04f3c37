"""Starts commands of the house the way a person does, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEBUG = 'experiments/audio_mae/builtin_tiny.py:debug'


def environment(devices=1):
  """One host device unless asked otherwise, and the tests' compilation cache."""
  from tests.conftest import CACHE

  flags = f'--xla_force_host_platform_device_count={devices}'
  return {
    **os.environ,
    'XLA_FLAGS': flags,
    'JAX_PLATFORMS': 'cpu',
    # See conftest: devices that wait for each other need a thread each.
    'NPROC': '32' if devices > 1 else str(os.cpu_count()),
    'JAX_COMPILATION_CACHE_DIR': CACHE,
    'PYTHONUNBUFFERED': '1',
  }


def start(module, *args, devices=1):
  """A running `python -m module args`."""
  return subprocess.Popen(
    [sys.executable, '-m', module, *map(str, args)],
    cwd=ROOT,
    env=environment(devices),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(module, *args, devices=1, timeout=300):
  """`python -m module args`, finished: the completed process with its text."""
  process = start(module, *args, devices=devices)
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

"""Runs the commands in subprocesses, as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


# Runs every command line in a fork of one process that has already imported everything.
FORKED = """
import importlib, json, os, sys
sys.path.insert(0, os.getcwd())
wanted = json.load(sys.stdin)
from launch import command
for name in (wanted['module'], *wanted['imports']):
  importlib.import_module(name)
main = importlib.import_module(wanted['module']).main
for name, argv in wanted['cases'].items():
  read, write = os.pipe()
  pid = os.fork()
  if pid == 0:
    os.dup2(write, 2)
    os.dup2(write, 1)
    sys.argv = [wanted['module'], *argv]
    try:
      command.run(main)
    except SystemExit as error:
      sys.stdout.flush(); sys.stderr.flush()
      os._exit(error.code if isinstance(error.code, int) else 1)
    except BaseException:
      import traceback; traceback.print_exc()
      os._exit(99)
    os._exit(0)
  os.close(write)
  with os.fdopen(read) as file:
    text = file.read()
  _, status = os.waitpid(pid, 0)
  print(json.dumps({'name': name, 'code': os.waitstatus_to_exitcode(status), 'text': text}),
  flush=True)
"""


def check_mistakes(module, cases, *imports):
  """Checks that every command line exits with code 2 and a one-line error.

  Args:
    module: the command.
    cases: {name: (arguments, words that the error must contain)}.
    imports: modules to import once, before the forks.
  """
  given = {name: [str(a) for a in argv] for name, (argv, _) in cases.items()}
  done = subprocess.run(
    [sys.executable, '-c', FORKED],
    input=json.dumps({'module': module, 'imports': imports, 'cases': given}),
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=environment(),
    timeout=400,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  got = {row['name']: row for row in map(json.loads, done.stdout.splitlines())}
  problems = []
  for name, (_, words) in cases.items():
    row = got[name]
    lines = [line for line in row['text'].splitlines() if line.startswith('error: ')]
    if row['code'] != 2 or len(lines) != 1 or 'Traceback' in row['text']:
      problems.append(f'{name}: code {row["code"]}\n{row["text"][-1500:]}')
    elif not all(word in lines[0] for word in words):
      problems.append(f'{name}: {lines[0]!r} lacks {[w for w in words if w not in lines[0]]}')
  assert not problems, '\n'.join(problems)

"""Runs commands in forks of one process that has imported the libraries: the imports take longer
than many a command does.

`python -m tests.launch.fork_server` reads requests, a line of JSON each, and answers {number, pid}
when a command has started and {number, code} when it has ended. A command runs as by `python -m
module args`: its module is imported in the fork alone, and no device of JAX is made before.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback

LIBRARIES = (
  'absl.app', 'ml_collections.config_flags', 'soundfile', 'soxr', 'scipy.signal', 'jax', 'optax',
  'flax.linen', 'orbax.checkpoint', 'grain', 'tensorboardX', 'matplotlib.figure',
  'matplotlib.backends.backend_svg', 'jinja2', 'rich.progress', 'sklearn.manifold',
  'research.train.loop', 'research.train.finetune', 'research.report.run', 'research.report.units',
  'research.evals.harness', 'research.inference.transcript_files', 'research.units.labelling',
  'research.inference.embedding_files', 'research.audio.prepare', 'research.weights',
)  # fmt: skip


# -- In the process that forks -----------------------------------------------------------------


def _become(request):
  """In the fork: all that tells it from a fresh process is what is imported."""
  for descriptor, path in ((0, os.devnull), (1, request['out']), (2, request['err'])):
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC * (descriptor > 0), 0o600)
    os.dup2(opened, descriptor)
    os.close(opened)
  os.environ.clear()
  os.environ.update(request['env'])
  os.chdir(request['cwd'])
  sys.argv = [request['module'], *request['args']]
  if not request['quick']:
    runpy.run_module(request['module'], run_name='__main__', alter_sys=True)
    return
  code = 0
  try:
    runpy.run_module(request['module'], run_name='__main__', alter_sys=True)
  except SystemExit as error:
    code = error.code if isinstance(error.code, int) else int(error.code is not None)
  except BaseException:
    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def main():
  """Serves until the end of stdin, and kills what is left then."""
  for name in LIBRARIES:
    with contextlib.suppress(ImportError):
      importlib.import_module(name)
  gc.freeze()
  requests, answers = os.fdopen(os.dup(0), 'rb', buffering=0), os.fdopen(os.dup(1), 'w')

  def answer(**values):
    print(json.dumps(values), file=answers, flush=True)

  running = {}  # descriptor of a child -> (number of its request, pid)
  while True:
    ready, _, _ = select.select([requests, *running], [], [])
    for handle in [h for h in ready if h is not requests]:
      number, pid = running.pop(handle)
      os.close(handle)
      _, status = os.waitpid(pid, 0)
      answer(number=number, code=os.waitstatus_to_exitcode(status))
    if requests not in ready:
      continue
    line = requests.readline()
    if not line:
      break
    request = json.loads(line)
    pid = os.fork()
    if not pid:
      requests.close()
      answers.close()
      for handle in running:
        os.close(handle)
      _become(request)
      return
    running[os.pidfd_open(pid)] = (request['number'], pid)
    answer(number=request['number'], pid=pid)
  for _, pid in running.values():
    os.kill(pid, signal.SIGKILL)


# -- In the tests ------------------------------------------------------------------------------


class Server:
  """The process that forks; one for all commands of a test process."""

  def __init__(self, environment, cwd):
    self.cwd, self._numbers, self._answers = str(cwd), itertools.count(), {}
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'tests.launch.fork_server'], cwd=cwd, env=environment,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    atexit.register(self._process.stdin.close)

  def start(self, module, args, env, out, err, quick):
    """The command, running; it writes to these files."""
    number = next(self._numbers)
    request = dict(number=number, module=module, args=[*map(str, args)], env=env, cwd=self.cwd)
    request |= dict(out=str(out), err=str(err), quick=quick)
    self._process.stdin.write(json.dumps(request) + '\n')
    self._process.stdin.flush()
    return Command(self, number, self.answer(number, 'pid'), (out, err), [module, *args])

  def answer(self, number, what):
    """Waits for what is said of a command."""
    while (number, what) not in self._answers:
      line = self._process.stdout.readline()
      assert line, 'the process that forks has ended'
      said = json.loads(line)
      self._answers.update({(said['number'], key): value for key, value in said.items()})
    return self._answers[number, what]


class Command:
  """A command that was started, with what the tests use of `subprocess.Popen`."""

  def __init__(self, server, number, pid, files, args):
    self.pid, self.args, self.returncode = pid, args, None
    self._server, self._number, self._files = server, number, files
    self._ended = self._handle = None
    with contextlib.suppress(ProcessLookupError):  # it was fast
      self._handle = os.pidfd_open(pid)

  def poll(self, seconds=0.0):
    """The exit code; None if it still runs after `seconds`."""
    if self.returncode is None:
      if self._handle is not None:
        if not select.select([self._handle], [], [], seconds)[0]:
          return None
        os.close(self._handle)
      self.returncode = self._server.answer(self._number, 'code')
    return self.returncode

  def wait(self, timeout=None):
    """The exit code; raises subprocess.TimeoutExpired."""
    if self.poll(timeout) is None:
      raise subprocess.TimeoutExpired(self.args, timeout)
    return self.returncode

  def communicate(self, timeout=None):
    """(stdout, stderr) when it has ended."""
    self.wait(timeout)
    texts = []
    for path in self._files:
      with open(path, encoding='utf-8') as file:
        texts.append(file.read())
    return tuple(texts)

  def send_signal(self, number):
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self):
    self.send_signal(signal.SIGKILL)

  def terminate(self):
    self.send_signal(signal.SIGTERM)


@functools.cache
def _server(cwd, environment):
  return Server(dict(environment), cwd)


def start(module, args, env, cwd, out=None, err=None, quick=False):
  """`python -m module args` with this environment, running; without `out` and `err` its output goes
  to files that `communicate` reads. With `quick` it ends without Python's shutdown, which takes as
  long as a mistake in a flag."""
  if not hasattr(os, 'pidfd_open'):  # not Linux
    line = [sys.executable, '-m', module, *map(str, args)]
    files = (subprocess.PIPE, subprocess.PIPE) if out is None else (out.open('w'), err.open('w'))
    return subprocess.Popen(line, cwd=cwd, env=env, stdout=files[0], stderr=files[1], text=True)
  if out is None:
    folder = tempfile.mkdtemp(prefix=f'{module}-{time.monotonic_ns()}-')
    out, err = os.path.join(folder, 'out'), os.path.join(folder, 'err')
  # Read when they are imported; what else differs is set in the fork.
  early = tuple(sorted((k, v) for k, v in env.items() if k.startswith(('JAX_', 'PYTHON', 'MPL'))))
  needed = ('PATH', 'HOME', 'LANG', 'LC_ALL', 'TMPDIR', 'LD_LIBRARY_PATH', 'VIRTUAL_ENV')
  needed = tuple((k, env[k]) for k in needed if k in env)
  return _server(str(cwd), (*early, *needed)).start(module, args, env, out, err, quick)


if __name__ == '__main__':
  main()

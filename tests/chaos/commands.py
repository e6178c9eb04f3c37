"""Commands that are hit while they run, and what has to be the same afterwards."""

import contextlib
import dataclasses
import itertools
import json
import math
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tests.multiprocess import group

CONFIG = 'tests/chaos/config.py'
STEPS = 24
LIMIT = 240.0  # seconds in which every command ends
BOUND = 45.0  # seconds from the kill of one process to the end of the others
# Values of a line of metrics.jsonl that depend on the machine.
_TIMES = re.compile(r'second|fraction|mfu|flops|_ms$')
# Files that differ from run to run, or are of one process.
_OWN = re.compile(r'tensorboard|\.lock$')


@dataclasses.dataclass
class Command:
  """A command line whose results lie at `out`; `same` reads of them what has to be equal."""

  module: str
  args: tuple[str, ...]
  out: Path
  same: Callable[[Path], Any]
  count: int = 1
  once: bool = False  # an output that is there is whole, and is not written again
  logs: Path | None = None  # beside the output, if not somewhere else

  def at(self, out):
    """The same command that writes elsewhere."""
    args = tuple(a.replace(str(self.out), str(out)) for a in self.args)
    return dataclasses.replace(self, args=args, out=out)

  def start(self, *more, fault='', env=None):
    logs = (self.logs or self.out.parent) / f'{self.out.name}.logs{time.monotonic_ns()}'
    module, args = self.module, (*self.args, *more)
    if fault:
      module, args = 'tests.chaos.faulty', (fault, self.module, *args)
    return group.Group(logs, module, *args, count=self.count, env=env)

  def run(self, *more, **kwargs):
    """The ended processes of one run."""
    return self.start(*more, **kwargs).wait(LIMIT)

  def finish(self):
    """Runs to the end; what has to be equal, and what was printed."""
    if self.once and self.out.exists():
      return self.same(self.out), ''
    ended = self.run()
    assert all(end.code == 0 for end in ended), ended
    return self.same(self.out), ended[0].out


def training(workdir, count=1, *more):
  args = (f'--config={CONFIG}', f'--workdir={workdir}', *more)
  return Command('launch.train', args, workdir, trained, count)


def refused(ended, *words, code=2):
  """The sentence that a run was refused with."""
  for end in ended:
    assert end.code == code, end
    assert len(end.errors) == 1 and 'Traceback' not in end.err, end.err[-3000:]
  sentence = ended[0].errors[0]
  assert all(word in sentence for word in words), (sentence, words)
  return sentence.removeprefix('error: ')


def trained(workdir, steps=STEPS):
  """Arrays, input position, lines of metrics and names of files of a finished run."""
  found, position = arrays(workdir / 'checkpoints' / str(steps))
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  rows = [{k: v for k, v in row.items() if not _TIMES.search(k)} for row in rows]
  names = sorted(p.name for p in workdir.iterdir() if not _OWN.search(p.name))
  saved = sorted(p.name for p in (workdir / 'checkpoints').iterdir())
  bits = {name: (x.dtype.name, x.shape, x.tobytes()) for name, x in found.items()}
  return {'arrays': bits, 'position': position, 'rows': rows, 'names': names, 'saved': saved}


def arrays(folder):
  """Every array of a checkpoint by path, and the input position, for any number of processes."""
  with ocp.PyTreeCheckpointer() as checkpointer:
    path = (folder / 'state').absolute()
    tree = checkpointer.metadata(path).item_metadata.tree
    plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    found = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=plain))
  flat = jax.tree_util.tree_flatten_with_path(found)[0]
  found = {jax.tree_util.keystr(path): np.asarray(_raw(x)) for path, x in flat}
  return found, json.loads((folder / 'data' / 'metadata').read_text())


def _raw(x):
  key = hasattr(x, 'dtype') and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
  return jax.random.key_data(x) if key else x


def contents(out):
  """The bytes of a file, or of every file below a folder."""
  if out.is_file():
    return {'': out.read_bytes()}
  files = (p for p in sorted(out.rglob('*')) if p.is_file() and not _OWN.search(p.name))
  return {str(p.relative_to(out)): p.read_bytes() for p in files}


def assert_equal(a, b):
  """Names the parts that differ, not their bytes."""
  assert a.keys() == b.keys(), sorted(a.keys() ^ b.keys())
  for key in a:
    if isinstance(a[key], dict) and isinstance(b[key], dict):
      assert_equal(a[key], b[key])
    elif a[key] != b[key]:
      short = [repr(x)[:2000] for x in (a[key], b[key])]
      raise AssertionError(f'{key} differs:\n{short[0]}\n{short[1]}')


# -- Moments -----------------------------------------------------------------------------------


def _alive(running):
  return all(process.poll() is None for process in running.processes)


def at_random(seconds):
  """A random moment of a command's life, at most `seconds` after its start."""
  longest = [seconds]

  def wait(running, command, rng):
    del command
    started = time.monotonic()
    end = started + rng.uniform(0.0, longest[0])
    while time.monotonic() < end:
      if not _alive(running):
        longest[0] = time.monotonic() - started
        break
      time.sleep(0.001)
    return 'any time'

  return wait


def on_change(pattern, longest=0.2, first=False):
  """Microseconds to `longest` seconds after the first path that matches, or one of the next."""

  def wait(running, command, rng):
    skip = 0 if first else rng.randrange(4)
    base, glob = command.out.parent, pattern.replace('OUT', command.out.name)
    seen = _found(base, glob)
    while _alive(running):
      new = _found(base, glob) - seen
      if new and not skip:
        break
      skip, seen = skip - bool(new), seen | new
    time.sleep(10 ** rng.uniform(-5, math.log10(longest)))
    return f'new {pattern}'

  return wait


def _found(base, glob):
  """Matching paths with the time of their last change."""
  found = set()
  with contextlib.suppress(FileNotFoundError):  # what goes while it is listed
    for path in base.glob(glob):
      found.add((path, path.stat().st_mtime_ns))
  return found


def storm(command, expected, kills, moments, rng, who=lambda rng, count: ()):
  """Kills the command at moment after moment and lets it end; its results have to be `expected`.

  One that ends before it is killed begins again, elsewhere.

  Args:
    command: what to kill.
    expected: what `command.same` has to give.
    kills: how many times.
    moments: functions that wait for the moment, taken in turn.
    rng: source of chance.
    who: indices of the processes that are killed; none for all.

  Returns:
    (kills, runs that went to their end, the longest time that a survivor took to end).
  """
  done, whole, longest, fresh = 0, 0, 0.0, 0
  saved: list[int] = []
  first = command
  for moment in itertools.islice(itertools.cycle(moments), 4 * kills):
    if command.once and command.out.exists():  # killed when all was done
      assert_equal(command.same(command.out), expected)
      fresh += 1
      command = first.at(first.out.with_name(f'once{fresh}-{first.out.name}'))
    running = command.start()
    moment(running, command, rng)
    struck = who(rng, command.count)
    for i in struck or range(command.count):
      running.processes[i].kill()
    running.since = time.monotonic()
    ended = running.wait(LIMIT)
    _check_resumed(ended[0].out, saved)
    # It may end between a look and the kill.
    if all(end.code == 0 for end in ended):
      assert_equal(command.same(command.out), expected)
      whole, fresh, saved = whole + 1, fresh + 1, []
      command = first.at(first.out.with_name(f'again{fresh}-{first.out.name}'))
      continue
    for i, end in enumerate(ended):
      own = not struck or i in struck
      assert end.code == (-9 if own else 4), end
      assert own or len(end.errors) == 1, end.err[-3000:]
      longest = max(longest, end.seconds)
    assert longest < BOUND
    saved = group.steps_saved(command.out)
    done += 1
    if done == kills:
      break
  found, out = command.finish()
  _check_resumed(out, saved)
  assert_equal(found, expected)
  return done, whole + 1, longest


def _check_resumed(out, saved):
  """Nothing saved before a kill is lost or called unreadable by the next start."""
  assert 'cannot be read' not in out, out
  started = re.search(r'(resumes from step (\d+)|starts) in ', out)
  if started:
    assert int(started[2] or 0) >= (max(saved) if saved else 0), (out, saved)


def damage(file, how, rng):
  """Truncates a file, empties a part of it, or flips a bit of it."""
  data = bytearray(file.read_bytes())
  if how == 'truncated':
    data = data[: rng.randrange(len(data))] if data else data
  elif how == 'bit':
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  elif how == 'zeros':
    start = rng.randrange(len(data))
    data[start : start + 64] = bytes(len(data[start : start + 64]))
  file.write_bytes(data)


def copy(source, target):
  shutil.rmtree(target, ignore_errors=True)
  shutil.copytree(source, target)
  return target


def chance(seed, *what):
  """A source of chance of its own for every test, the same for a seed."""
  return random.Random(repr((seed, what)))

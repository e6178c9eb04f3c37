"""Runs of a sweep: the points of a grid or a list, the processes that train them, their table."""

import copy
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.command import UNFINISHED, say
from research.errors import InputError
from research.jobs import children

LOG = 'train.log'
MAX_NAME = 40  # characters of a value in the name of a folder


@dataclasses.dataclass
class Point:
  """One run: its values, folder, command and completed config, and how it went."""

  name: str
  values: dict[str, Any]
  folder: Path
  args: list[str]
  config: dict[str, Any]
  status: str = 'not started'
  error: str = ''

  @property
  def done(self) -> bool:
    """Whether the run of this config is finished: launch.train writes its report last."""
    from research.train.config import changed
    from research.train.writer import read_metrics

    if not (self.folder / 'report.html').is_file():
      return False
    try:
      old = json.loads((self.folder / 'config.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
      return False
    steps = [row.get('step', 0) for row in read_metrics(self.folder / 'metrics.jsonl')]
    reached = max(steps, default=0) >= (self.config['total_steps'] or 1)
    return reached and not changed(old, self.config)


def read_values(text: str) -> list[dict[str, Any]]:
  """The points of --values: combinations of a grid, or the list as it is.

  Raises:
    InputError: not JSON, not such a dict or list, empty, or a point that occurs twice.
  """
  example = '{"optim.lr": [1e-4, 3e-4], "seed": [0, 1]}'
  try:
    given = json.loads(text)
  except ValueError as error:
    raise InputError(f'--values={text}: not JSON ({error}); write it as {example}.') from None
  if isinstance(given, dict):
    for key, values in given.items():
      if not isinstance(values, list) or not values:
        raise InputError(f'--values: {key} is {values!r}; in a grid it must be a list, {example}.')
    points = [dict(zip(given, each)) for each in itertools.product(*given.values())]
  else:
    points = given
  if not isinstance(points, list) or not points or not all(isinstance(p, dict) for p in points):
    raise InputError(f'--values={text}: expected a dict of lists or a list of dicts, as {example}.')
  points = [{key.removeprefix('config.'): v for key, v in point.items()} for point in points]
  seen = set()
  for point in points:
    if not point or not all(re.fullmatch(r'\w+(\.\w+)*', key) for key in point):
      raise InputError(f'--values: {list(point)} are to be names of settings, as in "optim.lr".')
    key = json.dumps(point, sort_keys=True)
    if key in seen:
      raise InputError(f'--values: the point {json.dumps(point)} occurs twice.')
    seen.add(key)
  return points


def _names(points: Sequence[Mapping[str, Any]]) -> list[str]:
  """A readable folder name for each point: lr-0.0001_seed-0.

  A value that a name cannot hold is shortened, and a hash of the point tells such names apart.
  """
  keys = list(dict.fromkeys(key for point in points for key in point))
  last = [key.rsplit('.', 1)[-1] for key in keys]
  short = {key: name if last.count(name) == 1 else key for key, name in zip(keys, last)}
  found = []
  for point in points:
    parts, exact = [], True
    for key, value in point.items():
      text = value if isinstance(value, str) else json.dumps(value)
      clean = re.sub(r'[^A-Za-z0-9.+-]+', '-', text).strip('-.')[:MAX_NAME]
      exact &= clean == text
      parts.append(f'{short[key]}-{clean}')
    if not exact:
      text = json.dumps(point, sort_keys=True)
      parts.append(hashlib.sha256(text.encode()).hexdigest()[:6])
    found.append('_'.join(parts)[:200])
  return found


def _with(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
  """The config with these settings, by dotted names."""
  made = copy.deepcopy(dict(config))
  for key, value in values.items():
    *groups, name = key.split('.')
    node = made
    for group in groups:
      if not isinstance(node.get(group), dict):
        node[group] = {}
      node = node[group]
    node[name] = copy.deepcopy(value)
  return made


def config_args(argv: Sequence[str]) -> list[str]:
  """The arguments that say something about the config: --config and --config.path=value."""
  found = []
  rest = iter(argv)
  for arg in rest:
    if re.match(r'--?config(\.[\w.]+)?=', arg):
      found.append(arg)
    elif re.fullmatch(r'--?config(\.[\w.]+)?', arg):
      found.append(f'{arg}={next(rest, "")}')
  return found


def points(
  config: Mapping[str, Any], values: str, workdir: Path, common: Sequence[str]
) -> list[Point]:
  """The points of a sweep, checked; runs and writes nothing.

  Args:
    config: the config that all points share.
    values: --values.
    workdir: folder of all runs.
    common: arguments of launch.train that all points share.

  Raises:
    InputError: invalid values, or settings that the config refuses.
  """
  from research.train.config import complete

  given = read_values(values)
  both = {key for point in given for key in point} & {
    arg.lstrip('-').partition('=')[0].removeprefix('config.') for arg in common
  }
  if both:
    raise InputError(f'{", ".join(sorted(both))}: set by both --values and --config.…; remove one.')
  found = []
  for name, point in zip(_names(given), given):
    try:
      full = complete(_with(config, point))
    except InputError as error:
      raise InputError(f'{name}: {error}') from None
    folder = workdir / name
    args = [*common, *(f'--config.{k}={_flag(v)}' for k, v in point.items()), f'--workdir={folder}']
    found.append(Point(name, dict(point), folder, args, full))
  return found


def _flag(value: Any) -> str:
  return value if isinstance(value, str) else repr(value)


def command_line(point: Point) -> str:
  """The command of a point, as one line of shell."""
  line = shlex.join(['python', '-m', 'launch.train', *point.args])
  if '\n' in line:
    raise InputError(f'{point.name}: a value with a line break does not go on a command line.')
  return line


# -- Running -----------------------------------------------------------------------------------


@dataclasses.dataclass
class _Child:
  point: Point
  process: subprocess.Popen
  slot: int
  began: float
  offset: int  # where this attempt starts in the log


class Runner:
  """Runs points as child processes, `parallel` at a time.

  Args:
    parallel: number of slots.
    gpus: GPUs that are divided between the slots; None leaves them as they are.
    changed: is called whenever the status of a point has changed.
  """

  def __init__(self, parallel: int, gpus: Sequence[str] | None, changed: Any):
    if gpus is not None and (not parallel or len(gpus) % parallel):
      raise InputError(f'--gpus={",".join(gpus)} cannot be divided between {parallel} runs.')
    self.parallel, self.gpus, self.changed = parallel, gpus, changed
    self.stopped = False
    self.running: list[_Child] = []

  def run(self, todo: Sequence[Point]) -> None:
    """Runs all points, or until SIGTERM or Ctrl-C, which the children get too."""
    waiting = list(todo)
    old = {n: signal.signal(n, self._stop) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
      while self.running or (waiting and not self.stopped):
        free = set(range(self.parallel)) - {child.slot for child in self.running}
        while waiting and free and not self.stopped:
          self._start(waiting.pop(0), free.pop(), len(todo) - len(waiting), len(todo))
        for child in [c for c in self.running if c.process.poll() is not None]:
          self.running.remove(child)
          self._end(child)
        time.sleep(0.1)
    finally:
      for number, handler in old.items():
        signal.signal(number, handler)

  def _stop(self, number: int, frame: Any) -> None:
    del frame
    self.stopped = True
    # The terminal sends Ctrl-C to the children itself.
    for child in self.running if number == signal.SIGTERM else ():
      child.process.send_signal(number)

  def _start(self, point: Point, slot: int, number: int, count: int) -> None:
    environment = children.environment()
    if self.gpus is not None:
      each = len(self.gpus) // self.parallel
      mine = self.gpus[slot * each : (slot + 1) * each]
      environment['CUDA_VISIBLE_DEVICES'] = ','.join(mine)
    try:
      point.folder.mkdir(parents=True, exist_ok=True)
      with (point.folder / LOG).open('ab') as log:
        offset = log.tell()
        process = subprocess.Popen(
          [sys.executable, '-m', 'launch.train', *point.args],
          stdin=subprocess.DEVNULL,
          stdout=log,
          stderr=subprocess.STDOUT,
          env=environment,
        )
    except OSError as error:
      raise InputError(f'Cannot use {point.folder}: {error.strerror or error}.') from None
    point.status = 'running'
    print(f'[{number}/{count}] {point.name}: starts, log in {point.folder / LOG}', flush=True)
    self.running.append(_Child(point, process, slot, time.monotonic(), offset))

  def _end(self, child: _Child) -> None:
    point, code = child.point, child.process.returncode
    with (point.folder / LOG).open('rb') as file:
      file.seek(child.offset)
      text = file.read().decode(errors='replace')
    # Our own signal may reach a child before it can save; that is no failure.
    killed = self.stopped and code in (-signal.SIGTERM, -signal.SIGINT)
    interrupted = self.stopped and 'error: Interrupted.' in text
    if code == 0 and point.done:
      point.status = 'finished'
    elif code in (0, UNFINISHED) or killed or interrupted:
      point.status = 'unfinished'
    else:
      point.status, point.error = 'failed', _sentence(text, code)
    seconds = time.monotonic() - child.began
    said = f': {point.error}' if point.error else ''
    say(f'{point.name}: {point.status} after {seconds:.0f} s{said}')
    self.changed()


def _sentence(text: str, code: int) -> str:
  """What a failed run said: its last `error: …` line, or its last line."""
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  errors = [line for line in lines if line.startswith('error: ')]
  if errors:
    return errors[-1].removeprefix('error: ')
  how = f'signal {-code}' if code < 0 else f'exit code {code}'
  return f'{how}; last line: {lines[-1]}' if lines else how


# -- The table ---------------------------------------------------------------------------------


def ranking(config: Mapping[str, Any], metric: str | None, mode: str | None) -> tuple[str, str]:
  """(metric, 'min' or 'max') of the flags, or what the config of the runs suggests."""
  checkpoint = config['checkpoint']
  if metric is None and checkpoint['best']:
    return checkpoint['best'], mode or checkpoint['best_mode']
  if metric is None:
    judges = [key for key, spec in config['evals'].items() if spec['name'] == 'validation']
    metric = f'{judges[0]}/loss' if judges else 'loss'
  same = metric == checkpoint['best']
  return metric, mode or (checkpoint['best_mode'] if same else 'min')


def table(found: Sequence[Point], metric: str, mode: str) -> dict[str, Any]:
  """What sweep.json holds: of every run the last value of its metrics and the best of `metric`."""
  from research.train.writer import read_metrics

  choose = min if mode == 'min' else max
  rows: list[dict[str, Any]] = []
  for point in found:
    metrics: dict[str, Any] = {}
    scores: list[tuple[float, int]] = []
    for row in read_metrics(point.folder / 'metrics.jsonl'):
      metrics.update(row)
      if isinstance(row.get(metric), int | float):
        scores.append((row[metric], row['step']))
    best = choose(scores, key=lambda s: s[0]) if scores else (None, None)
    step = metrics.pop('step', 0)
    metrics.pop('warning', None)
    rows.append(
      dict(
        name=point.name,
        status=point.status,
        error=point.error,
        values=point.values,
        step=step,
        best=best[0],
        best_step=best[1],
        metrics=metrics,
      )
    )
  scored = [row for row in rows if row['best'] is not None]
  best_run = choose(scored, key=lambda row: row['best'])['name'] if scored else None
  return dict(metric=metric, mode=mode, best=best_run, runs=rows)


def as_csv(made: Mapping[str, Any]) -> str:
  """The table as CSV: a line a run, a column a value and a metric."""
  runs = made['runs']
  keys = list(dict.fromkeys(key for row in runs for key in row['values']))
  names = sorted({name for row in runs for name in row['metrics']})
  file = io.StringIO()
  out = csv.writer(file, lineterminator='\n')
  out.writerow(['name', 'status', *keys, 'step', f'best {made["metric"]}', 'best_step', *names])
  for row in runs:
    values = [_flag(row['values'][k]) if k in row['values'] else '' for k in keys]
    numbers = [row['metrics'].get(name) for name in names]
    out.writerow(
      [row['name'], row['status'], *values, row['step'], row['best'], row['best_step'], *numbers]
    )
  return file.getvalue()

r"""Trains one model for each point of a grid, or of a list, of config values.

python -m launch.sweep --config=experiments/audio_mae/builtin_tiny.py --workdir=runs/sweep \
  --values='{"optim.lr": [1e-4, 3e-4], "seed": [0, 1]}'

--values is JSON: a dict of lists is a grid of all combinations, a list of dicts names the points.
Every point is a run of launch.train in a folder of its own below --workdir, named after its values;
--config.path=value holds for all of them. The same command again skips finished runs and resumes
the others. A run that fails does not stop the rest; its sentence stands in the table and at the
end. sweep.csv and sweep.json hold the last metrics of every run and the best value of --metric.

--parallel runs several at a time on this machine, each with its part of --gpus if given. For a
cluster --print_commands prints one command a line; --parallel=0 runs nothing and makes the table of
what is there. Stopped by SIGTERM or Ctrl-C, all runs save, and the exit code is 75.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from launch import command
from launch.points import (
  LOG,
  Point,
  Runner,
  as_csv,
  command_line,
  config_args,
  points,
  ranking,
  table,
)
from research.errors import InputError, unknown

CONFIG = command.config_flag()
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of all runs (created if missing).')
VALUES = flags.DEFINE_string(
  'values', None, 'JSON: {"optim.lr": [1e-4, 3e-4]} for a grid, [{"optim.lr": 1e-4}] for a list.'
)
PARALLEL = flags.DEFINE_integer(
  'parallel', 1, 'Runs at a time; 0: run nothing, only make the table.', lower_bound=0
)
GPUS = flags.DEFINE_list(
  'gpus', None, 'GPUs to divide between the runs, as in --gpus=0,1,2,3 --parallel=4.'
)
METRIC = flags.DEFINE_string(
  'metric', None, 'Metric that ranks the runs (checkpoint.best, or the loss of the validation).'
)
MODE = flags.DEFINE_enum('mode', None, ['min', 'max'], 'Whether low or high values are good.')
DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print the commands and run nothing.')
PRINT = flags.DEFINE_bool('print_commands', False, 'Print one command a line, for a cluster.')
command.required('config', 'workdir', 'values')


def _show(made: Mapping[str, Any]) -> None:
  width = max(len(row['name']) for row in made['runs'])
  print(f'{"run":<{width}}  {"status":<11}  {"step":>8}  best {made["metric"]}')
  for row in made['runs']:
    best = '' if row['best'] is None else f'{row["best"]:.4g} at step {row["best_step"]}'
    mark = ' <- best' if row['name'] == made['best'] else ''
    print(f'{row["name"]:<{width}}  {row["status"]:<11}  {row["step"]:>8}  {best}{mark}'.rstrip())


def main(argv):
  del argv
  import jax

  from research.jobs import folders

  # Leave the accelerators to the runs; this process only reads configs.
  jax.config.update('jax_platforms', 'cpu')
  workdir = folders.local(str(WORKDIR.value), 'workdir').expanduser()
  common = config_args(sys.argv[1:])
  found = points(CONFIG.value.to_dict(), str(VALUES.value), workdir, common)
  metric, mode = ranking(found[0].config, METRIC.value, MODE.value)
  if PRINT.value:
    for point in found:
      print(command_line(point))
    return
  for point in found:
    if point.done:
      point.status = 'finished'
    elif (point.folder / 'metrics.jsonl').exists():
      point.status = 'unfinished'
  todo = [point for point in found if point.status != 'finished']
  if DRY_RUN.value:
    for point in found:
      done = point.status == 'finished'
      print(f'# {point.name} is finished' if done else command_line(point))
    return

  def write() -> None:
    made = table(found, metric, mode)
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      folders.replace_text(workdir / 'sweep.json', json.dumps(made, indent=2))
      folders.replace_text(workdir / 'sweep.csv', as_csv(made))
    except OSError as error:
      raise InputError(f'Cannot use --workdir={workdir}: {error.strerror or error}.') from None

  if len(todo) < len(found):
    print(f'{len(found) - len(todo)} of {len(found)} runs are finished', flush=True)
  runner = Runner(PARALLEL.value, GPUS.value, write)
  write()
  if PARALLEL.value:
    runner.run(todo)
  write()
  made = table(found, metric, mode)
  _show(made)
  print(f'table: {workdir / "sweep.csv"}', flush=True)
  _finish(found, made, runner.stopped)


def _finish(found: Sequence[Point], made: Mapping[str, Any], stopped: bool) -> None:
  """Ends with the code of the sweep: bad runs are named, unfinished ones are to be resumed."""
  known = {name for row in made['runs'] for name in row['metrics']}
  failed = [point for point in found if point.status == 'failed']
  open_ = [point for point in found if point.status in ('unfinished', 'not started')]
  for point in failed:
    command.say(f'failed: {point.name}: {point.error}')
  if open_ and PARALLEL.value:
    print(f'{len(open_)} runs are not finished. Run the same command to resume.', flush=True)
    sys.exit(command.UNFINISHED)
  if failed:
    raise InputError(
      f'{len(failed)} of {len(found)} runs failed: {", ".join(p.name for p in failed)}; each has '
      f'its {LOG}.'
    )
  if METRIC.value and known and METRIC.value not in known:
    raise unknown('metric', METRIC.value, known)


if __name__ == '__main__':
  command.run(main)

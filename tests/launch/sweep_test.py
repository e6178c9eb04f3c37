"""Sweeps: points and their names, commands, failing and stopped runs, the table."""

import csv
import json
import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.audio_mae import builtin_tiny
from launch import points as sweep
from research.errors import InputError
from tests.launch import runner

GRID = '{"optim.lr": [1e-4, 0.0003], "seed": [0, 1, 2]}'
COMMON = [f'--config={runner.DEBUG}']


def points(values, workdir='w', common=COMMON, **changes):
  config = builtin_tiny.get_config('debug').to_dict() | changes
  return sweep.points(config, values, Path(workdir), common)


def names(values):
  return [point.name for point in points(values)]


# ---- Points.


def test_a_grid_is_all_combinations():
  found = points(GRID)
  assert [p.name for p in found] == [
    'lr-0.0001_seed-0', 'lr-0.0001_seed-1', 'lr-0.0001_seed-2',
    'lr-0.0003_seed-0', 'lr-0.0003_seed-1', 'lr-0.0003_seed-2',
  ]  # fmt: skip
  last = found[-1]
  assert last.config['optim']['lr'] == 0.0003 and last.config['seed'] == 2
  assert last.config['optim']['b2'] == 0.95
  assert last.args == [
    *COMMON, '--config.optim.lr=0.0003', '--config.seed=2', '--workdir=w/lr-0.0003_seed-2',
  ]  # fmt: skip


def test_a_list_names_its_points():
  values = '[{"optim.lr": 1e-3, "config.seed": 3}, {"optim.lr": 0.01}]'
  assert names(values) == ['lr-0.001_seed-3', 'lr-0.01']


def test_names_stay_short_readable_and_different():
  source = '{"name": "/data/a b", "args": {"where": {"kind": "it\'s"}}}'
  found = names(f'{{"data.source": [{source}, {source.replace("a b", "a-b")}, "builtin"]}}')
  assert len(set(found)) == 3 and found[2] == 'source-builtin'
  assert all(name.startswith('source-name-data-a-b-args-where-kind-it') for name in found[:2])
  assert not any(c in name for name in found for c in '/ "\',')
  # The last word of a setting is its name, unless two settings share it.
  both = names('{"seed": [1], "data.seed": [2]}')
  assert both == ['seed-1_data.seed-2']


def test_a_value_keeps_the_name_of_its_folder_when_others_join():
  assert set(names('{"optim.lr": [1e-4], "seed": [0, 1]}')) < set(names(GRID))


def test_commands_survive_the_shell():
  source = {'name': "/a b/it's", 'args': {'cut_seconds': 3, 'where': {'kind': '"$HOME" `x`'}}}
  (point,) = points(json.dumps([{'data.source': source, 'data.shuffle': False}]), 'my runs')
  words = shlex.split(sweep.command_line(point))
  assert words == ['python', '-m', 'launch.train', *point.args]
  assert f'--config.data.source={source!r}' in words and '--config.data.shuffle=False' in words


def test_arguments_about_the_config_are_passed_on():
  argv = [
    '--config',
    'x.py',
    '--parallel=2',
    '--config.data.root=/d',
    '-config.seed',
    '3',
    '--gpus=1',
  ]
  assert sweep.config_args(argv) == ['--config=x.py', '--config.data.root=/d', '-config.seed=3']


@pytest.mark.parametrize(
  'values, words',
  [
    ('optim.lr=3', 'not JSON'),
    ('{"optim.lr": 3}', 'must be a list'),
    ('{"optim.lr": []}', 'must be a list'),
    ('3', 'dict of lists or a list of dicts'),
    ('[]', 'dict of lists or a list of dicts'),
    ('[{}]', 'names of settings'),
    ('{"optim lr": [3]}', 'names of settings'),
    ('{"seed": [1, 1]}', 'twice'),
    ('{"optim.learning_rate": [1]}', 'config.optim.lr'),
    ('{"optim.lr": ["fast"]}', "lr-fast: config.optim.lr is 'fast'"),
  ],
)
def test_invalid_values(values, words):
  with pytest.raises(InputError, match=words.replace('.', r'\.')):
    points(values)


def test_a_setting_is_given_once():
  with pytest.raises(InputError, match='seed: set by both'):
    points('{"seed": [1]}', common=[*COMMON, '--config.seed=2'])


# ---- Running, with a stand-in for launch.train.

TRAIN = """#!{python}
import json, os, pathlib, signal, sys, time
args = dict(a[2:].split('=', 1) for a in sys.argv[3:])
folder, seed = pathlib.Path(args['workdir']), args['config.seed']
step = len((folder / 'train.log').read_text().splitlines())
print('start', os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True)
if seed == '1':
  sys.exit('Traceback\\nerror: The data are bad.\\n')
if seed == '3':
  print('Killed by a bug', flush=True)
  os.kill(os.getpid(), signal.SIGKILL)
if seed == '4':
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
  (folder / 'waits').touch()
  time.sleep(60)
rows = [dict(step=1, loss=2.0 + float(seed)), dict(step=2, loss=3.0), {{'step': 4, 'x/y': 1.0}}]
if seed == '2' and not step:
  (folder / 'metrics.jsonl').write_text(json.dumps(rows[0]) + '\\n')
  sys.exit(75)
(folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\\n' for row in rows))
(folder / 'report.html').touch()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
  """make(seeds): points whose launch.train is a few lines of Python."""
  program = tmp_path / 'python'
  program.write_text(TRAIN.format(python=sys.executable))
  program.chmod(0o755)
  monkeypatch.setattr(sys, 'executable', str(program))

  def make(seeds):
    found = points(json.dumps({'seed': seeds}), tmp_path / 'sweep')
    for point in found:
      point.folder.mkdir(parents=True, exist_ok=True)
      (point.folder / 'config.json').write_text(json.dumps(point.config))
    return found

  return make


def run(found, parallel=1, gpus=None):
  made = sweep.Runner(parallel, gpus, lambda: None)
  made.run([point for point in found if not point.done])
  return made


def test_failing_and_stopped_runs_do_not_stop_the_others(stand_in):
  found = stand_in([1, 2, 3, 0])
  run(found)
  assert [p.status for p in found] == ['failed', 'unfinished', 'failed', 'finished']
  assert found[0].error == 'The data are bad.'
  assert found[2].error == 'signal 9; last line: Killed by a bug'
  # The second time the finished run is left alone, and the stopped one resumes.
  log = found[3].folder / sweep.LOG
  before = log.read_text()
  again = stand_in([1, 2, 3, 0])
  assert [p.done for p in again] == [False, False, False, True]
  run(again)
  assert again[1].status == 'finished' and again[0].error == 'The data are bad.'
  assert log.read_text() == before


def test_a_finished_run_of_another_config_is_not_skipped(stand_in):
  (point,) = stand_in([0])
  run([point])
  assert point.done
  point.config['optim']['lr'] = 1.0
  assert not point.done
  (point,) = points('{"seed": [0]}', point.folder.parent)
  assert point.done
  point.config['total_steps'] = 400
  assert not point.done


def test_the_table(stand_in):
  found = stand_in([1, 5, 0])
  run(found)
  made = sweep.table(found, 'loss', 'min')
  assert made['best'] == 'seed-0'
  failed, five, zero = made['runs']
  assert (failed['status'], failed['error'], failed['best']) == (
    'failed',
    'The data are bad.',
    None,
  )
  assert (five['best'], five['best_step'], five['step']) == (3.0, 2, 4)
  assert (zero['best'], zero['best_step']) == (2.0, 1)
  assert zero['metrics'] == {'loss': 3.0, 'x/y': 1.0}
  assert sweep.table(found, 'loss', 'max')['best'] == 'seed-5'
  rows = list(csv.DictReader(sweep.as_csv(made).splitlines()))
  assert rows[2] == {
    'name': 'seed-0', 'status': 'finished', 'seed': '0', 'step': '4', 'best loss': '2.0',
    'best_step': '1', 'loss': '3.0', 'x/y': '1.0',
  }  # fmt: skip
  assert rows[0]['loss'] == '' and sweep.table(found, 'nothing', 'min')['best'] is None


def test_the_metric_that_ranks():
  (point,) = points('{"seed": [0]}')
  assert sweep.ranking(point.config, None, None) == ('valid/loss', 'min')
  assert sweep.ranking(point.config, 'accuracy', 'max') == ('accuracy', 'max')
  (point,) = points('{"checkpoint.best": ["valid/mse"], "checkpoint.best_mode": ["max"]}')
  assert sweep.ranking(point.config, None, None) == ('valid/mse', 'max')
  assert sweep.ranking(point.config | {'evals': {}}, 'loss', None) == ('loss', 'min')


def test_gpus_are_divided(stand_in):
  found = stand_in([0, 5, 6])
  run(found, parallel=2, gpus=['0', '1', '2', '3'])
  logs = sorted((p.folder / sweep.LOG).read_text().strip() for p in found)
  assert set(logs) == {'start 0,1', 'start 2,3'}
  with pytest.raises(InputError, match='divided'):
    sweep.Runner(2, ['0', '1', '2'], lambda: None)


def test_sigterm_lets_all_runs_save(stand_in):
  found = stand_in([4, 5, 6])
  waits = found[0].folder / 'waits'

  def signal_it():
    while not waits.exists():
      time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)

  thread = threading.Thread(target=signal_it)
  thread.start()
  made = run(found)
  thread.join()
  assert made.stopped
  assert [p.status for p in found] == ['unfinished', 'not started', 'not started']


# ---- The command.


def test_dry_run_writes_nothing(tmp_path):
  args = [*COMMON, '--config.data.root=/a b', f'--workdir={tmp_path / "s"}', f'--values={GRID}']
  done = runner.run('launch.sweep', *args, '--dry_run')
  assert done.returncode == 0, done.stderr
  lines = [shlex.split(line) for line in done.stdout.splitlines()]
  assert len(lines) == 6 and not (tmp_path / 's').exists()
  assert lines[0] == [
    'python', '-m', 'launch.train', *COMMON, '--config.data.root=/a b', '--config.optim.lr=0.0001',
    '--config.seed=0', f'--workdir={tmp_path}/s/lr-0.0001_seed-0',
  ]  # fmt: skip


def test_mistakes_of_the_command(tmp_path):
  good = [*COMMON, f'--workdir={tmp_path / "s"}']
  runner.check_mistakes(
    'launch.sweep',
    {
      'no values': (good, ['--values']),
      'no JSON': ([*good, '--values=lr'], ['--values=lr', 'not JSON']),
      'misspelt': ([*good, '--values={"optim.lrr": [1]}'], ["Did you mean 'config.optim.lr'"]),
      'bucket': ([*COMMON, '--workdir=gs://b', '--values={"seed": [1]}'], ['Mount the bucket']),
      'gpus': ([*good, '--values={"seed": [1]}', '--gpus=0,1,2', '--parallel=2'], ['divided']),
    },
  )


@pytest.mark.slow
def test_a_sweep_of_two_runs_one_of_which_fails(tmp_path):
  workdir = tmp_path / 'sweep'
  missing = tmp_path / 'missing'
  values = json.dumps({'data.source': ['builtin', str(missing)], 'seed': [3]})
  args = [*COMMON, '--config.evals={}', f'--workdir={workdir}', f'--values={values}']
  done = runner.run('launch.sweep', *args, '--parallel=2')
  assert done.returncode == 2 and 'Traceback' not in done.stderr
  assert done.stderr.splitlines()[-1].startswith('error: 1 of 2 runs failed: source-')
  good, bad = json.loads((workdir / 'sweep.json').read_text())['runs']
  assert good['status'] == 'finished' and good['step'] == 4 and 0 < good['best'] < 10
  assert bad['status'] == 'failed' and 'missing' in bad['error']
  assert f'failed: {bad["name"]}: {bad["error"]}' in done.stdout
  # The second time only the failed run is tried again.
  again = runner.run('launch.sweep', *args)
  assert again.returncode == 2 and '1 of 2 runs are finished' in again.stdout
  assert again.stdout.count(': starts') == 1
  # Only the table, and the commands.
  table = runner.run('launch.sweep', *args, '--parallel=0')
  assert table.returncode == 0 and ': starts' not in table.stdout
  commands = runner.run('launch.sweep', *args, '--print_commands').stdout.splitlines()
  assert [shlex.split(line)[:3] for line in commands] == [['python', '-m', 'launch.train']] * 2
  assert (workdir / 'sweep.csv').read_text().startswith('name,status,data.source,seed,step')

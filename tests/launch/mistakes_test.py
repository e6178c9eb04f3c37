"""Mistakes that new users make: each gets one sentence that says what to do, and exit code 2."""

import json
import subprocess
import sys

import pytest

from tests.launch import runner

# Runs every command line in a fork of one process that has imported everything already.
FORKED = """
import io, json, os, sys
sys.path.insert(0, os.getcwd())
import launch.train, research.train.loop, research.evals.report
from launch import command
cases = json.load(sys.stdin)
for name, argv in cases.items():
  read, write = os.pipe()
  pid = os.fork()
  if pid == 0:
    os.dup2(write, 2)
    os.dup2(write, 1)
    sys.argv = ['launch.train', *argv]
    try:
      command.run(launch.train.main)
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

CONFIG = f'--config={runner.DEBUG}'


def cases(tmp_path):
  """{name: (arguments, words that the sentence must contain)}."""
  empty = tmp_path / 'empty'
  empty.mkdir()
  broken = tmp_path / 'broken.py'
  broken.write_text('def get_config():\n  return {}["nothing"]\n')
  several = tmp_path / 'several.py'
  several.write_text(
    'from experiments.audio_mae import builtin_tiny\n\n\ndef get_config():\n'
    "  config = builtin_tiny.get_config('debug')\n"
    "  del config.data.source\n  config.data.source = ['builtin', 'builtin']\n  return config\n"
  )
  file = tmp_path / 'a_file'
  file.write_text('x')
  work = f'--workdir={tmp_path / "work"}'
  return {
    'misspelt model argument': (
      ['--config=experiments/audio_mae/builtin_tiny.py', work, '--config.model.args.wdith=3'],
      ["'wdith'", "Did you mean 'width'"],
    ),
    'no such config': (['--config=experiments/audio_mae/builtin.py', work], ['builtin_tiny.py']),
    'config that is no Python file': (['--config=README.md', work], ['README.md', 'Python file']),
    'no workdir': ([CONFIG], ['--workdir']),
    'no config': ([work], ['--config']),
    'unknown variant': (
      ['--config=experiments/audio_mae/builtin_tiny.py:huge', work],
      ["no variant 'huge'", 'debug'],
    ),
    'unknown model': (
      [CONFIG, work, '--config.model.name=audiomae'],
      ["'audiomae'", "Did you mean 'audio_mae'"],
    ),
    'unknown size': ([CONFIG, work, '--config.model.args.size=bse'], ["'bse'", "'base'"]),
    'unknown objective': (
      [CONFIG, work, '--config.objective.name=masked_mse'],
      ["'masked_mse'", 'masked_patch_mse'],
    ),
    'misspelt setting': (
      [CONFIG, work, '--config.optim.learning_rate=1'],
      ['config.optim.learning_rate', 'config.optim.lr'],
    ),
    'misspelt group': (
      [CONFIG, work, '--config.optimizer.lr=1'],
      ["'config.optimizer'", "Did you mean 'config.optim'"],
    ),
    'text for a number': (
      [CONFIG, work, '--config.optim.lr=fast'],
      ["optim.lr=fast: 'fast' is not a number"],
    ),
    'text for a whole number': (
      [CONFIG, work, '--config.data.batch_size=abc'],
      ["batch_size=abc: 'abc' is not a whole number"],
    ),
    'text for a number that the config leaves out': (
      [CONFIG, work, '--config.model.args.stride=wide'],
      ["config.model.args.stride is 'wide'; it must be a whole number"],
    ),
    'neither yes nor no': (
      [CONFIG, work, '--config.data.shuffle=maybe'],
      ["config.data.shuffle is 'maybe'; it must be True or False"],
    ),
    'text for a list of augmentations': (
      [CONFIG, work, '--config.augment=spec_augment'],
      ["config.augment is 'spec_augment'; it must be a list"],
    ),
    'text for a limit': (
      [CONFIG, work, '--config.watch.representation_std.min=small'],
      ['representation_std.min', 'number'],
    ),
    'name for a front-end': (
      [CONFIG, work, '--config.model.args.frontend=log_mel'],
      ['config.model.args.frontend.name'],
    ),
    'best of a metric that nothing measures': (
      [CONFIG, work, '--config.checkpoint.best=loss'],
      ["config.checkpoint.best is 'loss'", "'valid/loss'"],
    ),
    'value for a group': ([CONFIG, work, '--config.optim=adamw'], ['config.optim is a group']),
    'text in place of a list': (
      [f'--config={several}', work, '--config.data.source=/no/such/folder'],
      ['/no/such/folder'],
    ),
    'folder that is not there': (
      [CONFIG, work, '--config.data.source=/no/such/folder'],
      ['/no/such/folder'],
    ),
    'folder without audio': ([CONFIG, work, f'--config.data.source={empty}'], [str(empty)]),
    'unknown split': ([CONFIG, work, '--config.data.split=trian'], ["'trian'"]),
    'batch that devices do not share': (
      [CONFIG, work, '--config.optim.accumulate=3'],
      ['batch_size is 8', '3'],
    ),
    'mesh of the wrong size': ([CONFIG, work, '--config.mesh.tensor=5'], ['mesh', 'devices']),
    'warm-up longer than the run': (
      [CONFIG, work, '--config.optim.schedule.warmup_steps=100'],
      ['warms up for 100 steps', '4'],
    ),
    'workdir is a file': ([CONFIG, f'--workdir={file}'], [str(file)]),
    'negative learning rate': ([CONFIG, work, '--config.optim.lr=-1.0'], ['optim.lr', '-1.0']),
    'negative clipping': ([CONFIG, work, '--config.optim.clip_norm=-1.0'], ['clip_norm', '-1.0']),
    'another rate than the front-end': (
      [CONFIG, work, '--config.data.sample_rate=8000'],
      ['8000 Hz', '16000 Hz'],
    ),
    'setting of another group': (
      [CONFIG, work, '--config.batch_size=4'],
      ["'config.batch_size'", 'config.data.batch_size'],
    ),
    'stray argument': ([CONFIG, work, 'now'], ["'now'"]),
    'unknown flag': ([CONFIG, work, '--workdirr=x'], ['workdirr']),
    'broken config': ([f'--config={broken}', work], ['nothing']),
    'unknown schedule': (
      [CONFIG, work, '--config.optim.schedule.name=cosin'],
      ["'cosin'", "'cosine'"],
    ),
    'audio shorter than a frame': (
      [CONFIG, work, '--config.data.seconds=0.01'],
      ['0.01', 's'],
    ),
  }


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
  wanted = cases(tmp_path_factory.mktemp('mistakes'))
  run = subprocess.run(
    [sys.executable, '-c', FORKED],
    input=json.dumps({name: argv for name, (argv, _) in wanted.items()}),
    capture_output=True,
    text=True,
    cwd=runner.ROOT,
    env=runner.environment(),
    timeout=400,
  )
  assert run.returncode == 0, run.stderr[-3000:]
  return wanted, {row['name']: row for row in map(json.loads, run.stdout.splitlines())}


def test_every_mistake_gets_one_clear_sentence(answers):
  wanted, got = answers
  problems = []
  for name, (_, words) in wanted.items():
    row = got[name]
    lines = [line for line in row['text'].splitlines() if line.startswith('error: ')]
    if row['code'] != 2 or len(lines) != 1 or 'Traceback' in row['text']:
      problems.append(f'{name}: code {row["code"]}\n{row["text"][-1500:]}')
    elif not all(word in lines[0] for word in words):
      problems.append(f'{name}: {lines[0]!r} lacks {[w for w in words if w not in lines[0]]}')
  assert not problems, '\n'.join(problems)


def test_help_lists_every_flag_of_the_command():
  shown = runner.run('launch.train', '--help').stdout
  for flag in ('--config', '--workdir', '--coordinator', '--compilation_cache'):
    assert f'\n  {flag}:' in shown


def test_shards_are_not_written_into_their_own_source(tmp_path):
  (tmp_path / 'sounds').mkdir()
  out = tmp_path / 'sounds' / 'shards'
  run = runner.run('launch.prepare_data', f'--source={tmp_path / "sounds"}', f'--out={out}')
  assert run.returncode == 2 and 'Traceback' not in run.stderr
  assert 'lies in the source' in run.stderr and 'outside of it' in run.stderr
  assert not out.exists()

"""launch.plan as a user runs it."""

import importlib.util

import pytest

from tests.launch import runner

CONFIG = f'--config={runner.DEBUG}'
SLICE = '--topology=v5e:2x2'


def test_a_plan_without_the_compiler():
  done = runner.run('launch.plan', CONFIG, SLICE, '--nocompile', '--config.mesh.fsdp=2')
  assert done.returncode == 0, done.stderr[-2000:]
  rows = dict(line.split('  ', 1) for line in done.stdout.splitlines())
  assert rows['slice'].strip() == 'v5e:2x2: 4 chips, 1 hosts, data 2 x fsdp 2'
  assert rows['memory'].strip() == 'not compiled'
  assert 'TFLOP' in rows['a step'] and 'estimate: step' in rows


def test_a_plan_of_embedding():
  more = ('--nocompile', '--what=embed', '--clips=10000')
  done = runner.run('launch.plan', CONFIG, SLICE, *more)
  assert done.returncode == 0, done.stderr[-2000:]
  rows = {k: v.strip() for k, v in (line.split('  ', 1) for line in done.stdout.splitlines())}
  # A host embeds 320 s at once.
  assert rows['batch'] == '320 clips of 1 s'
  assert '(weights ' in rows['state a chip'] and 'optimizer' not in done.stdout
  assert rows['estimate: run'].startswith('32 steps')


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    'whisper/finetune_librispeech_subset.py:lora', 'ast/finetune_audioset20k.py',
    'clap/laion_tiny.py:fusion', 'clapcap/frozen_gpt2.py',
  ],
)  # fmt: skip
def test_models_of_text_and_spectrograms(name):
  """Steps and embeddings of their recipes."""
  for what in ('train', 'embed'):
    done = runner.run(
      'launch.plan', f'--config=experiments/{name}', SLICE, '--nocompile', '--clips=100000',
      f'--what={what}',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'TFLOP' in done.stdout and 'estimate: run' in done.stdout


@pytest.mark.slow
def test_a_search_without_the_compiler():
  done = runner.run('launch.plan', CONFIG, SLICE, '--nocompile', '--search')
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.startswith('data fsdp tensor accumulate')
  assert 'Nothing is recommended without compiling' in done.stdout


def test_mistakes():
  cases = {
    'no topology': ([CONFIG], ['--topology']),
    'unknown chip': ([CONFIG, '--topology=v9:4x4'], ["'v9'", 'v5e']),
    'search of embedding': (
      [CONFIG, SLICE, '--search', '--what=embed', '--nocompile'],
      ['--search'],
    ),
    'odd sides': ([CONFIG, '--topology=v5e:3x3'], ['even']),
    'mesh that does not fit': (
      [CONFIG, SLICE, '--nocompile', '--config.mesh.data=3'],
      ['data x fsdp x tensor = 4'],
    ),
    'length that depends on the data': (
      [CONFIG, SLICE, '--nocompile', '--config.data.seconds=None'],
      ['config.data.seconds'],
    ),
  }
  if importlib.util.find_spec('libtpu') is None:
    cases['no libtpu'] = ([CONFIG, SLICE], ['[plan]', '--nocompile'])
  runner.check_mistakes('launch.plan', cases)

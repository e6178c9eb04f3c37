"""The folder of a run holds one config and is used by one process."""

import json

import pytest

from research.errors import InputError
from research.jobs import locks
from research.train.config import complete
from research.train.workdir import make_workdir
from tests.experiments_test import ROOT, load
from tests.jobs.locks_test import claim


def config(**settings):
  full = load(ROOT / 'experiments/audio_mae/builtin_tiny.py').get_config('debug').to_dict()
  return complete({**full, **settings})


def test_the_config_of_a_run_without_checkpoints_is_overwritten(tmp_path):
  one, other = config(seed=1), config(seed=2)
  make_workdir(tmp_path, one)
  # The run failed before its first checkpoint; the config is then corrected.
  (tmp_path / 'checkpoints').mkdir()
  make_workdir(tmp_path, other)
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 2
  for place in ('checkpoints/5', 'unreadable/5'):
    (tmp_path / place).mkdir(parents=True)
    with pytest.raises(InputError, match=r'another config .*seed: 2 -> 1'):
      make_workdir(tmp_path, one)
    (tmp_path / place).rmdir()
  make_workdir(tmp_path, one)


def test_two_runs_in_one_folder_are_refused(tmp_path):
  other = claim(tmp_path / 'run')
  assert other.stdout.readline() == 'mine\n'
  with pytest.raises(InputError, match=f'in use by process {other.pid}'):
    make_workdir(tmp_path / 'run', config())
  other.kill()
  other.communicate()
  assert make_workdir(tmp_path / 'run', config()) == tmp_path / 'run'


def test_an_unwritable_folder_is_named(tmp_path, monkeypatch):
  def refuse(folder):
    raise PermissionError(13, 'Permission denied', str(folder / locks.LOCK))

  monkeypatch.setattr(locks, 'claim', refuse)
  with pytest.raises(InputError, match=r'Cannot use --workdir=.*run: Permission denied\.'):
    make_workdir(tmp_path / 'run', config())

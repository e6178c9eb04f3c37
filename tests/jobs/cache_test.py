"""The cache folder."""

import os
import pathlib
import subprocess
import sys

import pytest

from research.jobs.cache import cache_folder


def test_the_environment_wins_over_the_user_s_cache_folder(monkeypatch, tmp_path):
  monkeypatch.setenv('OIDO_CACHE', str(tmp_path / 'mine'))
  assert cache_folder() == tmp_path / 'mine'


@pytest.mark.skipif(sys.platform != 'linux', reason='the folders of Linux')
def test_the_user_s_cache_folder(monkeypatch, tmp_path):
  monkeypatch.delenv('OIDO_CACHE', raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
  assert cache_folder() == tmp_path / 'xdg' / 'oido'
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  assert cache_folder() == tmp_path / 'home' / '.cache' / 'oido'


def test_compiled_programs_are_kept_there(tmp_path):
  code = (
    'from launch import command; command.distributed_flags(); '
    'print(command.flags.FLAGS["compilation_cache"].value)'
  )
  env = {k: v for k, v in os.environ.items() if k != 'JAX_COMPILATION_CACHE_DIR'}
  env['OIDO_CACHE'] = str(tmp_path)
  root = pathlib.Path(__file__).resolve().parents[2]
  out = subprocess.run(
    [sys.executable, '-c', code], env=env, cwd=root, capture_output=True, text=True, check=True
  ).stdout
  assert out.strip() == str(tmp_path / 'xla')

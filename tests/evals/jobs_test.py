"""Folders that belong to one process, and jobs that go on."""

import os
import subprocess
import sys

import pytest

from research.errors import InputError
from research.evals import jobs

CLAIM = """
import pathlib, sys
from research.errors import InputError
from research.evals import jobs
try:
  jobs.claim(pathlib.Path(sys.argv[1]))
except InputError as error:
  sys.exit(f'SAID {error}')
print('mine', flush=True)
sys.stdin.read()
"""


def claim(folder):
  return subprocess.Popen(
    [sys.executable, '-c', CLAIM, str(folder)],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


def test_a_folder_is_one_process_s_until_it_ends(tmp_path):
  folder = tmp_path / 'run'
  other = claim(folder)
  assert other.stdout.readline() == 'mine\n'
  for _ in range(2):
    with pytest.raises(InputError, match=rf'run is in use by process {other.pid} on .*: wait for'):
      jobs.claim(folder)
  other.kill()
  other.communicate()
  # Whatever ended it, the folder is free; whoever has it may ask again.
  jobs.claim(folder)
  jobs.claim(folder)
  said = claim(folder).communicate()[1]
  assert f'in use by process {os.getpid()} on' in said
  # A folder that was removed and made again is another one.
  (folder / jobs.LOCK).unlink()
  folder.rmdir()
  jobs.claim(folder)
  assert 'SAID' in claim(folder).communicate()[1]


def test_what_is_different_is_named(tmp_path):
  jobs.begin(tmp_path / 'a.parts', dict(layers=[1, 2], pool='mean', text='x' * 100))
  jobs.begin(tmp_path / 'a.parts', dict(layers=[1, 2], pool='mean', text='x' * 100))
  with pytest.raises(
    InputError, match=r"another layers \(\[1, 2\] -> \[2\]\), text \('xxx.*\.\.\. -> "
  ):
    jobs.begin(tmp_path / 'a.parts', dict(layers=[2], pool='mean', text='y' * 100))

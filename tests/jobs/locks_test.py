"""Folders that belong to one process at a time."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from research.errors import InputError
from research.jobs import locks

CLAIM = """
import pathlib, sys
from research.errors import InputError
from research.jobs import locks
try:
  locks.claim(pathlib.Path(sys.argv[1]))
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
      locks.claim(folder)
  other.kill()
  other.communicate()
  # Whatever ended it, the folder is free; whoever has it may ask again.
  locks.claim(folder)
  locks.claim(folder)
  said = claim(folder).communicate()[1]
  assert f'in use by process {os.getpid()} on' in said
  # A folder that was removed and made again is another one.
  (folder / locks.LOCK).unlink()
  folder.rmdir()
  locks.claim(folder)
  assert 'SAID' in claim(folder).communicate()[1]
  locks.release(folder)
  assert list(folder.iterdir()) == []
  other = claim(folder)
  assert other.stdout.readline() == 'mine\n'
  other.kill()
  other.communicate()


def test_a_folder_given_back_while_another_process_asks(tmp_path, monkeypatch):
  """The file that it has opened is gone by the time it has locked it."""
  lock = fcntl.flock

  def late(descriptor, how):
    monkeypatch.setattr(fcntl, 'flock', lock)
    (tmp_path / locks.LOCK).unlink()
    lock(descriptor, how)

  monkeypatch.setattr(fcntl, 'flock', late)
  locks.claim(tmp_path)
  assert fcntl.flock is lock
  assert 'SAID' in claim(tmp_path).communicate()[1]


@pytest.mark.parametrize('code', [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_warned_about(tmp_path, monkeypatch, caplog, code):
  def refuse(descriptor, how):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(fcntl, 'flock', refuse)
  locks.claim(tmp_path)
  assert f'{tmp_path} is on a disk without locks' in caplog.text
  assert os.strerror(code) in caplog.text
  locks.release(tmp_path)
  assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_no_disk_without_locks(tmp_path, monkeypatch):
  def refuse(path, *args, **kwargs):
    raise PermissionError(errno.EACCES, 'Permission denied', str(path))

  monkeypatch.setattr(os, 'open', refuse)
  with pytest.raises(PermissionError):
    locks.claim(tmp_path)


FORK = """
import os, pathlib, signal, sys, time
from research.jobs import locks
locks.claim(pathlib.Path(sys.argv[1]))
if os.fork() == 0:
  time.sleep(60)
  os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_that_outlive_a_killed_process_do_not_keep_its_folder(tmp_path):
  other = subprocess.Popen([sys.executable, '-c', FORK, str(tmp_path)], start_new_session=True)
  assert other.wait() == -signal.SIGKILL
  try:
    locks.claim(tmp_path)
  finally:
    os.killpg(other.pid, signal.SIGKILL)

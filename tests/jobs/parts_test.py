"""Batches in parts: shared by processes, gone on with after a kill, never mixed."""

import errno
import fcntl
import json

import numpy as np
import pytest

from research import distributed
from research.errors import InputError
from research.jobs import locks
from research.jobs.parts import Job, Parts, key
from tests.jobs.kills import killed

KEYS = [key('batch', i) for i in range(7)]


def squares(numbers):
  for i in numbers:
    yield {'rows': np.arange(3 * i, 3 * i + 3), 'values': np.arange(3.0 * i, 3 * i + 3) ** 2}


def joined(parts, keys=KEYS):
  """Every row once."""
  found = {}
  for arrays in parts.read(keys):
    found |= dict(zip(arrays['rows'].tolist(), arrays['values'].tolist(), strict=True))
  return found


def job(parts, keys=KEYS, **more):
  return Job(parts, keys, [3] * len(keys), out='x.npz', **more)


EVERYTHING = {i: float(i) ** 2 for i in range(21)}


def test_a_key_is_of_the_content():
  assert key(np.arange(3), 16_000) == key(np.arange(3), 16_000) != key(np.arange(3), 8000)
  assert len({*KEYS}) == 7 and key('a') != key('b')


@pytest.mark.parametrize('part_seconds', [0.0, 1e9])
def test_a_job_killed_again_and_again(tmp_path, monkeypatch, part_seconds):
  parts, seen = Parts(tmp_path / 'x.npz', {}), []

  def work(numbers):
    seen.append(numbers)
    yield from squares(numbers)

  with monkeypatch.context() as patch:
    killed(patch, after=2 if not part_seconds else 0)
    with pytest.raises(KeyboardInterrupt):
      job(parts, part_seconds=part_seconds).run(work, lambda: 1 / 0)
  again = job(Parts(tmp_path / 'x.npz', {}), part_seconds=part_seconds)
  assert again.run(work, lambda: joined(parts)) == EVERYTHING
  done = 2 if not part_seconds else 0
  assert seen == [list(range(7)), list(range(done, 7))] and again.resumed == 3 * done
  assert len(parts.files()) == (7 if not part_seconds else 1)
  # Once more: nothing to do.
  assert job(parts).run(work, lambda: joined(parts)) == EVERYTHING and seen[2] == []
  parts.remove()
  assert not list(tmp_path.iterdir())


def test_a_part_is_written_when_it_is_large(tmp_path):
  parts = Parts(tmp_path / 'x.npz', {})
  job(parts, part_bytes=100).run(squares, lambda: None)  # 48 bytes a batch
  assert [len(p['keys']) for p in parts.read()] in ([3, 3, 1], [3, 1, 3], [1, 3, 3])


def test_processes_share_what_is_left(tmp_path):
  """One after the other here; at once in tests/launch/embed_test.py."""
  parts, seen = Parts(tmp_path / 'x.npz', {}), []

  def work(numbers):
    seen.append(numbers)
    yield from squares(numbers)

  assert job(parts, KEYS[:2]).run(work, lambda: 'some') == 'some'
  # The second of two writes its half and finishes nothing.
  parts.done = lambda keys: set(KEYS[:2])
  assert job(parts, process=(1, 2)).run(work, lambda: 1 / 0) is None
  # The first looks for the parts of all before it finishes.
  with pytest.raises(InputError, match=r'5 of the 7 batches are not in .*x.npz.parts: all 2 proc'):
    job(parts, process=(0, 2)).run(work, lambda: 1 / 0)
  assert seen == [[0, 1], [3, 5], [2, 4, 6]]
  del parts.done
  assert job(parts).run(work, lambda: joined(parts)) == EVERYTHING and seen[3] == []


def test_processes_that_see_other_clips_stop(tmp_path, monkeypatch):
  monkeypatch.setattr(distributed, 'first', lambda make: json.dumps([*KEYS[:6], 'other']).encode())
  with pytest.raises(InputError, match='Process 1 of 2 finds other clips or lengths of'):
    job(Parts(tmp_path / 'x.npz', {}), process=(1, 2)).run(squares, lambda: 1 / 0)


def test_parts_of_other_batches_are_not_mixed_in(tmp_path):
  parts = Parts(tmp_path / 'x.npz', {'layer': 1})
  job(parts, [KEYS[0], 'gone'], part_seconds=1e9).run(lambda n: squares([0, 5]), lambda: None)
  again = job(parts)
  assert again.run(squares, lambda: joined(parts)) == EVERYTHING and again.resumed == 0
  with pytest.raises(InputError, match=r'unfinished job with another layer \(1 -> 2\)'):
    job(Parts(tmp_path / 'x.npz', {'layer': 2})).run(squares, lambda: 1 / 0)


def test_a_job_that_came_to_nothing_is_in_nobodys_way(tmp_path):
  def fails(numbers):
    raise InputError('no audio')
    yield

  with pytest.raises(InputError, match='no audio'):
    job(Parts(tmp_path / 'x.npz', {'layer': 1})).run(fails, lambda: 1 / 0)
  parts = Parts(tmp_path / 'x.npz', {'layer': 2})
  (parts.folder / 'bad_files.jsonl').touch()
  assert job(parts).run(squares, lambda: joined(parts)) == EVERYTHING
  assert not (parts.folder / 'bad_files.jsonl').exists()


def test_a_full_disk_and_a_damaged_part(tmp_path, monkeypatch):
  parts = Parts(tmp_path / 'x.npz', {})
  job(parts, KEYS[:2], part_seconds=0.0).run(squares, lambda: None)

  def full(*args):
    raise OSError(errno.ENOSPC, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(Parts, 'write', full)
    with pytest.raises(InputError, match=r'Cannot write x.npz: No space .* are kept in .*goes on'):
      job(parts).run(squares, lambda: 1 / 0)
  file = parts.files()[0]
  file.write_bytes(file.read_bytes()[:-20])
  with pytest.raises(InputError, match=r'part_.*npz is damaged .*: delete it'):
    job(parts).run(squares, lambda: 1 / 0)
  file.unlink()
  assert job(parts).run(squares, lambda: joined(parts)) == EVERYTHING


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 0, 1), (1, 1, 2, 0)])
def test_independent_workers_divide_a_job(tmp_path, order):
  for number, i in enumerate(order):
    parts = Parts(tmp_path / 'x.npz', {})
    one = job(parts, worker=(i, 3))
    found = one.run(squares, lambda parts=parts: joined(parts))
    assert (found is not None) == (number == len(order) - 1)
  assert found == EVERYTHING
  # More workers than batches: the last that has one finishes, and the others find nothing to do.
  for i in range(9):
    parts = Parts(tmp_path / 'y.npz', {})
    found = job(parts, worker=(i, 9)).run(
      squares, lambda parts=parts: (joined(parts), parts.remove())
    )
    assert (found is not None) == (i == 6)
    if found:
      assert found[0] == EVERYTHING
      break
  assert not parts.folder.exists()


def held(folder):
  """The lock file of a folder, held as another process would hold it."""
  folder.mkdir(parents=True)
  file = open(folder / locks.LOCK, 'w')  # noqa: SIM115
  fcntl.flock(file, fcntl.LOCK_EX)
  return file


def test_a_worker_and_the_whole_job_keep_out_of_each_others_way(tmp_path):
  one, two, three = (Parts(tmp_path / f'{name}.npz', {}) for name in 'xyz')
  with held(one.folder / '.worker-0-of-1'), pytest.raises(InputError, match='0-of-1 is in use'):
    one.join((0, 2))
  with held(two.folder / '.worker-1-of-2'), pytest.raises(InputError, match='1-of-2 is in use'):
    two.open()
  assert job(three, worker=(0, 2)).run(squares, lambda: 0) is None
  with pytest.raises(InputError, match='holds an unfinished job with another'):
    job(Parts(tmp_path / 'z.npz', {'a': 1}), worker=(1, 2)).run(squares, lambda: 0)

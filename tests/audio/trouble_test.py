import errno
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile

from research.audio import index, readers, shards, trouble
from research.audio.bad_files import BadFiles
from research.audio.decode import AudioError, decode
from research.audio.example import Example
from research.audio.pipeline import train_batches
from research.audio.readers import Readers
from research.errors import InputError


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
  monkeypatch.setattr(trouble, 'WAITS', (0.0, 0.0, 0.0))


def write_shard(path, count=2, samples=160):
  writer = readers.array_record_module.ArrayRecordWriter(str(path), shards.OPTIONS)
  for k in range(count):
    audio = np.full(samples, k + 1, '<i2').tobytes()
    writer.write(shards.pack(Example(f'{path.name}/{k}', {}), 'pcm16', 16000, audio))
  writer.close()


def folder_of_shards(folder, count):
  """`count` tiny shards with two clips each, and their index."""
  folder.mkdir()
  described = []
  for k in range(count):
    path = folder / shards.shard_name(k, count)
    write_shard(path)
    described.append({'file': path.name, 'count': 2, 'bytes': path.stat().st_size, 'sha256': ''})
  about = {
    'format': shards.FORMAT, 'plan': 'test', 'name': 'tiny', 'count': 2 * count, 'seconds': 0.0,
    'shards': described,
  }  # fmt: skip
  (folder / 'index.json').write_text(json.dumps(about))
  index.write(
    folder / index.FILE, name='tiny', ids=[f'{k}' for k in range(2 * count)],
    seconds=np.full(2 * count, 0.01), values={}, label_sets={}, splits={}, absent={},
    about={'plan': 'test'},
  )  # fmt: skip
  return folder


READ_ALL = """
import resource, sys
from research.audio.bad_files import BadFiles
from research.audio.pipeline import train_batches
from research.audio.sources import open_source
source = open_source(sys.argv[1])
bad = BadFiles(sys.argv[2])
used = len(__import__('os').listdir('/proc/self/fd'))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 60, used + 60))
batches = train_batches(source, batch_size=8, seconds=0.01, epochs=1, bad_files=bad)
seen = [int(i) for batch in batches for i in batch['index']]
print(len(set(seen)), len(bad))
"""


def test_more_shards_than_a_process_may_open_files(tmp_path):
  folder = folder_of_shards(tmp_path / 'shards', 300)
  run = subprocess.run(
    [sys.executable, '-c', READ_ALL, str(folder), str(tmp_path / 'bad_files.jsonl')],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert run.returncode == 0, run.stderr[-2000:]
  assert run.stdout.split() == ['600', '0']
  assert not (tmp_path / 'bad_files.jsonl').exists()


def test_few_readers_are_open_and_none_is_closed_that_is_read_from(tmp_path):
  for k in range(12):
    write_shard(tmp_path / f'{k}', count=1, samples=4000)
  pool, wrong = Readers(max_open=3), []

  def read(seed):
    for k in np.random.default_rng(seed).integers(0, 12, 300):
      header, _ = shards.unpack(pool.read(str(tmp_path / f'{k}'), 0))
      if header['id'] != f'{k}/0':
        wrong.append(k)

  threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong and len(pool) <= 3
  here = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if alive(fd)]
  assert sum(name.startswith(str(tmp_path)) for name in here) == len(pool)


def alive(fd):
  return os.path.islink(f'/proc/self/fd/{fd}')


@pytest.fixture
def broken_reads(monkeypatch):
  """broken_reads(n): the next n reads of a shard fail as those of a failing disk."""
  real, left = readers.array_record_module.ArrayRecordReader, [0]

  class Reader:
    def __init__(self, path, options):
      self._path, self._reader, self._failed = path, real(path, options), False

    def read(self, numbers):
      if self._failed or left[0]:
        left[0] -= not self._failed
        self._failed = True
        raise RuntimeError(f'pread() failed: Input/output error; reading {self._path}; at byte 7')
      return self._reader.read(numbers)

    def close(self):
      self._reader.close()

  monkeypatch.setattr(readers.array_record_module, 'ArrayRecordReader', Reader)
  return lambda n: left.__setitem__(0, n)


def test_an_error_of_the_disk_is_tried_again(tmp_path, broken_reads):
  write_shard(tmp_path / 'shard')
  records = shards.Records([str(tmp_path / 'shard')], [3])
  broken_reads(2)
  assert shards.unpack(records.record(1))[0]['id'] == 'shard/1'
  with pytest.raises(AudioError, match='cannot be read'):  # It holds two.
    records.record(2)


def test_a_lasting_error_stops_the_run_and_lists_no_clip(tmp_path, broken_reads):
  source = shards.array_record(str(folder_of_shards(tmp_path / 'shards', 2)))
  bad = BadFiles(tmp_path / 'bad_files.jsonl')
  broken_reads(10**6)
  with pytest.raises(InputError, match=r'cannot be read after 4 attempts: Input/output error\.'):
    next(iter(train_batches(source, batch_size=2, seconds=0.01, bad_files=bad)))
  assert not len(bad) and not (tmp_path / 'bad_files.jsonl').exists()


@pytest.mark.parametrize('number', [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_loose_files_are_tried_again_too(tmp_path, write, monkeypatch, number):
  path = tmp_path / 'a.flac'
  audio = write(path, 0.1)
  example, left = Example('a', {}, path=str(path)), [0]
  real, opened = trouble.probe, soundfile.SoundFile

  def failing(*args):
    left[0] -= 1
    if left[0] >= 0:
      raise soundfile.LibsndfileError(2)
    return opened(*args)

  def probe(name):
    if left[0] > 0:
      raise trouble.Trouble(name, os.strerror(number))
    return real(name)

  monkeypatch.setattr(soundfile, 'SoundFile', failing)
  monkeypatch.setattr(trouble, 'probe', probe)
  left[0] = 3
  np.testing.assert_array_equal(decode(example, sample_rate=16000), audio)
  left[0] = 100
  with pytest.raises(InputError, match=os.strerror(number)) as caught:
    decode(example, sample_rate=16000)
  assert not isinstance(caught.value, AudioError) and str(path) in str(caught.value)


def test_reasons():
  assert trouble.reason(OSError(errno.ENOENT, 'x')) is None
  assert trouble.reason(OSError(errno.ENFILE, 'x')) == os.strerror(errno.ENFILE)
  assert trouble.reason(RuntimeError('open() failed: Too many open files')) == 'Too many open files'
  assert trouble.reason(RuntimeError('Invalid hash')) is None
  assert trouble.reason(MemoryError()) == 'Out of memory'
  with pytest.raises(InputError, match='ulimit -n'):
    trouble.patiently(lambda: (_ for _ in ()).throw(trouble.Trouble('f', 'Too many open files')))

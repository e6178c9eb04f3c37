"""Shards in an object store."""

import os
import pathlib
import pickle
import shutil
import threading

import numpy as np
import pytest
from array_record.python import array_record_module

from research.audio import pipeline, prepare, remote_shards, shards, trouble
from research.audio.bad_files import BadFiles
from research.audio.decode import AudioError
from research.audio.sources import open_source
from research.errors import InputError
from research.jobs import blocks, paths
from tests import stores


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Shards of the first built-in clips."""
  out = tmp_path_factory.mktemp('shards') / 'few'
  source = open_source('builtin').select(range(12))
  prepare.prepare(source, out, count=2, settings=prepare.Settings(num_workers=1))
  return out


@pytest.fixture(params=[pytest.param('gs', marks=pytest.mark.slow), 's3'])
def store(request, tmp_path):
  with stores.running(request.param, tmp_path) as server:
    yield server


@pytest.fixture
def s3(tmp_path):
  with stores.running('s3', tmp_path) as server:
    yield server


def put(store, folder, name='data/few'):
  home = paths.path(f'{store.root}/{name}')
  for file in folder.iterdir():
    if file.is_file() and not file.name.startswith('.'):
      paths.upload(file, home / file.name)
  return home


def batches(source):
  return pipeline.train_batches(
    source, batch_size=4, sample_rate=16000, seconds=0.5, seed=0, bad_files=BadFiles(None, 0.0)
  )


def test_remote_shards_are_those_of_the_disk(store, folder, monkeypatch):
  home = put(store, folder)
  here, there = open_source(str(folder)), open_source(str(home))
  assert there.fingerprint() == here.fingerprint() and len(there) == 12
  store.failing = lambda method, path, number: 503 if number % 5 == 0 else None
  for row in range(12):
    assert here.table.locate.record(row) == there.table.locate.record(row)
  # What has been read is not asked for again, nor by another process.
  store.failing, asked = None, store.requests
  again = pickle.loads(pickle.dumps(there.table.locate))
  again.record(0), there.table.locate.record(11)
  assert store.requests - asked <= 3  # `again` looks up its shard


def test_batches_of_remote_shards_are_the_same(store, folder):
  home = put(store, folder)
  here, there = iter(batches(open_source(str(folder)))), iter(batches(open_source(str(home))))
  for _ in range(4):
    a, b = next(here), next(there)
    assert a['audio'].tobytes() == b['audio'].tobytes()


def test_a_store_that_is_down_is_no_bad_clip(s3, folder, monkeypatch):
  source = open_source(str(put(s3, folder)))
  monkeypatch.setattr(trouble, 'WAITS', (0.0,))
  monkeypatch.setattr(blocks, 'WAITS', ())
  monkeypatch.setattr(paths, 'WAITS', ())
  wrong = ConnectionResetError('reset by peer')
  monkeypatch.setattr(paths, 'store', lambda path: _Broken(wrong))
  with pytest.raises(InputError, match='trouble of the machine, not of the file'):
    source.table.locate.record(0)
  monkeypatch.setattr(paths, 'store', lambda path: _Broken(PermissionError('Forbidden')))
  with pytest.raises(InputError, match='the store refuses it'):
    source.table.locate.record(0)


class _Broken:
  def __init__(self, error):
    self.error = error

  def __getattr__(self, name):
    def fail(*args, **kwargs):
      raise self.error

    return fail


def test_what_is_no_folder_of_shards(s3, folder, tmp_path):
  home = put(s3, folder)
  with pytest.raises(InputError, match='make shards of them'):
    open_source(f'{s3.root}/loose')
  with pytest.raises(InputError, match='read from a disk alone'):
    open_source({'name': 'folder', 'args': {'path': str(home)}})
  with pytest.raises(InputError, match='is an address: expected a folder of a disk'):
    open_source('esc50', root=s3.root)
  paths.remove(home / shards.shard_name(1, 2))
  with pytest.raises(InputError, match=r'00001-of-00002\.array_record is missing'):
    open_source(str(home))
  # An index that was cut off or changed on its way.
  broken = shutil.copytree(folder, tmp_path / 'broken')
  data = bytearray((broken / 'clips.index').read_bytes())
  data[-70] ^= 1
  (broken / 'clips.index').write_bytes(data)
  with pytest.raises(InputError, match='does not match its checksum'):
    open_source(str(put(s3, broken, 'data/broken')))


class _Object:
  def __init__(self, path):
    self.data = pathlib.Path(path).read_bytes()
    self.size = len(self.data)

  def read(self, start, end):
    return self.data[start:end]


def test_records_across_blocks(tmp_path, monkeypatch):
  """Sizes around the 64 KiB at which the format puts its headers."""
  monkeypatch.setattr(blocks, 'Object', _Object)
  sizes = [1, 65536 - 24 - 64, 65536, 0, 65471, 65472, 300_000, 5, *range(65000, 65600, 37)]
  path = str(tmp_path / 'x.array_record')
  writer = array_record_module.ArrayRecordWriter(path, shards.OPTIONS)
  written = [np.random.default_rng(n).bytes(n) for n in sizes]
  for record in written:
    writer.write(record)
  writer.close()
  reader = remote_shards.RemoteReaders()
  assert [reader.read(path, i) for i in range(len(sizes))] == written
  with pytest.raises(AudioError, match='cannot be read'):
    reader.read(path, len(sizes))
  compressed = str(tmp_path / 'y.array_record')
  writer = array_record_module.ArrayRecordWriter(compressed, 'group_size:4')
  for record in written:
    writer.write(record)
  writer.close()
  with pytest.raises(InputError, match='prepare the data again'):
    reader.read(compressed, 0)


def test_the_oldest_blocks_go_first(s3, tmp_path, monkeypatch):
  monkeypatch.setattr(blocks, 'BLOCK', 1000)
  path = paths.path(f'{s3.root}/x')
  data = np.random.default_rng(0).bytes(10_500)
  paths.write_bytes(path, data)
  read = blocks.Object(path)
  parts = [(0, 1), (999, 1001), (3500, 7200), (10_400, 20_000), (5, 5), (0, 10_500)]
  failed = []

  def all_parts():
    failed.extend(p for p in parts if read.read(*p) != data[p[0] : p[1]])

  threads = [threading.Thread(target=all_parts) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not failed and len(list(read.folder.iterdir())) == 11
  asked = s3.requests
  all_parts()
  assert s3.requests == asked
  for k in range(11):
    os.utime(read.folder / str(k), (k, k))
  read.read(0, 10)  # used just now
  blocks.trim(read.folder.parent, 5000)
  assert sorted(int(f.name) for f in read.folder.iterdir()) == [0, 7, 8, 9, 10]
  all_parts()
  assert not failed

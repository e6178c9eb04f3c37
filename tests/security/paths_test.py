"""Paths in files that came with data: none leads out of the folder, and what is no file is not
read."""

import errno
import json
import os
import pickle
import struct

import numpy as np
import pytest
import soundfile

from launch.inputs import open_input
from research.audio import index, prepare, shards, trouble
from research.audio.decode import AudioError, decode, duration
from research.audio.example import Example
from research.audio.sources import open_source
from research.errors import InputError

TONE = np.sin(np.arange(1600) * 0.1).astype(np.float32)
# A path, and the words of the sentence that refuses it.
OUTSIDE = {
  '/etc/passwd': 'is absolute',
  '../secret.wav': r'goes up by "\.\."',
  'a/../../secret.wav': r'goes up by "\.\."',
  '~/secret.wav': 'is absolute',
  'link.wav': 'is a link that leads out',
  'folder/secret.wav': 'is a link that leads out',
  'a\0b.wav': 'holds a zero byte',
}


@pytest.fixture
def root(tmp_path):
  """A folder with a clip, and links out of it to a secret one."""
  folder = tmp_path / 'data'
  folder.mkdir()
  for path in (folder / 'a.wav', tmp_path / 'secret.wav'):
    soundfile.write(path, TONE, 16000)
  (folder / 'link.wav').symlink_to(tmp_path / 'secret.wav')
  (folder / 'folder').symlink_to(tmp_path)
  return folder


# -- Lists of clips --------------------------------------------------------------------------------


@pytest.mark.parametrize('path', OUTSIDE, ids=repr)
@pytest.mark.parametrize('name', ['labels.csv', 'labels.jsonl', 'train.tsv'])
def test_manifests(root, path, name):
  rows = ['a.wav', path]
  if name.endswith('jsonl'):
    text = '\n'.join(json.dumps({'path': p}) for p in rows)
  else:
    text = '\n'.join(['path', *rows]) + '\n'
  (root / name).write_text(text)
  spec = {'name': 'folder', 'args': {'path': str(root), 'manifest': name}}
  with pytest.raises(InputError, match=OUTSIDE[path]):
    open_source(spec)


def test_a_link_inside_of_the_folder_is_followed(root):
  (root / 'b.wav').symlink_to('a.wav')
  (root / 'labels.csv').write_text('path\na.wav\nb.wav\n')
  assert len(open_source(str(root))) == 2


@pytest.mark.parametrize('path', ['../../secret', '/secret', 'x/../../../secret'])
def test_tables_of_data_sets(root, path):
  (root / 'meta').mkdir()
  header = 'filename,fold,target,category,esc10,src_file,take'
  (root / 'meta' / 'esc50.csv').write_text(f'{header}\n{path}.wav,1,0,dog,True,1,A\n')
  if path.startswith('/'):  # below audio/, where it is a name
    assert open_source('esc50', root=root)[0].path == str(root / 'audio/secret.wav')
    return
  with pytest.raises(InputError, match='goes up by'):
    open_source('esc50', root=root)


def test_a_list_that_a_person_gives_may_name_any_file(root, tmp_path):
  (tmp_path / 'list.txt').write_text(f'{root}/a.wav\nsecret.wav\n')
  source = open_input(str(tmp_path / 'list.txt'))
  assert [len(decode(e, sample_rate=16000)) for e in source] == [1600, 1600]


# -- Shards and indexes ----------------------------------------------------------------------------


@pytest.fixture
def prepared(root, tmp_path):
  (root / 'labels.csv').write_text('path\na.wav\n')
  settings = prepare.Settings('pcm16', 16000, 0)
  prepare.prepare(open_source(str(root)), tmp_path / 'shards', count=1, settings=settings)
  return tmp_path / 'shards'


@pytest.mark.parametrize('file', ['../x.array_record', '/etc/passwd', '..', '', 'a/b', None, 7])
def test_shards(prepared, file):
  assert len(open_source(str(prepared))) == 1
  found = json.loads((prepared / 'index.json').read_text())
  found['shards'][0]['file'] = file
  (prepared / 'index.json').write_text(json.dumps(found))
  with pytest.raises(InputError, match=r'index\.json is damaged'):
    open_source(str(prepared))


@pytest.mark.parametrize('shards_', [None, [], [None], [{}], 'x', [[]]], ids=str)
def test_an_index_of_shards_with_another_shape(prepared, shards_):
  found = json.loads((prepared / 'index.json').read_text())
  (prepared / 'index.json').write_text(json.dumps({**found, 'shards': shards_}))
  with pytest.raises(InputError, match=r'index\.json is damaged'):
    open_source(str(prepared))


@pytest.mark.parametrize(
  'record',
  [b'', b'\xff\xff\xff\xff{}', struct.pack('<I', 2) + b'{}', struct.pack('<I', 9) + b'[' * 9,
   struct.pack('<I', 90_000) + b'[' * 90_000, struct.pack('<I', 20) + b'{"encoding":"pcm16"}x'],
  ids=len,
)  # fmt: skip
def test_records_with_a_damaged_header(record, monkeypatch):
  records = shards.Records(['x.array_record'], [1])
  monkeypatch.setattr(records, 'record', lambda row: record)
  with pytest.raises(AudioError, match='Its header is damaged'):
    records(0)


def rewritten(path, change):
  """The index with a changed header and the right checksum of it."""
  data = path.read_bytes()
  _, length, _ = index._PRELUDE.unpack(data[: index._PRELUDE.size])
  start = index._PRELUDE.size
  header = json.loads(data[start : start + length])
  text = json.dumps(change(header)).encode()
  assert len(text) <= length
  text = text.ljust(length)
  digest = index.hashlib.sha256(text).digest()
  path.write_bytes(index._PRELUDE.pack(index.MAGIC, length, digest) + text + data[start + length :])


def array_of(header, **changes):
  return {**header, 'arrays': {**header['arrays'], 'seconds': {**SECONDS, **changes}}}


SECONDS = {'dtype': 'float64', 'shape': [1], 'at': 0}
CHANGES = {
  'a list': lambda header: [],
  'a column of code': lambda header: {**header, 'columns': {'x': 'os.system'}},
  'no arrays': lambda header: {**header, 'arrays': None},
  'objects': lambda header: array_of(header, dtype='O'),
  'a negative place': lambda header: array_of(header, at=-8),
  'a negative shape': lambda header: array_of(header, shape=[-1]),
  'a fraction': lambda header: array_of(header, shape=[1.5]),
  'more than there is': lambda header: array_of(header, shape=[2**40]),
  'no array': lambda header: {**header, 'arrays': {'seconds': 7}},
}


@pytest.mark.parametrize('change', CHANGES)
def test_indexes_that_describe_something_else(root, tmp_path, change):
  (root / 'labels.csv').write_text('path\na.wav\n')
  index.write_files(open_source(str(root)), tmp_path / index.FILE)
  rewritten(tmp_path / index.FILE, lambda header: header)
  assert index.read(tmp_path / index.FILE).header['count'] == 1
  rewritten(tmp_path / index.FILE, CHANGES[change])
  with pytest.raises(InputError, match=r'describes its array|a header that is not one'):
    index.read(tmp_path / index.FILE)


@pytest.mark.parametrize('path', ['/etc/passwd', '../secret.wav', 'a/../../secret.wav'])
def test_indexes_of_files(root, tmp_path, path):
  index.write(
    tmp_path / index.FILE, name='x', ids=[path], seconds=np.ones(1), values={}, label_sets={},
    splits={}, absent={}, about={'root': str(root)},
  )  # fmt: skip
  source = open_source({'name': 'index', 'args': {'path': str(tmp_path)}})
  with pytest.raises(InputError, match='which leaves that folder'):
    source[0]


# -- What is no file -------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['pipe', 'device', 'endless device', 'link to a device'])
def test_pipes_and_devices_are_not_read(tmp_path, alarm, kind):
  path = tmp_path / 'a.wav'
  if kind == 'pipe':
    os.mkfifo(path)
  elif kind == 'link to a device':
    path.symlink_to('/dev/zero')
  else:
    path = {'device': '/dev/null', 'endless device': '/dev/zero'}[kind]
  example = Example('a', {}, path=str(path))
  for read in (lambda: decode(example, sample_rate=16000), lambda: duration(example)):
    with pytest.raises(AudioError, match='It is a pipe, a socket or a device'):
      read()
  assert not trouble.probe(str(path))


def test_a_folder_with_a_pipe_lists_it_as_a_bad_file(root, tmp_path, alarm):
  for name in ('folder', 'link.wav'):
    (root / name).unlink()
  os.mkfifo(root / 'pipe.wav')
  source = open_source(str(root))
  assert source.durations().tolist() == [0.1, 0.0]
  settings = prepare.Settings('copy', None, 0)
  prepare.prepare(source, tmp_path / 'out', count=1, settings=settings, max_bad_fraction=1.0)
  (row,) = map(json.loads, (tmp_path / 'out' / 'bad_files.jsonl').read_text().splitlines())
  assert row['id'] == 'pipe.wav' and 'It is a pipe' in row['reason']


def test_examples_travel_without_their_data_being_run(root):
  """Workers of the pipeline get sources by pickle from this process, never from a file."""
  source = open_source({'name': 'folder', 'args': {'path': str(root)}})
  assert len(pickle.loads(pickle.dumps(source))) == len(source)


# -- Copies of files -------------------------------------------------------------------------------


def flaky(monkeypatch, errors):
  """The read of whole files fails by these, in order, before it works."""
  left, read = list(errors), prepare.pathlib.Path.read_bytes

  def read_bytes(path):
    if left and path.suffix == '.wav':
      number = left.pop(0)
      raise OSError(number, os.strerror(number), str(path))
    return read(path)

  monkeypatch.setattr(prepare.pathlib.Path, 'read_bytes', read_bytes)
  monkeypatch.setattr(trouble, 'WAITS', (0.0, 0.0))
  return left


def copied(root, out):
  settings = prepare.Settings('copy', None, 0)
  (root / 'labels.csv').write_text('path\na.wav\n')
  source = open_source(str(root))
  prepare.prepare(source, out, count=1, settings=settings, max_bad_fraction=1.0)
  return [decode(e, sample_rate=16000) for e in open_source(str(out))]


def test_a_copy_is_read_again_after_trouble(root, tmp_path, monkeypatch):
  left = flaky(monkeypatch, [errno.EIO, errno.ESTALE])
  (audio,) = copied(root, tmp_path / 'out')
  assert not left and len(audio) == 1600
  assert not (tmp_path / 'out' / 'bad_files.jsonl').exists()


def test_trouble_that_lasts_ends_the_copy(root, tmp_path, monkeypatch):
  flaky(monkeypatch, [errno.EIO] * 3)
  with pytest.raises(InputError, match=r'a\.wav cannot be read after 3 attempts: Input/output'):
    copied(root, tmp_path / 'out')


def test_a_file_that_vanishes_before_its_copy_is_a_bad_file(root, tmp_path, monkeypatch):
  flaky(monkeypatch, [errno.ENOENT])
  with pytest.raises(InputError):
    copied(root, tmp_path / 'out')
  (row,) = map(json.loads, (tmp_path / 'out' / 'bad_files.jsonl').read_text().splitlines())
  assert row['reason'] == 'It cannot be opened: No such file or directory.'

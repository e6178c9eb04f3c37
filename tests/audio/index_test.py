import json
import pickle

import numpy as np
import pytest

from research.audio import columns, durations, index
from research.audio.clips import Source, Table
from research.audio.decode import decode
from research.audio.fields import make
from research.audio.pipeline import train_batches
from research.audio.sources import open_source, pool, windows
from research.errors import InputError
from research.jobs.cache import cache_folder
from tests.launch import runner


@pytest.fixture
def folder(tmp_path, write):
  """Twelve clips with columns of every kind."""
  root = tmp_path / 'clips'
  rows = []
  for k in range(12):
    write(root / f'{k}.wav', 0.1 + 0.01 * k, seed=k)
    tags = ['odd', 'small'][: k % 3] if k != 7 else 'seven'
    split = ('train', 'train', 'test')[k % 3]
    rows.append({'path': f'{k}.wav', 'label': 'ab'[k % 2], 'tags': tags, 'split': split})
    rows[-1]['text'] = f'clip número {k}' if k else ''
  (root / 'labels.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  return root


@pytest.fixture
def pair(folder, tmp_path):
  """The source of the folder, and that of an index of it."""
  source = open_source(folder)
  (tmp_path / 'index').mkdir()
  index.write_files(source, tmp_path / 'index' / index.FILE)
  return source, open_source(tmp_path / 'index')


def same(a, b):
  assert [e.id for e in a] == [e.id for e in b] and [e.path for e in a] == [e.path for e in b]
  assert a.column_names == b.column_names
  for name in a.column_names:
    assert a.column(name) == b.column(name) and a.classes(name) == b.classes(name)
    assert [e.columns[name] for e in a] == [e.columns[name] for e in b]
  np.testing.assert_array_equal(a.durations(), b.durations())


def test_an_index_holds_what_the_folder_holds(pair):
  source, indexed = pair
  same(source, indexed)
  assert indexed.fingerprint() == source.fingerprint() and indexed.name == 'clips'
  np.testing.assert_array_equal(
    decode(indexed[3], sample_rate=16000), decode(source[3], sample_rate=16000)
  )
  for selected in (
    lambda s: s.split('test'),
    lambda s: s.split('train+test'),
    lambda s: s.where({'label': 'a'}),
    lambda s: s.where({'tags': ['seven', 'small']}).split('train'),
    lambda s: s.where({'text': ['clip número 3', 'clip número 10', '']}),
    lambda s: s.select([5, 2, 2]),
    lambda s: pool([s.split('test'), s]),
    lambda s: windows(s, 0.08, shortest=0.01),
  ):
    same(selected(source), selected(indexed))
  with pytest.raises(InputError, match=r"Unknown split .*Did you mean 'train'"):
    indexed.split('trian')
  with pytest.raises(InputError, match='No clip'):
    indexed.where({'text': 'clip numero 3'})


def test_batches_of_an_index_are_those_of_the_folder(pair):
  settings = dict(batch_size=4, buckets=2, seed=3)
  settings['fields'] = make(dict(label='label', tags=dict(name='label', args=dict(column='tags'))))
  ours = [iter(train_batches(s, **settings, weights='balanced')) for s in pair]
  for _ in range(5):
    a, b = map(next, ours)
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])
  assert ours[0].get_state() == ours[1].get_state()
  for each in ours:
    each.close()


def test_a_copy_for_a_worker_is_small_and_opens_the_file_again(pair):
  _, indexed = pair
  for source in (indexed, indexed.split('train'), indexed.select([3, 1])):
    sent = pickle.dumps(source)
    assert len(sent) < 1000
    same(source, pickle.loads(sent))
    assert pickle.loads(sent).fingerprint() == source.fingerprint()
  assert len({indexed.select(r).fingerprint() for r in ([0, 1], [1, 0], [0], range(12))}) == 4


@pytest.mark.slow
def test_worker_processes_open_the_index_themselves(pair):
  settings = dict(batch_size=4, seconds=0.1, fields=make(dict(label='label')))
  ours, theirs = (
    iter(train_batches(pair[1], **settings, num_workers=n)) for n in (0, 2)
  )  # fmt: skip
  for _ in range(6):
    a, b = next(ours), next(theirs)
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])
  ours.close()
  theirs.close()


def test_rows_are_sent_as_bits():
  table = Table('many', [str(i) for i in range(50_000)], {}, lambda row: {})
  table.stored = index.Stored('', np.zeros(0), (table_of_many, 50_000))
  source = Source(table, np.flatnonzero(np.arange(50_000) % 20))
  sent = pickle.dumps(source)
  assert len(sent) < 20_000
  np.testing.assert_array_equal(pickle.loads(sent).rows, source.rows)


def table_of_many(count):
  return Table('many', [str(i) for i in range(count)], {}, lambda row: {})


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda data: data[:-7], 'it is truncated'),
    (lambda data: data[:300], 'damaged or truncated in its header'),
    (lambda data: data[:90] + b'x' + data[91:], 'damaged or truncated in its header'),
    (lambda data: b'', 'is not an index of clips'),
    (lambda data: b'oidoidx9' + data[8:], "has format 'oidoidx9', but 'oidoidx1' is expected"),
    (lambda data: data[:8] + b'\xff' * 8 + data[16:], 'damaged or truncated in its header'),
  ],
)
def test_a_damaged_index_is_refused(pair, tmp_path, change, message):
  path = tmp_path / 'index' / index.FILE
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(InputError, match=message) as caught:
    open_source(tmp_path / 'index')
  assert str(path) in str(caught.value)


def test_the_checksum_is_of_all_that_is_written(pair, tmp_path):
  path = tmp_path / 'index' / index.FILE
  spec = {'name': 'index', 'args': {'path': str(tmp_path / 'index'), 'verify': True}}
  assert len(open_source(spec)) == 12
  data = bytearray(path.read_bytes())
  data[-65] ^= 1
  path.write_bytes(data)
  assert len(open_source(tmp_path / 'index')) == 12
  with pytest.raises(InputError, match='does not match its checksum'):
    open_source(spec)


def test_names_may_be_any_bytes_and_ids_are_unique(tmp_path):
  given = dict(values={}, label_sets={}, splits={}, absent={}, about={'root': '/'})
  ids = ['caf\udce9.wav', 'a\nb', '']
  index.write(tmp_path / index.FILE, name='n', ids=ids, seconds=np.full(3, np.nan), **given)
  assert list(index.read(tmp_path / index.FILE).texts('ids')) == ids
  with pytest.raises(InputError, match='lists a clip twice'):
    index.write(tmp_path / 'x', name='n', ids=['a', 'a'], seconds=np.zeros(2), **given)
  assert not (tmp_path / 'x').exists()


def test_many_texts_are_no_codes(tmp_path):
  values = [f'{i % 700}' for i in range(1000)]
  arrays = {}
  assert columns.store('c', values, arrays) == 'texts'
  arrays = {}
  assert columns.store('c', [f'{i % 200}' for i in range(1000)], arrays) == 'codes'
  assert arrays['c.codes'].dtype == np.uint8


def test_the_audio_may_have_moved(pair, folder, tmp_path):
  folder.rename(tmp_path / 'moved')
  spec = {'name': str(tmp_path / 'index'), 'args': {'audio': str(tmp_path / 'moved')}}
  assert len(decode(open_source(spec)[0], sample_rate=16000)) == 1600
  assert pickle.loads(pickle.dumps(open_source(spec)))[0].path.startswith(str(tmp_path / 'moved'))


def test_only_files_are_indexed(tmp_path):
  cut = windows(open_source('builtin').select([0]), 0.1)
  with pytest.raises(InputError, match=r'is not a folder of audio files.*without --index_only'):
    index.write_files(cut, tmp_path / index.FILE)


def test_a_manifest_gives_durations(folder, tmp_path, monkeypatch):
  monkeypatch.setattr(durations, 'measure', lambda ids, locate, rows: np.full(len(rows), 0.5))
  for name, values, expected in (
    ('seconds', ['1.5', '2', ''], [1.5, 2.0, 0.5]),
    ('duration', ['3', '0.25', '1'], [3.0, 0.25, 1.0]),
    ('duration', ['long', 'short', '3'], [0.5] * 3),  # Not numbers: labels.
  ):
    lines = [f'path,{name},label', *(f'{k}.wav,{v},x' for k, v in enumerate(values))]
    (folder / 'm.csv').write_text('\n'.join(lines))
    source = open_source({'name': 'folder', 'args': {'path': str(folder), 'manifest': 'm.csv'}})
    np.testing.assert_array_equal(source.durations(), expected)
    assert (name in source.column_names) == ('long' in values)


@pytest.mark.parametrize('path', ['../secret.wav', '/etc/secret.wav', 'a/../../secret.wav'])
def test_an_index_reads_nothing_outside_of_its_folder(path, tmp_path):
  index.write(
    tmp_path / index.FILE, name='bad', ids=['0'], seconds=np.ones(1), values={}, label_sets={},
    splits={}, absent={}, about={'root': str(tmp_path / 'audio')}, texts={'paths': [path]},
  )  # fmt: skip
  source = open_source({'name': 'index', 'args': {'path': str(tmp_path)}})
  with pytest.raises(InputError, match='leaves that folder'):
    next(iter(train_batches(source, batch_size=1, seconds=1.0)))


def test_the_index_of_other_shards_is_noticed(folder, tmp_path):
  from research.audio import prepare

  for name, count in (('one', 2), ('two', 3)):
    prepare.prepare(open_source(folder), tmp_path / name, count=count, settings=prepare.Settings())
  (tmp_path / 'one' / index.FILE).write_bytes((tmp_path / 'two' / index.FILE).read_bytes())
  with pytest.raises(InputError, match='is not the index of the shards beside it'):
    open_source(tmp_path / 'one')


def test_the_command_indexes_a_folder(folder, tmp_path):
  out = tmp_path / 'made'
  flags = ('--index_only', '--split=train')
  done = runner.run('launch.prepare_data', f'--source={folder}', f'--out={out}', *flags)
  assert done.returncode == 0, done.stderr
  assert '8 clips' in done.stdout
  same(open_source(folder).split('train'), open_source(out))
  assert open_source(out).table.seconds[0] == pytest.approx(0.1)  # Without a look at a file.
  assert not list(cache_folder().glob('durations-*'))


def test_an_index_does_not_hide_the_files_it_is_made_of(folder):
  flags = (f'--source={folder}', f'--out={folder}', '--index_only')
  done = runner.run('launch.prepare_data', *flags)
  assert done.returncode == 2 and 'give a folder outside of it' in done.stderr

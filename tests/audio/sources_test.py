import json
import os
import pickle

import ml_collections
import numpy as np
import pytest
import soundfile

from research.audio import durations
from research.audio.decode import decode
from research.audio.sources import open_source, pool, windows
from research.errors import InputError


def csv(folder, *lines):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'labels.csv').write_text('\n'.join(lines) + '\n')


def test_a_folder_without_a_manifest(tmp_path, write):
  for name in ('b.wav', 'deep/er/a.FLAC', 'deep/c.ogg', '.hidden/d.wav', 'notes.txt'):
    write(tmp_path / name, format='OGG' if name.endswith('ogg') else 'WAV')
  source = open_source(str(tmp_path))
  assert [e.id for e in source] == ['b.wav', 'deep/c.ogg', 'deep/er/a.FLAC']
  assert source.column('folder') == ['', 'deep', 'deep/er']
  assert source.name == tmp_path.name
  assert [os.path.exists(e.path) for e in source] == [True] * 3


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path, write):
  write(tmp_path / 'data' / 'a.wav')
  write(tmp_path / 'elsewhere' / 'b.wav')
  (tmp_path / 'data' / 'there').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'data' / 'back').symlink_to(tmp_path / 'data')
  assert [e.id for e in open_source(str(tmp_path / 'data'))] == ['a.wav', 'there/b.wav']


def test_a_csv_manifest(tmp_path, write):
  write(tmp_path / 'audio' / 'one.wav')
  csv(
    tmp_path,
    'path,label,labels,split,fold',
    'audio/one.wav,"dog, big",bark; howl,train,1',
    './audio/two.wav,cat,,test,2',
  )
  source = open_source(str(tmp_path))
  assert [e.id for e in source] == ['audio/one.wav', 'audio/two.wav']
  assert source[0].columns == {
    'label': 'dog, big',
    'labels': ['bark', 'howl'],
    'split': 'train',
    'fold': '1',
  }
  assert source.column('labels') == [['bark', 'howl'], []]
  assert source.classes('labels') == ('bark', 'howl')


def test_a_jsonl_manifest(tmp_path):
  rows = [
    {'path': 'a.wav', 'label': ['x', 'y'], 'n': 3, 'ok': True},
    {'path': 'b.wav', 'label': ['x'], 'extra': None},
  ]
  (tmp_path / 'labels.jsonl').write_text('\n\n'.join(json.dumps(r) for r in rows))
  source = open_source(str(tmp_path))
  assert source.column('label') == [['x', 'y'], ['x']]
  assert source.column('n') == ['3', '']
  assert source.column('ok') == ['true', '']
  assert source.column('extra') == ['', '']


@pytest.mark.parametrize(
  ('path', 'why'),
  [
    ('../secret.wav', 'goes up by'),
    ('audio/../../secret.wav', 'goes up by'),
    ('/etc/passwd', 'is absolute'),
    ('~/x.wav', 'is absolute'),
    ('out.wav', 'is a link that leads out'),
    ('outdir/secret.wav', 'is a link that leads out'),
    ('deep/out.wav', 'is a link that leads out'),
  ],
)
def test_a_path_that_leaves_the_root_is_refused(tmp_path, write, path, why):
  root = tmp_path / 'root'
  write(tmp_path / 'secret.wav')
  write(root / 'a.wav')
  (root / 'out.wav').symlink_to('../secret.wav')
  (root / 'outdir').symlink_to(tmp_path)
  (root / 'deep').mkdir()
  (root / 'deep' / 'out.wav').symlink_to(tmp_path / 'secret.wav')
  csv(root, 'path,label', 'a.wav,x', f'{path},y')
  with pytest.raises(InputError, match=why) as caught:
    open_source(str(root))
  assert 'line 3' in str(caught.value) and path in str(caught.value)


def test_links_inside_the_root_and_a_linked_root_are_fine(tmp_path, write):
  write(tmp_path / 'real' / 'a.wav')
  (tmp_path / 'real' / 'b.wav').symlink_to('a.wav')
  (tmp_path / 'root').symlink_to(tmp_path / 'real')
  csv(tmp_path / 'real', 'path', 'a.wav', 'b.wav')
  assert len(open_source(str(tmp_path / 'root'))) == 2


@pytest.mark.parametrize(
  ('lines', 'message'),
  [
    (['file,label', 'a.wav,x'], 'no column "path" .it has: file, label'),
    (['path,label', 'a.wav'], 'line 2: 1 fields, the header names 2'),
    (['path,label', 'a.wav,x,y'], 'line 2: 3 fields'),
    (['path,label', ',x'], 'line 2: no "path"'),
    (['path,label'], 'has no rows'),
    (['path,path', 'a,b'], 'names a column twice'),
    (['path', 'a.wav', 'a.wav'], "lists 'a.wav' twice"),
    (['path,label', 'a.wav,"x'], 'not a csv row'),
  ],
)
def test_manifests_that_cannot_be_used(tmp_path, lines, message):
  csv(tmp_path, *lines)
  with pytest.raises(InputError, match=message):
    open_source(str(tmp_path))


@pytest.mark.parametrize(
  ('text', 'message'),
  [('{"path": "a.wav"\n', 'line 1: not JSON'), ('[1]\n', 'line 1: not a JSON object')],
)
def test_jsonl_that_cannot_be_used(tmp_path, text, message):
  (tmp_path / 'labels.jsonl').write_text(text)
  with pytest.raises(InputError, match=message):
    open_source(str(tmp_path))


def test_a_manifest_of_bytes(tmp_path):
  (tmp_path / 'labels.csv').write_bytes(b'path\n\xff\xfe.wav\n')
  with pytest.raises(InputError, match='not UTF-8'):
    open_source(str(tmp_path))


def test_missing_data(tmp_path, monkeypatch):
  with pytest.raises(InputError, match='does not exist'):
    open_source(str(tmp_path / 'nothing'))
  (tmp_path / 'file').write_text('x')
  with pytest.raises(InputError, match='is a file'):
    open_source(str(tmp_path / 'file'))
  with pytest.raises(InputError, match='holds no audio files'):
    (tmp_path / 'empty').mkdir()
    open_source(str(tmp_path / 'empty'))
  with pytest.raises(InputError, match=r"Unknown data source 'esc5'. Did you mean 'esc50'"):
    open_source('esc5')
  with pytest.raises(InputError, match=r"'esc50' has to be on disk: .*meta/esc50.csv"):
    open_source('esc50')
  with pytest.raises(InputError, match=f"'esc50' was not found: .*Looked in {tmp_path}, "):
    open_source('esc50', root=tmp_path)
  monkeypatch.setenv('OIDO_DATA', str(tmp_path / 'empty'))
  with pytest.raises(InputError, match='Looked in'):
    open_source('esc50')


def test_arguments(tmp_path, write):
  write(tmp_path / 'a.wav')
  with pytest.raises(InputError, match=r"Unknown argument of data source folder 'pth'"):
    open_source({'name': 'folder', 'args': {'path': str(tmp_path), 'pth': 1}})
  with pytest.raises(InputError, match="Unknown key of a data source 'arg'"):
    open_source({'name': 'folder', 'arg': {}})
  with pytest.raises(InputError, match='needs a path in its args'):
    open_source({'name': 'folder'})
  with pytest.raises(InputError, match='is not a data source'):
    open_source({'path': 'x'})
  with pytest.raises(InputError, match='list of data sources is empty'):
    open_source([])
  config = ml_collections.ConfigDict({'name': 'folder', 'args': {'path': str(tmp_path)}})
  assert len(open_source(config)) == 1
  assert len(open_source({'name': tmp_path.name}, root=tmp_path.parent)) == 1


def test_a_command_line_describes_data_in_json(tmp_path, write):
  write(tmp_path / 'a.wav', 3.0)
  one = {'name': str(tmp_path), 'args': {'cut_seconds': 1.0}}
  assert len(open_source(json.dumps(one))) == 3
  assert len(open_source(json.dumps([one, 'builtin']))) == 3 + len(open_source('builtin'))
  with pytest.raises(InputError, match=r'is not JSON \(Expecting'):
    open_source("{'name': 'builtin'}")
  (tmp_path / '[mine]').mkdir()  # a valid folder name
  write(tmp_path / '[mine]' / 'b.wav')
  assert len(open_source('[mine]', root=tmp_path)) == 1


@pytest.fixture
def labelled(tmp_path):
  csv(
    tmp_path,
    'path,label,split,kind',
    'a.wav,10,train,n',
    'b.wav,9,test,n',
    'c.wav,2,train,n',
    'd.wav,,train,n',
    'e.wav,dog,valid,m',
  )
  return open_source(str(tmp_path))


def test_splits(labelled):
  train = labelled.split('train')
  assert train.column('label') == ['10', '2', '']
  assert train.classes('label') == ('10', '2', '9', 'dog')  # Over all splits.
  assert labelled.split('train+test').column('label') == ['10', '9', '2', '']
  with pytest.raises(InputError, match=r"Unknown split .* 'tset'. Did you mean 'test'"):
    labelled.split('tset')


def test_where_selects_classes_too(labelled):
  numbers = labelled.where({'kind': 'n'})
  assert numbers.classes('label') == ('2', '9', '10')  # Sorted as numbers.
  assert numbers.split('train').classes('label') == ('2', '9', '10')
  assert labelled.where({'label': ['dog', 9]}).column('label') == ['9', 'dog']
  with pytest.raises(InputError, match='No clip'):
    labelled.where({'kind': 'z'})
  with pytest.raises(InputError, match=r"Unknown column .* 'kid'. Did you mean 'kind'"):
    labelled.where({'kid': 'n'})


def test_a_source_without_splits(tmp_path, write):
  write(tmp_path / 'a.wav')
  with pytest.raises(InputError, match='no column "split"'):
    open_source(str(tmp_path), split='train')


def test_selections_and_fingerprints(labelled):
  assert [e.id for e in labelled.select([3, 1])] == ['d.wav', 'b.wav']
  assert labelled.select([3, 1]).select(np.array([1])).id(0) == 'b.wav'
  assert labelled.fingerprint() == labelled.select(range(5)).fingerprint()
  prints = {labelled.select(r).fingerprint() for r in ([0, 1], [1, 0], [0], [0, 2])}
  assert len(prints) == 4
  assert pickle.loads(pickle.dumps(labelled)).fingerprint() == labelled.fingerprint()
  with pytest.raises(IndexError):
    labelled[5]


def test_pooled_sources(tmp_path, write):
  for name in ('one', 'two'):
    for k in range(2):
      write(tmp_path / name / f'{k}.wav', 0.1 * (k + 1), seed=k)
  csv(tmp_path / 'one', 'path,label,split', '0.wav,a,train', '1.wav,b,test')
  csv(tmp_path / 'two', 'path,label,speaker,split', '0.wav,c,s,train', '1.wav,a,t,train')
  paths = [str(tmp_path / n) for n in ('one', 'two', 'one')]
  both = open_source(paths)
  assert [e.id for e in both] == [
    'one/0.wav', 'one/1.wav', 'two/0.wav', 'two/1.wav', 'one#2/0.wav', 'one#2/1.wav',
  ]  # fmt: skip
  assert both.column('speaker') == ['', '', 's', 't', '', '']
  assert both.classes('label') == ('a', 'b', 'c')
  assert both[3].path == str(tmp_path / 'two' / '1.wav')
  np.testing.assert_allclose(both.durations(), [0.1, 0.2] * 3)
  part = open_source([paths[0], {'name': paths[1], 'args': {'split': 'train'}}], split='test')
  assert [e.id for e in part] == ['one/1.wav', 'two/0.wav', 'two/1.wav']
  assert part.classes('label') == ('a', 'b', 'c')


def test_windows_cut_long_files(tmp_path, write):
  audio = write(tmp_path / 'long.wav', 7.4)
  write(tmp_path / 'short.wav', 1.5)
  cut = open_source({'name': str(tmp_path), 'args': {'cut_seconds': 3.0}})
  assert [e.id for e in cut] == ['long.wav@0', 'long.wav@3', 'long.wav@6', 'short.wav']
  np.testing.assert_allclose(cut.durations(), [3.0, 3.0, 1.4, 1.5])
  got = decode(cut[1], sample_rate=16000)
  np.testing.assert_array_equal(got, audio[48000:96000])
  twice = windows(pool([cut]), 2.0)
  np.testing.assert_array_equal(decode(twice[1], sample_rate=16000), audio[32000:48000])
  assert len(windows(open_source(str(tmp_path)), 7.0)) == 2  # A last window of 0.4 s is dropped.


def test_durations_come_from_headers_once(tmp_path, write, monkeypatch):
  write(tmp_path / 'a.flac', 0.25)
  write(tmp_path / 'b.wav', 0.5, rate=8000)
  (tmp_path / 'c.wav').write_text('not audio')
  source = open_source(str(tmp_path))
  np.testing.assert_allclose(source.durations(), [0.25, 0.5, 0.0])
  monkeypatch.setattr(soundfile, 'SoundFile', None)
  np.testing.assert_allclose(source.select([1]).durations(), [0.5])


def test_durations_of_many_files_are_kept_on_disk(tmp_path, write, monkeypatch):
  monkeypatch.setattr(durations, 'CACHE_FROM', 2)
  write(tmp_path / 'a.wav', 0.25)
  write(tmp_path / 'b.wav', 0.5)
  np.testing.assert_allclose(open_source(str(tmp_path)).durations(), [0.25, 0.5])
  opened = []
  real = soundfile.SoundFile
  monkeypatch.setattr(soundfile, 'SoundFile', lambda *a: opened.append(a) or real(*a))
  np.testing.assert_allclose(open_source(str(tmp_path)).durations(), [0.25, 0.5])
  assert not opened
  write(tmp_path / 'a.wav', 0.75)  # A changed file is measured again.
  np.testing.assert_allclose(open_source(str(tmp_path)).durations(), [0.75, 0.5])
  assert opened


def test_the_builtin_corpus():
  source = open_source('builtin')
  assert 600 <= len(source) <= 1200
  assert set(source.column_names) == {'label', 'speaker', 'fold', 'split', 'transcript', 'kind'}
  digits = open_source({'name': 'builtin', 'args': {'where': {'kind': 'digit'}}}, split='test')
  assert len(digits.classes('label')) == 10 and len(digits) == 50
  with pytest.raises(InputError, match="Unknown argument of data source builtin 'path'"):
    open_source({'name': 'builtin', 'args': {'path': 'x'}})

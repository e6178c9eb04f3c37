"""Every form of data: found by its form, read with its columns and durations, and the same after
prepare_data."""

import pathlib
import pickle

import numpy as np
import pytest
import soundfile

from launch.inputs import open_input
from research.audio import manifests, prepare
from research.audio.decode import decode
from research.audio.sources import open_source
from research.evals import tasks
from tests.audio.manifests import trees

# Of these the manifest tells no durations.
UNTOLD = ('webdataset', 'parquet', 'saved_to_disk', 'audiofolder', 'class_folders')


@pytest.fixture(params=trees.TREES)
def tree(request, tmp_path):
  made = trees.TREES[request.param](tmp_path / request.param)
  return {'order': (0, 1, 2), 'name': request.param, **made}


def check(source, tree):
  assert [source.id(i) for i in range(len(source))] == tree['ids']
  for name, values in tree['columns'].items():
    assert source.column(name) == list(values), name
  for example, k in zip(source, tree['order'], strict=True):
    np.testing.assert_array_equal(decode(example, sample_rate=trees.RATE), trees.clip(k))


def test_it_is_read_and_the_same_as_shards(tree, tmp_path, monkeypatch):
  source = open_source(str(tree['path']))
  if tree['name'] not in UNTOLD:  # known before any clip is opened
    with monkeypatch.context() as patched:
      patched.setattr(soundfile, 'SoundFile', None)
      known = source.durations() if tree['name'] not in ('kaldi', 'list_of_segments') else None
      assert known is None or known.tolist() == [trees.LENGTHS[k] for k in tree['order']]
  np.testing.assert_allclose(source.durations(), [trees.LENGTHS[k] for k in tree['order']])
  check(source, tree)
  check(pickle.loads(pickle.dumps(source)), tree)
  assert [e.id for e in open_input(str(tree['path']))] == tree['ids']

  settings = prepare.Settings('pcm16', trees.RATE, 0)
  prepare.prepare(source, tmp_path / 'shards', count=2, settings=settings)
  shards = open_source(str(tmp_path / 'shards'))
  check(shards, tree)
  assert shards.column_names == source.column_names
  assert all(shards.classes(n) == source.classes(n) for n in source.column_names)
  np.testing.assert_array_equal(shards.recordings(), source.recordings())


def test_splits(tree):
  source = open_source(str(tree['path']))
  if 'split' not in tree['columns']:
    assert 'split' not in source.column_names
    return
  assert len(source.split('train')) == 2
  if 'test' not in tree['columns']['split']:  # dev and validation are found as valid too
    assert len(source.split('valid')) == 1


def test_forms_can_be_named(tree):
  forms = {
    'kaldi_files': 'kaldi', 'parquet': 'huggingface', 'saved_to_disk': 'huggingface',
    'class_folders': 'audiofolder', 'list_of_segments': 'list',
  }  # fmt: skip
  form = forms.get(tree['name'], tree['name'])
  named = open_source({'name': form, 'args': {'path': str(tree['path'])}})
  assert named.fingerprint() == open_source(f'{form}:{tree["path"]}').fingerprint()
  assert [e.id for e in named] == tree['ids']


def test_they_are_tasks(tree):
  task = tasks.get(str(tree['path']))
  assert [e.id for e in tasks._open(task, None)[0]] == tree['ids']
  column = tasks.get(f'{tree["path"]}:speaker')
  assert column.label == 'speaker' and column.folders == task.folders


def test_every_form_is_tested_and_documented(tmp_path):
  text = pathlib.Path(manifests.__file__).parents[1].joinpath('README.md').read_text()
  assert all(f'| `{name}` |' in text for name in manifests.names())
  made = {manifests.recognise(f(tmp_path / n)['path']) for n, f in trees.TREES.items()}
  assert made - {None} == set(manifests.names())

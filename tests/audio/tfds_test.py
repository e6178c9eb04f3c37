"""Prepared TFDS data, read without TensorFlow."""

import importlib.util
import json
import pickle

import numpy as np
import pytest

from research.audio.decode import AudioError, decode
from research.audio.fields import make
from research.audio.pipeline import train_batches
from research.audio.sources import open_source
from research.audio.tfds import TfdsRecords, find, prepare, retype
from research.errors import InputError

tfds = pytest.importorskip('tensorflow_datasets')

AUDIO = {
  'pythonClassName': 'tensorflow_datasets.core.features.audio_feature.Audio',
  'audio': {
    'shape': {'dimensions': ['-1']},
    'dtype': 'int64',
    'fileFormat': 'wav',
    'sampleRate': '8000',
    'encoding': 'NONE',
    'lazyDecode': False,
  },
}
PCM = [(1000 * np.sin(np.arange(800 + 80 * k) * 0.1 * (k + 1))).astype(np.int64) for k in range(5)]


def described_as_audio(folder, name='audio', **changes):
  """Rewrites features.json as TFDS does for its Audio feature, which needs TensorFlow."""
  features = json.loads((folder / 'features.json').read_text())
  features['featuresDict']['features'][name] = AUDIO | {'audio': AUDIO['audio'] | changes}
  (folder / 'features.json').write_text(json.dumps(features))


@pytest.fixture
def prepared(tmp_path):
  """A data set of three clips in `train` and two in `test`, written by `download_and_prepare`."""

  class TinySpeech(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      features = {
        'audio': tfds.features.Tensor(shape=(None,), dtype=np.int64),
        'label': tfds.features.ClassLabel(names=['yes', 'no']),
        'text': tfds.features.Text(),
        'chapter_id': np.int64,
      }
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples(0, 3), 'test': self._generate_examples(3, 5)}

    def _generate_examples(self, low, high):
      for k in range(low, high):
        yield k, {'audio': PCM[k], 'label': k % 2, 'text': f'TEXT {k}', 'chapter_id': k * 7}

  TinySpeech(data_dir=tmp_path, file_format='array_record').download_and_prepare()
  folder = tmp_path / 'tiny_speech' / '1.0.0'
  described_as_audio(folder)
  return folder


def test_a_prepared_data_set(prepared, tmp_path):
  source = open_source({'name': 'tfds:tiny_speech', 'args': {'data_dir': str(tmp_path)}})
  assert source.name == 'tfds:tiny_speech' and len(source) == 5
  by_text = {e.columns['text']: e for e in source}
  for k in range(5):
    example = by_text[f'TEXT {k}']
    assert example.columns == {
      'split': 'train' if k < 3 else 'test',
      'label': ('yes', 'no')[k % 2],
      'text': f'TEXT {k}',
      'chapter_id': str(7 * k),
    }
    np.testing.assert_array_equal(decode(example, sample_rate=8000), PCM[k] / 32768)
  assert source.classes('label') == ('yes', 'no')  # In the data set's order.
  assert sorted(source.durations()) == pytest.approx([0.1, 0.11, 0.12, 0.13, 0.14])
  assert len(source.split('test')) == 2
  # The folder is recognised by its contents; the second time, the scan is read from the cache.
  again = open_source(prepared)
  assert again.fingerprint() == source.fingerprint()
  assert pickle.loads(pickle.dumps(again))[4].array.dtype == np.int16


def test_batches(prepared):
  source = open_source(prepared, split='train')
  iterator = iter(
    train_batches(source, batch_size=3, seconds=0.1, fields=make(dict(label='label')))
  )
  for _ in range(3):
    batch = next(iterator)
    assert batch['audio'].shape == (3, 1600)
    assert np.abs(batch['audio']).max() == pytest.approx(1000 / 32768, rel=0.2)
  iterator.close()


def test_the_audio_feature_may_have_another_name(prepared):
  features = json.loads((prepared / 'features.json').read_text())
  inner = features['featuresDict']['features']
  inner['label'] = inner['audio']
  (prepared / 'features.json').write_text(json.dumps(features))
  with pytest.raises(InputError, match=r'2 audio features .*name one with audio='):
    open_source(prepared)
  with pytest.raises(InputError, match="no feature 'sound'"):
    open_source({'name': 'tfds', 'args': {'path': str(prepared), 'audio': 'sound'}})


def test_more_than_16_bits_are_refused_not_misread(prepared, monkeypatch):
  records = TfdsRecords(str(prepared), 'audio')
  with pytest.raises(AudioError, match='more than 16 bits'):
    records._audio(np.array([0, 1 << 20]))
  assert records._audio(np.array([0.5], np.float32))['array'].dtype == np.float32
  assert records._audio(b'RIFF...') == {'data': b'RIFF...'}


def test_retype_changes_only_audio():
  text = {'pythonClassName': 'tensorflow_datasets.core.features.text_feature.Text', 'text': {}}
  features = {'featuresDict': {'features': {'audio': AUDIO, 'text': text}}}
  inner = retype(features)['featuresDict']['features']
  assert inner['text'] == text
  assert inner['audio'] == {
    'pythonClassName': 'tensorflow_datasets.core.features.tensor_feature.Tensor',
    'tensor': {'shape': {'dimensions': ['-1']}, 'dtype': 'int64', 'encoding': 'none'},
  }
  lazy = retype(AUDIO | {'audio': AUDIO['audio'] | {'lazyDecode': True}})
  assert lazy['pythonClassName'].endswith('text_feature.Text') and 'audio' not in lazy


def test_what_is_not_prepared(tmp_path, prepared):
  spec = {'name': 'tfds', 'args': {'name': 'nsynth', 'data_dir': str(tmp_path)}}
  with pytest.raises(
    InputError, match=r'No prepared TFDS data set in .*nsynth.*--source=tfds:nsynth'
  ):
    open_source(spec)
  info = json.loads((prepared / 'dataset_info.json').read_text())
  (prepared / 'dataset_info.json').write_text(json.dumps(info | {'fileFormat': 'tfrecord'}))
  with pytest.raises(InputError, match='prepared as tfrecord, which needs TensorFlow'):
    open_source(prepared)
  (prepared / 'dataset_info.json').write_text('{')
  with pytest.raises(InputError, match='is not JSON'):
    open_source(prepared)


def test_configs_have_to_be_named(prepared, tmp_path):
  for config in ('clean', 'other'):
    folder = tmp_path / 'libri' / config / '2.1.0'
    folder.mkdir(parents=True)
    (folder / 'features.json').write_text('{}')
  with pytest.raises(InputError, match=r'several configs .clean, other'):
    find('libri', str(tmp_path), None)
  assert find('libri', str(tmp_path), 'other').parent.name == 'other'
  (tmp_path / 'libri' / 'clean' / '10.0.0').mkdir()
  (tmp_path / 'libri' / 'clean' / '10.0.0' / 'features.json').write_text('{}')
  assert find('libri', str(tmp_path), 'clean').name == '10.0.0'


@pytest.mark.skipif(importlib.util.find_spec('tensorflow') is not None, reason='TensorFlow is here')
def test_preparing_needs_tensorflow(tmp_path, prepared):
  with pytest.raises(InputError, match=r"'nsynth' needs TensorFlow, .*oido\[tfds\]"):
    prepare('nsynth', str(tmp_path))
  prepare('tiny_speech', str(tmp_path))  # Prepared already: nothing to do.

"""Manifests of other tools: no relative path leads out of their folder, by `..` or by a link, and
absolute paths are read where a person writes them for files of this machine, not elsewhere."""

import json

import numpy as np
import pytest
import soundfile

from research.audio.decode import AudioError, decode
from research.audio.sources import open_source
from research.errors import InputError

TONE = np.sin(np.arange(1600) * 0.1).astype(np.float32)


@pytest.fixture
def root(tmp_path):
  """A folder with a clip, and links out of it to a secret one."""
  folder = tmp_path / 'data'
  (folder / 'clips').mkdir(parents=True)
  for path in (folder / 'a.wav', folder / 'clips' / 'a.wav', tmp_path / 'secret.wav'):
    soundfile.write(path, TONE, 16000)
  for place in (folder, folder / 'clips'):
    (place / 'link.wav').symlink_to(tmp_path / 'secret.wav')
    (place / 'folder').symlink_to(tmp_path)
  return folder


def fairseq(root, path):
  (root / 'train.tsv').write_text(f'{root}\na.wav\t1600\n{path}\t1600\n')
  return root / 'train.tsv'


def kaldi(root, path):
  (root / 'wav.scp').write_text(f'a a.wav\nb {path}\n')
  return root


def lhotse(root, path):
  source = {'type': 'file', 'channels': [0], 'source': path}
  recording = {'id': 'r', 'sources': [source], 'sampling_rate': 16000, 'duration': 0.1}
  cut = {'id': 'c', 'start': 0, 'duration': 0.1, 'recording': recording, 'type': 'MonoCut'}
  (root / 'cuts.jsonl').write_text(json.dumps(cut))
  return root / 'cuts.jsonl'


def nemo(root, path):
  (root / 'm.json').write_text(json.dumps({'audio_filepath': path, 'duration': 0.1}))
  return root / 'm.json'


def audiofolder(root, path):
  (root / 'metadata.jsonl').write_text(json.dumps({'file_name': path}))
  return root


def common_voice(root, path):
  (root / 'train.tsv').write_text(f'client_id\tpath\tsentence\nx\t{path}\ty\n')
  return root


FORMS = {f.__name__: f for f in (fairseq, kaldi, lhotse, nemo, audiofolder, common_voice)}
OUTSIDE = {
  '../secret.wav': r'goes up by "\.\."',
  'x/../../secret.wav': r'goes up by "\.\."',
  'link.wav': 'is a link that leads out',
  'folder/secret.wav': 'is a link that leads out',
}


@pytest.mark.parametrize('path', OUTSIDE)
@pytest.mark.parametrize('form', FORMS)
def test_relative_paths_stay_below_their_folder(root, form, path):
  with pytest.raises(InputError, match=OUTSIDE[path]):
    open_source(f'{form}:{FORMS[form](root, path)}')


@pytest.mark.parametrize('form', FORMS)
def test_absolute_paths(root, form):
  secret = str(root.parent / 'secret.wav')
  if form in ('kaldi', 'lhotse', 'nemo'):
    source = open_source(f'{form}:{FORMS[form](root, secret)}')
    assert len(decode(source[len(source) - 1], sample_rate=16000)) == 1600
    with pytest.raises(InputError, match='goes up by'):
      open_source(f'{form}:{FORMS[form](root, f"{root}/../secret.wav")}')
    return
  if form == 'common_voice':  # below clips/, where it is a name
    source = open_source(f'{form}:{FORMS[form](root, secret)}')
    with pytest.raises(AudioError, match='cannot be opened'):
      decode(source[0], sample_rate=16000)
    return
  with pytest.raises(InputError, match='is absolute'):
    open_source(f'{form}:{FORMS[form](root, secret)}')


def test_the_root_of_fairseq_does_not_go_up(root):
  (root / 'train.tsv').write_text('../\nsecret.wav\t1600\n')
  with pytest.raises(InputError, match=r"train.tsv, line 1: the root '../' goes up"):
    open_source(str(root / 'train.tsv'))

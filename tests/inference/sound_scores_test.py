"""Scores of generated sounds: of files, columns and lists of what was asked for."""

import types

import numpy as np
import pytest
import soundfile

from research.audio import sources
from research.errors import InputError
from research.inference import sound_scores
from research.metrics import generation

RATE = 8000


class Spectrum:
  """Levels of four bands of a clip."""

  frontend = types.SimpleNamespace(sample_rate=RATE)

  def embed(self, clips, rate):
    assert rate == RATE
    bands = [np.array_split(np.abs(np.fft.rfft(x)), 4) for x in clips]
    return np.array([[np.log(band.mean() + 1e-6) for band in each] for each in bands])


def write(folder, count, seed, scale):
  folder.mkdir()
  rng = np.random.default_rng(seed)
  for i in range(count):
    x = scale * np.cumsum(rng.standard_normal(4000)) / 60
    soundfile.write(folder / f'{i}.wav', np.clip(x, -1, 1).astype(np.float32), RATE)
  return sources.open_source(str(folder))


def test_distances_of_folders(tmp_path):
  real = write(tmp_path / 'real', 40, 0, 0.3)
  near, far = write(tmp_path / 'near', 40, 1, 0.3), write(tmp_path / 'far', 10, 2, 0.03)
  close = sound_scores.distances(Spectrum(), near, real)
  other = sound_scores.distances(Spectrum(), far, real)
  a, b = (sound_scores.embeddings(Spectrum(), x) for x in (near, real))
  assert close['fad'] == generation.frechet_audio_distance(a, b) < other['fad'] / 10
  assert close['generated'] == 40 and close['fad_extrapolated'] < close['fad']
  assert 'fad_extrapolated' not in other
  (tmp_path / 'far/3.wav').write_bytes(b'no audio')
  with pytest.raises(InputError, match=r'3\.wav.*Leave it out'):
    sound_scores.embeddings(Spectrum(), sources.open_source(str(tmp_path / 'far')))


def test_texts_of_clips(tmp_path):
  made = write(tmp_path / 'made', 3, 0, 0.3)
  asked = {f'{i}.wav': {'label': name} for i, name in enumerate(('dog', 'rain', 'dog'))}
  assert sound_scores.texts(made, 'label', asked) == ['dog', 'rain', 'dog']
  with pytest.raises(InputError, match=r"3 clips of .* have no 'text', the first is '0\.wav'"):
    sound_scores.texts(made, 'text', asked)
  (tmp_path / 'made/labels.csv').write_text('path,label\n0.wav,a\n1.wav,b\n2.wav,c\n')
  own = sources.open_source(str(tmp_path / 'made'))
  assert sound_scores.texts(own, 'label', {}) == ['a', 'b', 'c']

"""Pauses are removed as by SoX; VoxCeleb1 without pauses is read for verification."""

import numpy as np
import pytest
import soundfile

from research.audio import mixtures
from research.audio.mixtures import pauses, writing
from research.errors import InputError
from tests.audio.superb_helpers import opened, text


def signal():
  """Bursts around the threshold, 16 bits."""
  rng = np.random.RandomState(3)
  levels = (0, 0.0009, 0.05, 0.0012, 0.3, 0.0005, 0.02, 0, 0.02, 0.0011, 0.2, 0)
  sizes = (3000, 4000, 5000, 1500, 900, 1700, 1599, 1600, 2500, 4000, 3000, 1000)
  parts = [np.round(a * 32768 * rng.standard_normal(n)) for a, n in zip(levels, sizes)]
  return np.clip(np.concatenate(parts), -32768, 32767).astype(np.int16)


def test_what_sox_keeps():
  """Recorded from SoX 14.4.2: `channels 1 rate 16000 gain -3.0 silence 1 0.1 0.1% -1 0.1 0.1%`."""
  audio = np.rint((signal().astype(np.int64) << 16) * 10 ** (-3 / 20))
  kept = pauses.speech(audio, 16000)
  edges = np.flatnonzero(np.diff(np.r_[0, kept.astype(int), 0])).reshape(-1, 2)
  assert edges.tolist() == [[7001, 22118], [25799, 29799]]
  assert kept.sum() == 19117 and int(audio[kept].sum()) == 36667124957


def test_edges():
  loud = np.full(1600, 1e9)
  assert pauses.speech(loud, 16000).all()  # 0.1 s is enough
  assert not pauses.speech(loud[:1599], 16000).any()
  assert not pauses.speech(np.zeros(5000), 16000).any() and not len(pauses.speech(loud[:0], 16000))
  # A pause at the end that is shorter than 0.1 s stays.
  assert pauses.speech(np.r_[loud, np.zeros(1500)], 16000).all()


def test_voxceleb_without_pauses(tmp_path):
  root = tmp_path / 'VoxCeleb1'
  audio = signal()
  clips = {
    'dev/wav/id10001/v/00001': np.tile(audio, 2),  # 38,000 of 59,598 samples stay
    'dev/wav/id10002/v/00001': audio,  # less than 2 s stays
    'dev/wav/id10003/v/00001': np.zeros(40_000, np.int16),
    'test/wav/id10270/v/00001': audio,
  }
  for path, samples in clips.items():
    (root / path).parent.mkdir(parents=True)
    soundfile.write(root / f'{path}.wav', samples, 16000, subtype='PCM_16')
  trials = '1 id10270/v/00001.wav id10270/v/00001.wav'
  text(root / 'veri_test2.txt', trials)
  out = tmp_path / 'out' / 'VoxCeleb1'
  out.parent.mkdir()
  writing.write(mixtures.recipe('voxceleb1', str(root)), out)
  source = opened('superb_asv', out)
  assert [e.id for e in source] == ['id10001/v/00001.flac', 'test/id10270/v/00001.wav']
  got, _ = soundfile.read(out / 'test' / 'wav' / 'id10270' / 'v' / '00001.flac', dtype='int16')
  np.testing.assert_array_equal(got, np.r_[audio[7001:22118], audio[25799:29799]])
  assert (out / 'veri_test2.txt').read_text().strip() == trials
  soundfile.write(root / 'dev/wav/id10001/v/00002.wav', np.zeros((100, 2)), 16000)
  with pytest.raises(InputError, match=r'00002\.wav: It has 2 channels of 16000 Hz, not one'):
    writing.write(mixtures.recipe('voxceleb1', str(root)), tmp_path / 'other')
  with pytest.raises(InputError, match='neither dev/wav nor test/wav'):
    mixtures.recipe('voxceleb1', str(tmp_path))

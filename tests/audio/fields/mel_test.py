"""Log-mel spectrograms as targets, and waveforms of them."""

import librosa
import numpy as np
import pytest
import soundfile

from research.audio.clips import Files, Source, Table
from research.audio.fields import Context, make
from research.audio.log_mel import LogMel, statistics
from research.errors import InputError
from tests.audio.fields.subwords_test import crops


def tone(seconds, rate=24_000):
  time = np.arange(round(seconds * rate)) / rate
  return (0.3 * np.sin(2 * np.pi * 440 * time * (1 + time))).astype(np.float32)


@pytest.mark.slow
def test_spectrogram_and_waveform():
  how, audio = LogMel(), tone(1.0)
  found = how.spectrogram(audio)
  assert found.shape == (how.frames(len(audio)), 80) == (94, 80)
  # By librosa's own mel spectrogram of magnitudes.
  want = librosa.feature.melspectrogram(
    y=audio, sr=24_000, n_fft=1024, hop_length=256, power=1.0, n_mels=80, fmin=80, fmax=7600,
    pad_mode='reflect',
  )  # fmt: skip
  np.testing.assert_allclose(found, np.log10(np.maximum(want, 1e-10)).T, atol=1e-4)
  made = how.waveform(found)
  np.testing.assert_array_equal(made, how.waveform(found))
  again = how.spectrogram(made)
  loud = found[: len(again)] > -1
  assert np.abs(again[: len(found)] - found[: len(again)])[loud].mean() < 0.1


def test_statistics():
  parts = [np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([[5.0, 2.0]])]
  mean, scale = statistics(parts)
  np.testing.assert_allclose(mean, [3.0, 2.0])
  np.testing.assert_allclose(scale, [np.std([1, 3, 5]), 1.0])


def test_targets_of_crops(tmp_path):
  audio = tone(0.5)
  for i, length in enumerate((12_000, 6000)):
    soundfile.write(tmp_path / f'{i}.wav', audio[:length], 24_000, subtype='FLOAT')
  files = ['0.wav', '1.wav']
  clips = Source(Table('toy', files, {}, Files(str(tmp_path), files)))
  (field,) = make(dict(mel={}))
  found = field.open(clips, Context(sample_rate=16_000)).arrays(crops([1, 0]))
  example = field.example(Context(sample_rate=16_000), 2, 8000)
  assert {k: x.shape for k, x in found.items()} == {k: x.shape for k, x in example.items()}
  assert found['mel_mask'].sum(axis=1).tolist() == [24, 47]
  np.testing.assert_array_equal(found['mel'][1], LogMel().spectrogram(audio))
  assert not found['mel'][0, 24:].any()
  with pytest.raises(InputError, match='0 <= lowest < highest'):
    make(dict(mel=dict(name='mel', args=dict(highest=13_000.0))))[0].open(
      clips, Context(sample_rate=16_000)
    )

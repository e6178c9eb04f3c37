"""Layers on disk: those of the system, clip by clip; the pipeline without audio."""

import dataclasses

import numpy as np
import pytest
import soundfile

from research.audio import pipeline, sources
from research.audio.fields.layers import Layers
from research.audio.frames import Frames
from research.errors import InputError
from research.evals import frame_cache
from research.features.frontend import Frontend
from research.inference.embedder import log_mel

RATE = 16_000
SAMPLES = (8_000, 12_345, 16_000, 4_321)


@pytest.fixture
def clips(tmp_path):
  folder = tmp_path / 'audio'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i, count in enumerate(SAMPLES):
    soundfile.write(folder / f'{i}.wav', 0.1 * rng.standard_normal(count), RATE)
  return sources.open_source(str(folder))


def embedder(**changes):
  made = log_mel(Frontend.create('kaldi_fbank', num_mel_bins=12))
  return dataclasses.replace(made, pool=None, **changes)


def of_clip(system, source, row):
  audio, _ = soundfile.read(source[row].path, dtype='float32')
  return system.embed(audio, RATE, pool='none', layers='all')


def test_frames_are_those_of_the_system(clips, tmp_path):
  system = embedder()
  frames = frame_cache.opened(system, clips, tmp_path / 'cache', dtype='float32')
  assert (frames.layers, frames.width, frames.hop, frames.sample_rate) == (1, 12, 160, RATE)
  for row in range(len(clips)):
    at = int(frames.rows([clips.id(row)])[0])
    got = frames.part(at, 0, frames.count(at))
    np.testing.assert_allclose(got[:, 0], of_clip(system, clips, row)[0], atol=1e-5)
  stored = frames.values.nbytes
  assert stored <= frame_cache.foretell(system, clips, 'float32') <= 1.1 * stored
  again = frame_cache.cache_frames(system, clips, tmp_path / 'cache', dtype='float32')
  assert again == frames.path


def test_long_clips_in_windows(clips, tmp_path):
  system = embedder(max_seconds=0.5)
  frames = frame_cache.opened(system, clips, tmp_path / 'cache', dtype='float32')
  whole = embedder()
  at = int(frames.rows([clips.id(2)])[0])
  parts = [
    whole.embed(soundfile.read(clips[2].path, dtype='float32')[0][a : a + 8000], RATE, pool='none')
    for a in (0, 8000)
  ]
  np.testing.assert_allclose(frames.part(at, 0, 999)[:, 0], np.concatenate(parts), atol=1e-5)


def test_clips_that_cannot_be_read_are_left_out(clips, tmp_path):
  with open(clips[1].path, 'wb') as file:
    file.write(b'nothing')
  frames = frame_cache.opened(embedder(), clips, tmp_path / 'cache')
  assert clips.id(1) not in frames and clips.id(0) in frames
  assert frames.values.dtype == np.float16
  assert list(frames.about['missing']) == [clips.id(1)]
  known = Layers('layers', str(frames.path)).known(clips)
  assert known.tolist() == [True, False, True, True]


def test_a_disk_that_is_too_small(clips, tmp_path, monkeypatch):
  monkeypatch.setattr(frame_cache.shutil, 'disk_usage', lambda path: type('', (), {'free': 1000}))
  with pytest.raises(InputError, match=r'but .* GiB free'):
    frame_cache.cache_frames(embedder(), clips, tmp_path / 'cache')


def test_batches_without_audio(clips, tmp_path, monkeypatch):
  frames = frame_cache.opened(embedder(), clips, tmp_path / 'cache', dtype='float32')
  monkeypatch.setattr('research.audio.decode.crop', None)  # nothing is decoded
  field = Layers('layers', str(frames.path))
  batches = pipeline.train_batches(clips, batch_size=4, seconds=0.5, fields=[field], epochs=1)
  (batch,) = list(batches)
  assert set(batch) == {'index', 'valid', 'layers', 'layers_mask'}
  assert batch['layers'].shape == (4, 50, 1, 12)
  for row, x, mask in zip(batch['index'], batch['layers'], batch['layers_mask']):
    whole = frames.part(int(frames.rows([clips.id(row)])[0]), 0, 999)
    real = x[mask]
    starts = [s for s in range(len(whole)) if np.array_equal(whole[s : s + len(real)], real)]
    assert starts and len(real) == min(50, round(SAMPLES[row] / 160), len(whole) - starts[0])
  for batch in pipeline.eval_batches(clips, batch_size=2, fields=[field]):
    rows = zip(batch['index'], batch['layers'], batch['layers_mask'], batch['valid'])
    for row, x, mask in ((r, x, m) for r, x, m, valid in rows if valid):
      stored = frames.part(int(frames.rows([clips.id(row)])[0]), 0, 999)
      np.testing.assert_array_equal(x[mask], stored)


def test_frames_of_other_audio_and_damaged_folders(clips, tmp_path):
  frames = frame_cache.opened(embedder(), clips, tmp_path / 'cache')
  soundfile.write(clips[0].path, np.zeros(40_000), RATE)
  other = sources.open_source(str(tmp_path / 'audio'))
  field = Layers('layers', str(frames.path))
  with pytest.raises(InputError, match='those of other audio'):
    list(pipeline.eval_batches(other, batch_size=4, fields=[field]))
  (frames.path / 'ids.txt').write_text('one\n')
  with pytest.raises(InputError, match='do not match'):
    Frames.open(frames.path)
  (frames.path / 'offsets.npy').unlink()
  with pytest.raises(InputError, match=r'not a folder of frames: offsets\.npy'):
    Frames.open(frames.path)

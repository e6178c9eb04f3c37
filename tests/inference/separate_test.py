"""Signals of masks, over windows of recordings of any length."""

import jax
import numpy as np
import pytest
import soundfile

from research.audio.sources import open_source
from research.errors import InputError
from research.inference import classic, separation, transcribe
from research.inference.separate import Separator, join, order
from research.inference.signal_files import separate_source, stem
from research.metrics.separation import si_sdr
from research.weights import Pretrained
from tests.inference.diarize_test import under
from tests.inference.toy_heads import RATE, VARIABLES, ToyHeads, tone

SECONDS = 5.3


def faded(seconds, place, start):
  """A tone that begins at `start`, without an edge that would be heard at other frequencies."""
  t = np.arange(round(seconds * RATE)) / RATE
  rise = np.clip((t - start) / 0.2, 0, 1) * np.clip((seconds - t) / 0.2, 0, 1)
  return tone(seconds, place) * np.sin(np.pi / 2 * rise).astype(np.float32) ** 2


def test_signals_of_ideal_masks_are_the_sources():
  sources = np.stack([faded(SECONDS, 1, 0.0), faded(SECONDS, 0, 0.8)])
  mixture = sources.sum(axis=0)
  for window in (16.0, 2.0):
    found = Separator(ToyHeads(), VARIABLES, window=window, overlap=0.5)(mixture, RATE)
    assert found.shape == sources.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, sources, atol=2e-3, err_msg=str(window))


def test_windows_in_another_order_make_the_whole():
  rng = np.random.default_rng(0)
  whole = rng.standard_normal((3, 1000)).astype(np.float32)
  orders = ([0, 1, 2], [2, 0, 1], [1, 0, 2])
  parts = [(s, whole[o, s : s + 400]) for s, o in zip((0, 300, 600), orders)]
  np.testing.assert_allclose(join(parts), whole, atol=1e-6)
  assert order(whole, whole[[1, 2, 0]]) == [2, 0, 1]
  # Signals that differ fade into each other over what both have.
  ramp = join([(0, np.zeros((1, 20))), (10, np.ones((1, 20)))])
  np.testing.assert_allclose(ramp[0], np.clip((np.arange(30) - 9.5) / 10, 0, 1), atol=1e-6)
  with pytest.raises(InputError, match='share no sample'):
    join([(0, whole[:, :10]), (10, whole[:, :10])])


@pytest.mark.slow
def test_one_window_is_as_superb_has_it():
  loaded = under('masks', signals=2, features=4, num_layers=1, hop=160)
  audio = 0.1 * np.random.default_rng(0).standard_normal(9000).astype(np.float32)
  batch = {'audio': audio[None], 'audio_mask': np.ones((1, 9000), bool)}
  out = jax.device_get(jax.jit(loaded.model.apply)(loaded.variables, batch))
  want = separation.signals(out['masks'], out['mixture'], [9000], hop=160)[0]
  got = loaded.separate(audio, RATE)
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert np.abs(want).max() > 1e-4
  # Windows pass whole frames on; silence stays silent.
  assert loaded.separate(audio, RATE, window=0.2, overlap=0.05).shape == (2, 9000)
  assert not loaded.separate(np.zeros(9000, np.float32), RATE).any()


def test_a_killed_job_goes_on(tmp_path, monkeypatch):
  """What is done is not done again, and the list is that of one run."""
  monkeypatch.setattr(transcribe, 'BLOCK_CLIPS', 2)
  folder = tmp_path / 'audio'
  folder.mkdir()
  for i in range(5):
    soundfile.write(folder / f'{i}.wav', (0.1 + 0.2 * i) * np.ones(800 + i), RATE)
  calls = []

  def loud(blocks, channels, die_at=None):
    audio = np.concatenate(list(blocks))
    if len(calls) == die_at:
      raise KeyboardInterrupt
    calls.append(len(audio))
    yield from np.split(2 * audio.T[None], [300], axis=-1)

  source = open_source(str(folder))
  how = dict(sample_rate=RATE, out=tmp_path / 'out', format='flac')
  with pytest.raises(KeyboardInterrupt):
    separate_source(lambda *x: loud(*x, die_at=3), source, **how)
  assert calls == [800, 801, 802] and not (tmp_path / 'out' / 'files.jsonl').exists()
  rows = separate_source(loud, source, **how)
  assert calls == [800, 801, 802, 802, 803, 804]  # the first two were written
  assert [row['files'] for row in rows] == [[f'{i}.flac'] for i in range(5)]
  # In FLAC a peak above 1 is scaled down.
  scales = [row.get('scale', 1.0) for row in rows]
  np.testing.assert_allclose(scales, [1, 1, 1, 1 / 1.4, 1 / 1.8], rtol=1e-4)
  heard = [soundfile.read(tmp_path / 'out' / f'{i}.flac')[0].max() for i in range(5)]
  np.testing.assert_allclose(heard, [0.2, 0.6, 1.0, 1.0, 1.0], atol=1e-4)
  with pytest.raises(InputError, match='is there already'):
    separate_source(loud, source, **how)
  assert stem('/data/../a/b.WAV') == 'data/a/b' and stem('v1.2') == 'v1.2'


@pytest.mark.slow
def test_any_length_and_channels_in_a_few_windows(tmp_path):
  """Two channels at another rate, block by block: what the whole gives, at the length that came."""
  rng = np.random.default_rng(0)
  separator = Separator(ToyHeads(), VARIABLES, window=2.0, overlap=0.5)
  left, right = (np.stack([faded(SECONDS, 1, 0.0), faded(SECONDS, 0, x)]) for x in (0.8, 1.6))
  both = np.stack([left.sum(axis=0), right.sum(axis=0)], axis=1)
  blocks = np.split(both, np.sort(rng.integers(1, len(both), 7)))
  found = np.concatenate(list(separator.stream(blocks, 'each')), axis=-1)
  np.testing.assert_allclose(found[:, 0], left, atol=2e-3)
  np.testing.assert_allclose(found[:, 1], right, atol=2e-3)
  # One mask for both leaves the ratio of the channels as it was.
  panned = np.stack([left.sum(axis=0), 0.5 * left.sum(axis=0)], axis=1)
  common = np.concatenate(list(separator.stream([panned], 'common')), axis=-1)
  np.testing.assert_allclose(0.5 * common[:, 0], common[:, 1], atol=1e-5)
  np.testing.assert_allclose(common[0, 0], left[0], atol=0.02)
  (tmp_path / 'in').mkdir()
  soundfile.write(tmp_path / 'in' / 'a.wav', both[:33333], 22_050, subtype='FLOAT')
  soundfile.write(tmp_path / 'in' / 'still.wav', np.zeros(9000), RATE)
  how = dict(channels='each', rate='input')
  rows = separate_source(
    separator.stream, open_source(str(tmp_path / 'in')), RATE, tmp_path / 'out', **how
  )
  heard, rate = soundfile.read(tmp_path / 'out' / 'a_1.wav')
  assert heard.shape == (33333, 2) and rate == 22_050
  assert rows[1]['error'] == 'It is silent: all its samples are 0.'
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == [
    'a_1.wav',
    'a_2.wav',
    'files.jsonl',
  ]


def test_classic_methods_take_away_steady_noise():
  rng = np.random.default_rng(0)
  # Syllables; what lasts is noise to one of them.
  t = np.arange(3 * RATE) / RATE
  clean = np.sin(2 * np.pi * (400 + 500 * np.floor(4 * t) % 1700) * t) * np.sin(4 * np.pi * t) ** 2
  clean = (0.7 * clean * (t > 1)).astype(np.float32)
  noisy = clean + 0.1 * rng.standard_normal(len(clean)).astype(np.float32)
  before = si_sdr(noisy, clean)
  for method in ('wiener', 'spectral_gate'):
    found = classic.separator(method)(noisy, RATE)
    assert found.shape == (1, len(clean))
    assert si_sdr(found[0], clean) > before + 5, method
    assert np.square(found[0, :12000]).mean() < 0.02 * np.square(noisy[:12000]).mean(), method


def test_what_cannot_be_is_a_sentence(tmp_path):
  loaded = under('masks', signals=1, features=4, num_layers=1, hop=160)
  audio = np.zeros(8000, np.float32)
  toy = Pretrained('toy', ToyHeads(), VARIABLES, 'made here')
  assert toy.separate(audio, RATE).shape == (2, 8000)
  for call, words in (
    (lambda: under('diarization', features=6).separate(audio, RATE), "with the head 'masks'"),
    (lambda: loaded.separate(audio[:50], RATE), 'is too short: 50 samples'),
    (lambda: loaded.separate(np.stack([audio, audio], 1), RATE), 'shape'),
    (lambda: loaded.separate(tmp_path / 'no.wav'), 'no.wav'),
    (lambda: loaded.separate(audio, RATE, overlap=20.0), 'cannot be'),
    (lambda: loaded.separate(audio, RATE, windw=2), "Did you mean 'window'"),
  ):
    with pytest.raises(InputError, match=words):
      call()

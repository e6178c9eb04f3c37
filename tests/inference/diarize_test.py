"""Who speaks when: by a head over chunks, and by clusters of voices."""

import jax
import numpy as np
import pytest
import soundfile

from research import models
from research.errors import InputError
from research.inference import activity
from research.inference.activity import Energy, levels
from research.inference.diarize import Diarizer, match, named, stitch
from research.inference.speaker_clusters import ClusterDiarizer, assign, clusters
from research.inference.speakers import SpeakerEncoder
from research.metrics.diarization import Segment, diarization_errors
from research.weights import Pretrained
from tests.inference.toy_heads import RATE, VARIABLES, ToyHeads, talk, tone
from tests.weights.toy import filled

# Two voices, one over the other for a while, and one alone where chunks begin.
TURNS = ((0.2, 2.0, 1), (1.6, 3.4, 0), (4.0, 5.0, 1), (5.2, 7.0, 0), (6.6, 9.0, 1))
REFERENCE = [Segment(a, b, f'voice {k}') for a, b, k in TURNS]


def under(head, **args):
  """A head with random weights on filter banks."""
  encoder = dict(name='fbank', args=dict(frontend=dict(name='superb_fbank_no_cmvn')))
  model = models.get('finetuned')(encoder=encoder, head=dict(name=head, args=args))
  return Pretrained('finetuned', model, filled(model), 'made here')


def toy(**args):
  return Diarizer(ToyHeads(), VARIABLES, median=1, **args)


def test_chunks_whose_speakers_are_swapped_make_the_whole():
  rng = np.random.default_rng(0)
  whole = (rng.random((200, 3)) > 0.5) * 0.8 + 0.1 * rng.random((200, 3))
  starts, orders = (0, 40, 80, 120), ([0, 1, 2], [2, 0, 1], [1, 0, 2], [2, 1, 0])
  parts = [(s, whole[s : s + 80][:, order]) for s, order in zip(starts, orders)]
  np.testing.assert_array_equal(stitch(parts), whole)
  # Noise on what both have does not confuse it, and the cut is in the middle of the overlap.
  noisy = [(s, x + 0.05 * (-1) ** i) for i, (s, x) in enumerate(parts)]
  sign = np.repeat([1, -1, 1, -1], [60, 40, 40, 60])
  np.testing.assert_allclose(stitch(noisy), whole + 0.05 * sign[:, None])
  assert match(np.eye(3), np.eye(3)[:, [1, 2, 0]]) == [2, 0, 1]
  with pytest.raises(InputError, match='share no frame'):
    stitch([(0, whole[:50]), (50, whole[50:])])


def test_a_long_recording_is_what_it_is_in_one_chunk():
  """The toy orders its outputs by who speaks first in a chunk: they have to be matched."""
  audio = talk(TURNS, 9.3)
  whole = toy().probabilities(audio, RATE)
  chunked = toy(chunk=150, overlap=50)
  assert len(whole) == ToyHeads().frontend.frames(len(audio))
  np.testing.assert_allclose(chunked.probabilities(audio, RATE), whole, atol=1e-6)
  assert chunked(audio, RATE) == toy()(audio, RATE)
  first = talk(TURNS, 9.3)[round(3.0 * RATE) :]
  swapped = toy().probabilities(first, RATE)  # here voice 0 speaks first
  assert (swapped[:10] > 0.5).any(axis=0).tolist() == [True, False]
  # Frames are of 20 ms and see 25: a turn has a frame more than it lasts at each side.
  errors = diarization_errors(REFERENCE, chunked(audio, RATE), collar=0.05)
  assert errors.rate == 0.0
  assert [s.speaker for s in chunked(audio, RATE)[:2]] == ['speaker_1', 'speaker_2']


def test_a_head_in_one_chunk_is_the_model():
  loaded = under('diarization', features=6)
  audio = talk(((0.2, 0.8, 0), (0.6, 1.1, 1)), 1.3)
  batch = {'audio': audio[None], 'audio_mask': np.ones((1, len(audio)), bool)}
  out = jax.jit(loaded.model.apply)(loaded.variables, batch)
  want = 1 / (1 + np.exp(-np.asarray(out['logits'][0], np.float64)))
  ours = Diarizer(loaded.model, loaded.variables)
  np.testing.assert_allclose(ours.probabilities(audio, RATE), want, atol=1e-5)
  assert ours.hop == 160 and ours.frame_seconds == 0.01
  threshold = float(np.median(want[:, 0]))
  found = loaded.diarize(audio, RATE, threshold=threshold, median=3)
  assert found == named(found) and found


def test_three_voices_are_clustered(tmp_path):
  turns = ((0.5, 3.0, 2), (3.5, 6.0, 0), (6.5, 8.2, 1), (9.0, 12.0, 2), (12.5, 12.9, 0))
  audio = talk(turns, 14.0)
  audio += 1e-3 * np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32)
  encoder = SpeakerEncoder(ToyHeads(), VARIABLES)
  reference = [Segment(a, b, str(k)) for a, b, k in turns]
  for how in (dict(speakers=3), dict(similarity=0.5)):
    found = ClusterDiarizer(encoder, **how)(audio, RATE)
    assert diarization_errors(reference, found, collar=0.03).rate == 0.0, how
    assert [s.speaker[-1] for s in found] == list('12312')
  assert {s.speaker for s in ClusterDiarizer(encoder, speakers=1)(audio, RATE)} == {'speaker_1'}
  # Stereo files are mixed; the toy behind `load` gives the same.
  soundfile.write(tmp_path / 'a.wav', np.stack([audio, audio], 1), RATE, subtype='FLOAT')
  loaded = Pretrained('toy', ToyHeads(), VARIABLES, 'made here')
  assert loaded.diarize(tmp_path / 'a.wav', speakers=3) == found
  assert ClusterDiarizer(encoder, speakers=2)(np.zeros(RATE, np.float32), RATE) == []


def test_clusters_and_frames():
  x = np.array([[1, 0.0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0.0]])
  assert clusters(x, similarity=0.5).tolist() == clusters(x, speakers=3).tolist()
  labels = clusters(x, speakers=3)
  assert labels[0] == labels[1] != labels[2] == labels[3] and len(set(labels)) == 3
  assert clusters(x[:1], speakers=3).tolist() == [0]
  # The border of two voices lies between the centres of their windows.
  active = np.arange(60) < 40
  run = np.zeros(2, np.int64)
  frames = assign(x[[0, 2]], np.array([0, 1]), np.array([10.0, 30.0]), run, active)
  assert frames.tolist() == [0] * 20 + [1] * 20 + [-1] * 20
  # A pause is a border too.
  active[25:30] = False
  frames = assign(x[[0, 2]], np.array([0, 1]), np.array([10.0, 35.0]), np.array([0, 1]), active)
  assert frames[active].tolist() == [0] * 25 + [1] * 10


def test_activity_is_by_energy(monkeypatch):
  audio = talk(((1.0, 2.0, 0), (2.1, 3.0, 1), (4.0, 4.02, 0)), 5.0)
  noise = 3e-3 * np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32)
  for x in (audio, audio + noise):
    (start, end), *rest = Energy().regions(x, RATE)  # a pause of 0.1 s is closed, a click dropped
    assert not rest and abs(start - 1.0) <= 0.025 and abs(end - 3.0) <= 0.025
  assert Energy().regions(np.zeros(8000, np.float32), RATE) == []
  assert Energy().regions(talk(((0, 1.0, 0),), 1.0), RATE) == [(0.0, 1.0)]
  assert Energy().regions(audio[:0], RATE) == []
  # Levels: a sine of 0.3 has -13.5 dB, whatever its offset; in blocks as at once.
  np.testing.assert_allclose(
    levels(tone(1.0, 0) + 0.5, RATE)[:98], 20 * np.log10(0.3 / 2**0.5), atol=0.01
  )
  whole = levels(audio + noise, RATE)
  monkeypatch.setattr(activity, 'BLOCK', 7)
  np.testing.assert_allclose(levels(audio + noise, RATE), whole, atol=1e-9)


def test_what_cannot_be_is_a_sentence(tmp_path):
  loaded, other = under('diarization', features=6), under('x_vector', width=8, pooled_width=10)
  audio = talk(((0.2, 0.8, 0),), 1.0)
  for call, words in (
    (lambda: other.diarize(audio, RATE), "give a model with the head 'diarization'"),
    (lambda: loaded.diarize(audio[:100], RATE), 'is too short: 100 samples'),
    (lambda: loaded.diarize(np.stack([audio, audio], 1), RATE), 'shape'),
    (lambda: loaded.diarize(tmp_path / 'no.wav'), 'no.wav'),
    (lambda: loaded.diarize(audio, RATE, median=4), 'odd number of frames'),
    (lambda: loaded.diarize(audio, RATE, threshold=2.0), 'a probability between 0 and 1'),
    (lambda: loaded.diarize(audio, RATE, treshold=0.4), "Did you mean 'threshold'"),
    (lambda: loaded.diarize(audio, RATE, chunk=10, overlap=10), 'cannot share 10'),
    (lambda: other.diarize(audio, RATE, speakers=2, similarity=0.5), 'not both'),
    (lambda: other.diarize(audio, RATE, speakers=0), 'expected 1 or more'),
    (lambda: other.diarize(audio, RATE, speakers=2, window=0.1, step=0.1), 'a vector needs'),
    (lambda: other.diarize(audio[:1000], RATE, speakers=2), 'too short for a vector'),
  ):
    with pytest.raises(InputError, match=words):
      call()

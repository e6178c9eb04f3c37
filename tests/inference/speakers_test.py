"""Voices of recordings, and what their cosine means."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression

from research.errors import InputError
from research.inference import calibration
from research.inference.speakers import SpeakerEncoder
from research.metrics import verification
from research.weights import Pretrained
from tests.inference.diarize_test import under
from tests.inference.toy_heads import RATE, VARIABLES, ToyHeads, tone


def noise(seconds, seed=0):
  return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


def pairs(count=300, apart=0.25):
  rng = np.random.default_rng(0)
  same = rng.random(count) < 0.2
  return 0.4 + apart * same + 0.15 * rng.standard_normal(count), same


def test_a_vector_is_the_embedding_of_the_head(tmp_path):
  loaded = under('x_vector', width=8, pooled_width=10, speakers=3)
  audio = noise(0.9)
  batch = {'audio': audio[None], 'audio_mask': np.ones((1, len(audio)), bool)}
  want = np.asarray(jax.jit(loaded.model.apply)(loaded.variables, batch)['embedding'][0])
  got = loaded.speaker(audio, RATE)
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert np.linalg.norm(got) == pytest.approx(1.0)
  other = loaded.speaker(noise(1.4, 1), RATE)
  assert loaded.verify(audio, noise(1.4, 1), RATE) == pytest.approx(float(got @ other))
  soundfile.write(tmp_path / 'a.wav', np.stack([audio, audio], 1), RATE, subtype='FLOAT')
  assert loaded.verify(tmp_path / 'a.wav', audio, RATE) == pytest.approx(1.0, abs=1e-6)
  # Longer recordings are the mean of windows of equal length.
  encoder = SpeakerEncoder(loaded.model, loaded.variables, longest=0.5)
  halves = np.stack([loaded.speaker(half, RATE) for half in np.split(audio, 2)]).mean(axis=0)
  np.testing.assert_allclose(
    encoder.vector(audio, RATE), halves / np.linalg.norm(halves), atol=1e-6
  )


def test_an_encoder_without_a_head_gives_its_pooled_embedding():
  toy = Pretrained('toy', ToyHeads(), VARIABLES, 'made here')
  np.testing.assert_allclose(toy.speaker(tone(0.8, 2), RATE), [0, 0, 1], atol=1e-6)
  assert toy.verify(tone(0.8, 2), tone(1.5, 2, 0.1), RATE) == pytest.approx(1.0)
  assert toy.verify(tone(0.8, 2), tone(1.5, 1), RATE) == pytest.approx(0.0, abs=1e-6)


def test_calibration_is_a_logistic_regression():
  scores, same = pairs()
  found = calibration.calibrate(scores, same, p_target=0.05)
  theirs = LogisticRegression(C=calibration.C, class_weight='balanced', tol=1e-10, max_iter=1000)
  theirs.fit(scores[:, None], same)
  assert found.slope == pytest.approx(theirs.coef_[0, 0], rel=1e-5)
  assert found.offset == pytest.approx(theirs.intercept_[0], rel=1e-5)
  np.testing.assert_allclose(
    found.probability(scores), theirs.predict_proba(scores[:, None])[:, 1], atol=1e-6
  )
  assert found.probability(0.5, prior=0.1) < found.probability(0.5)
  # The equal-error threshold makes as many misses as false alarms, but for one pair.
  at = found.threshold('eer')
  assert abs(np.mean(scores[same] < at) - np.mean(scores[~same] >= at)) <= 1 / same.sum()
  assert found.eer == verification.equal_error_rate(scores, same)[0]
  cost = np.mean(scores[same] < found.threshold('cost')) * 0.05
  cost += np.mean(scores[~same] >= found.threshold('cost')) * 0.95
  assert found.min_dcf == pytest.approx(cost / 0.05)
  assert (found.pairs, found.targets) == (300, int(same.sum()))


def test_a_list_without_errors_has_finite_thresholds():
  scores, same = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1], bool)
  found = calibration.calibrate(scores, same)
  assert found.eer == pytest.approx(0.0, abs=1e-9) and 0.2 < found.threshold() <= 0.9
  assert found.probability(0.9) > 0.99 > 0.01 > found.probability(0.1)


def test_a_calibration_is_kept_in_a_file(tmp_path):
  found = calibration.calibrate(*pairs(), model='abc')
  path = tmp_path / 'new' / 'c.json'
  calibration.save(found, path)
  assert calibration.load(path) == calibration.load(path, model='abc') == found
  endless = dataclasses.replace(found, min_dcf_threshold=float('inf'))
  calibration.save(endless, path)
  assert calibration.load(path) == endless
  with pytest.raises(InputError, match='of other weights'):
    calibration.load(path, model='xyz')
  values = json.loads(path.read_text())
  for text, words in (
    (json.dumps({**values, 'slope': 'steep'}), "its slope is 'steep'"),
    ('[]', 'is no calibration'),
    ('{', 'is no calibration'),
  ):
    path.write_text(text)
    with pytest.raises(InputError, match=words):
      calibration.load(path)
  with pytest.raises(InputError, match='cannot be read'):
    calibration.load(tmp_path / 'no.json')
  with pytest.raises(InputError, match="Threshold 'best' is not known"):
    found.threshold('best')
  with pytest.raises(InputError, match='p_target is 1'):
    calibration.calibrate(*pairs(), p_target=1.0)


def test_what_cannot_be_is_a_sentence(tmp_path):
  loaded = under('x_vector', width=8, pooled_width=10)
  audio = noise(0.5)
  for call, words in (
    (lambda: loaded.speaker(audio[:1000], RATE), 'too short for a vector of its speaker: 0.06 s'),
    (lambda: loaded.speaker(np.zeros(8000, np.float32), RATE), 'is silent'),
    (lambda: loaded.speaker(np.stack([audio, audio], 1), RATE), 'shape'),
    (lambda: loaded.speaker(audio), 'without sample_rate'),
    (lambda: loaded.verify(audio, tmp_path / 'no.wav', RATE), 'no.wav'),
  ):
    with pytest.raises(InputError, match=words):
      call()

"""Metrics of SUPERB on cases that can be counted by hand, and what they refuse."""

import sys

import numpy as np
import pytest

from research.errors import InputError
from research.metrics import (
  asr,
  conversion,
  diarization,
  enhancement,
  separation,
  slots,
  spoken_terms,
  superb,
  translation,
  verification,
)
from research.metrics.diarization import Segment


def test_equal_error_rate():
  scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
  same = np.array([1, 1, 0, 1, 0, 0])
  rate, threshold = verification.equal_error_rate(scores, same)
  assert rate == pytest.approx(1 / 3) and 0.6 <= threshold <= 0.7 + 1e-9
  assert verification.equal_error_rate(scores, scores > 0.65)[0] == pytest.approx(0, abs=1e-9)
  # One of three targets missed, no false alarm: a third of what answering 'no' to all costs.
  cost, threshold = verification.minimum_detection_cost(scores, same, p_target=0.4)
  assert cost == pytest.approx(1 / 3) and threshold == 0.8
  with pytest.raises(InputError, match='of one kind'):
    verification.equal_error_rate(scores, np.ones(6))
  with pytest.raises(InputError, match='not finite'):
    verification.equal_error_rate(scores * np.nan, same)


def test_diarization_errors():
  reference = [Segment(0.0, 4.0, 'a'), Segment(3.0, 6.0, 'b')]
  hypothesis = [Segment(0.0, 3.0, '1'), Segment(3.0, 7.0, '0')]
  found = diarization.diarization_errors(reference, hypothesis)
  # The second of a at 3 is missed; a second of 0 after the end is a false alarm.
  assert found == diarization.DiarizationErrors(7.0, 1.0, 1.0, 0.0)
  assert found.rate == pytest.approx(2 / 7)
  inner = diarization.diarization_errors(reference, hypothesis, extent='reference')
  assert inner.false_alarm == 0.0
  single = diarization.diarization_errors(reference, hypothesis, overlap=False)
  assert (single.scored, single.missed) == (5.0, 0.0)
  collar = diarization.diarization_errors(reference, hypothesis, collar=0.25)
  assert collar.scored == pytest.approx(2.5 + 2 * 0.5 + 1.5)
  given = diarization.diarization_errors(reference, hypothesis, regions=[(0.0, 2.0)])
  assert given == diarization.DiarizationErrors(2.0, 0.0, 0.0, 0.0)
  assert (found + given).scored == 9.0
  assert diarization.diarization_errors([], hypothesis).rate == float('inf')
  assert diarization.diarization_errors([], []).rate == 0.0
  for bad in (dict(extent='all'), dict(collar=-1.0)):
    with pytest.raises(InputError):
      diarization.diarization_errors(reference, hypothesis, **bad)


def test_frames_to_segments():
  probability = np.array([[0.1, 0.9], [0.9, 0.9], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9]])
  found = diarization.frames_to_segments(probability, frame_seconds=0.5, names=['x', 'y'])
  expected = [(0.5, 1.5, 'x'), (2.0, 2.5, 'x'), (0.0, 1.0, 'y'), (1.5, 2.5, 'y')]
  assert found == [Segment(*s) for s in expected]
  smooth = diarization.frames_to_segments(probability, median=3, frame_seconds=0.5)
  assert smooth == [Segment(0.5, 2.0, '0'), Segment(0.0, 2.5, '1')]
  assert diarization.parse_rttm(diarization.rttm_text({'r': found})) == {'r': found}
  with pytest.raises(InputError, match='line 1'):
    diarization.parse_rttm('SPEAKER r 1 x', 'a.rttm')
  with pytest.raises(InputError, match='odd'):
    diarization.frames_to_segments(probability, median=2)


def test_term_weighted_value():
  scores = np.array([[3.0, 1.0, np.nan], [0.5, 2.5, 2.0], [9.0, 9.0, 9.0]])
  target = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]])
  assert spoken_terms.beta() == pytest.approx(12.49)
  assert spoken_terms.term_weighted_value(scores, target, 2.5) == 1.0
  assert spoken_terms.maximum_term_weighted_value(scores, target) == (1.0, 2.5)
  # One false alarm among two other documents of one of two queries.
  value = spoken_terms.term_weighted_value(scores, target, 2.0)
  assert value == pytest.approx(1 - 12.49 / 4)
  assert spoken_terms.maximum_term_weighted_value(-scores, target) == (0.0, float('inf'))
  with pytest.raises(InputError, match='no query'):
    spoken_terms.term_weighted_value(scores, target * 0, 2.0)


def test_slots():
  reference, hypothesis = (
    'go to B-city san jose E-city',
    'go B-city san hose E-city B-day now E-day',
  )
  assert slots.slots(reference) == {'city': ['san jose']}
  assert slots.slot_type_f1([reference], [hypothesis]) == pytest.approx(2 / 3)
  assert slots.slot_value_cer([reference], [hypothesis]) == pytest.approx(1 / 8)
  assert slots.slot_value_wer([reference], [hypothesis]) == pytest.approx(1 / 2)
  assert slots.slot_edit_f1([reference], [reference]) == 1.0
  with pytest.raises(InputError, match='1 references and 0'):
    slots.slot_type_f1([reference], [])


def test_unit_errors():
  found = asr.unit_errors([['a', 'b'], ['c']], [['a', 'x', 'b'], []])
  assert found == asr.Errors(2, 0, 1, 1) and found.rate == pytest.approx(2 / 3)
  assert asr.edits('kitten', 'sitting') == 3
  with pytest.raises(InputError, match='one hypothesis per reference'):
    asr.unit_errors([['a']], [])


def test_separation():
  key = np.random.RandomState(0)
  sources = key.standard_normal((2, 4000))
  noise = key.standard_normal(4000)
  noise -= noise @ sources[0] / (sources[0] @ sources[0]) * sources[0]
  noisy = sources[0] + 0.1 * noise * np.linalg.norm(sources[0]) / np.linalg.norm(noise)
  assert separation.si_sdr(3 * noisy, sources[0], zero_mean=False) == pytest.approx(20.0)
  found = separation.bss_eval(sources[::-1] + 0.01 * noise, sources, taps=16)
  assert found.permutation == (1, 0) and (found.sdr > 30).all()
  each, before, order = separation.assigned_si_sdr(sources[::-1], sources, sources.sum(0))
  assert order == (1, 0) and (each > 70).all() and (abs(before) < 1).all()
  with pytest.raises(InputError, match='silent'):
    separation.bss_eval(sources * 0, sources)


def test_fast_alignment():
  x = np.sin(np.arange(40) / 3)[:, None]
  path = conversion.fast_alignment(x, np.repeat(x, 2, axis=0))
  assert tuple(path[0]) == (0, 0) and tuple(path[-1]) == (39, 79)
  assert (np.diff(path, axis=0) >= 0).all() and abs(path[:, 0] - path[:, 1] / 2).max() <= 2
  # The all-pass warp with alpha 0 is none.
  envelope = np.exp(np.cos(np.linspace(0, np.pi, 513)))[None]
  cepstra = conversion.mel_cepstra(envelope, order=3, alpha=0.0)
  np.testing.assert_allclose(cepstra, [[0.0, 0.5, 0.0, 0.0]], atol=1e-12)


def test_overall():
  fbank, best = ({n: p[i] for n, p in superb.REFERENCE_POINTS.items()} for i in (0, 1))
  found = superb.overall([fbank, best], parameters=[0, 1e8])
  assert [x.score for x in found] == [0, 1000] and [x.rank for x in found] == [0.0, 1.0]
  assert found[1].superb_s_p == pytest.approx(10.0)
  del best['SF_f1']
  assert superb.overall([fbank, best])[1].score is None
  with pytest.raises(InputError, match='Paper'):
    superb.overall([fbank], 'paper')
  with pytest.raises(InputError, match='2 entries'):
    superb.overall([fbank, best], parameters=[1])


# Leaderboard rows of the paper's ten tasks and the scores beside them on the site.
ROWS = {
  'APC': (41.98, 91.01, 74.69, 60.42, 59.33, 21.28, 3.1, 70.46, 50.89, 8.56, 10.53, 392),
  'VQ-APC': (41.08, 91.11, 74.48, 60.15, 59.66, 21.2, 2.51, 68.53, 52.91, 8.72, 10.45, 377),
  'NPC': (43.81, 88.96, 69.44, 55.92, 59.08, 20.2, 2.46, 72.79, 48.44, 9.4, 9.34, 386),
  'Mockingjay': (70.19, 83.67, 34.33, 32.29, 50.28, 22.82, 0.066, 61.59, 58.89, 11.66, 10.54, 54),
  'modified CPC': (42.54, 91.88, 64.09, 39.63, 60.96, 20.18, 3.26, 71.19, 49.91, 12.86, 10.38, 278),
  'DeCoAR 2.0': (14.93, 94.48, 90.8, 74.42, 62.47, 13.02, 4.06, 83.28, 34.73, 7.16, 6.59, 722),
}


@pytest.mark.parametrize('name', ROWS)
def test_published_scores(name):
  *values, score = ROWS[name]
  names = superb.metrics_of('Paper')
  assert superb.overall([dict(zip(names, values, strict=True))])[0].score == score


@pytest.mark.parametrize(
  'library, call',
  [
    ('pesq', lambda x: enhancement.pesq(x, x)),
    ('pystoi', lambda x: enhancement.stoi(x, x)),
    ('sacrebleu.metrics', lambda x: translation.bleu(['a'], ['a'])),
    ('pyworld', lambda x: conversion.distortion(x, x)),
  ],
)
def test_missing_libraries(library, call, monkeypatch):
  monkeypatch.setitem(sys.modules, library, None)
  with pytest.raises(InputError, match='pip install'):
    call(np.zeros(16000))

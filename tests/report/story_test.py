"""What a page says in sentences, and its sounds."""

import base64
import io
import wave

import numpy as np
import pytest

from research.report import maps, players, run, story, tables

SPLIT = {'hash': 'abc'}


def row(kind, system, correct, **changes):
  found = dict(
    task='pets', system=system, kind=kind, protocol='logistic', metric='accuracy', split=SPLIT,
    score=float(np.mean([list(map(int, c)) for c in correct])), correct=correct,
    classes=['a', 'b', 'c', 'd'],
  )  # fmt: skip
  return found | changes


MODEL = row('model', 'm', ['1' * 90 + '0' * 10])
RANDOM = row('random', 'random init', ['1' * 80 + '0' * 20, '1' * 60 + '0' * 40])
LOGMEL = row('logmel', 'log-mel statistics', ['0' * 5 + '1' * 85 + '0' * 10])
ROWS = [MODEL, RANDOM, LOGMEL]


def test_differences_are_paired_clip_by_clip():
  mean, half = tables.paired(MODEL, RANDOM)
  each = np.r_[np.zeros(60), np.full(20, 0.5), np.ones(10), np.zeros(10)]
  assert mean == pytest.approx(0.2)
  assert half == pytest.approx(1.96 * each.std(ddof=1) / 10)
  (table,) = tables.differences(ROWS)
  assert table.rows[0][1].startswith('+20.0 ± ') and (0, 1) in table.best
  assert table.rows[1] == ['m above log-mel statistics', '+5.0 ± 4.3']


def test_other_test_clips_are_not_compared():
  other = RANDOM | {'split': {'hash': 'other'}}
  assert tables.paired(MODEL, other) is None and tables.paired(MODEL, None) is None
  assert tables.paired(MODEL, row('random', 'r', ['1' * 99])) is None
  assert tables.differences([MODEL]) == []


def test_the_story_says_what_the_intervals_say():
  config = {'objective': {'name': 'masked_patch_mse'}, 'model': {'args': {'mask_ratio': 0.7}}}
  metrics = [{'step': 1, 'valid/loss': 1.0}, {'step': 2, 'valid/loss': None}, {'valid/loss': 0.25}]
  first, second, third = story.sentences(config, metrics, ROWS)
  assert first.startswith('70 % of each spectrogram was hidden') and 'from 1 to 0.25' in first
  assert 'frozen' in second
  assert '90 % of the clips right (4 classes; guessing gives 25 %)' in third
  assert '20 ± 7 points better than the same model without training' in third
  worse = [LOGMEL | {'kind': 'model'}, MODEL | {'kind': 'logmel'}]
  assert '5 ± 4 points worse than log-mel statistics' in story.sentences(config, [], worse)[-1]
  same = [MODEL, MODEL | {'kind': 'random'}]
  assert 'within chance (+0 ± 0 points)' in story.sentences(config, [], same)[-1]


def test_supervised_runs_and_several_models_have_no_such_story():
  assert story.sentences({'objective': {'name': 'cross_entropy'}}, [], ROWS) == []
  config = {'objective': {'name': 'bootstrap'}, 'model': {}}
  assert len(story.sentences(config, [], [MODEL, MODEL | {'system': 'n'}])) == 1


def test_sounds_come_back_as_they_went_in():
  clips = [np.sin(np.arange(800) / 5).astype(np.float32), np.array([2.0, -2.0], np.float32)]
  found = players.players(players.arrays(clips, 8000, ['a', '<b>']))
  assert [p.name for p in found] == ['a', '<b>']
  for clip, player in zip(clips, found):
    with wave.open(io.BytesIO(base64.b64decode(player.source.split(',')[1]))) as file:
      assert file.getframerate() == 8000 and file.getnframes() == len(clip)
      samples = np.frombuffer(file.readframes(len(clip)), '<i2') / 32767
    np.testing.assert_allclose(samples, np.clip(clip, -1, 1), atol=1e-4)
  long = players.arrays([np.zeros(8000 * 11, np.float32)], 8000, ['x'])
  assert long['audio'].shape == (1, 80_000)
  assert players.arrays([], 8000, []) == {} and players.players({}) == []


def test_directions_that_separate_are_found_on_other_clips():
  rng = np.random.default_rng(0)
  labels = np.arange(450) % 3
  # The classes differ in two of sixty directions, and those vary least.
  x = rng.normal(size=(450, 60)) * np.r_[np.full(58, 5.0), 0.3, 0.3]
  x[:, 58:] += np.array([[0, 0], [3, 0], [0, 3]])[labels]
  points = maps.separated(x[:300], labels[:300], x[300:])
  assert points.shape == (150, 2)
  far = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(150)
  assert np.mean(labels[300:][far.argmin(axis=1)] == labels[300:]) > 0.9


def test_a_chart_of_scores_has_a_bar_a_system_and_an_interval():
  rows = [r | {'ci': 0.05, 'ci_over': 'test clips'} for r in ROWS]
  (chart,) = run.score_charts(rows)
  assert 'guessing' in chart.caption and 'random init' in chart.svg
  assert run.score_charts([]) == []
  assert run.score_charts([row('model', 'm', ['1'], metric='d_prime')]) == []
  many = [row('model', 'm', ['1'], task=f'task {i}') for i in range(9)]
  assert run.score_charts(many) == []

"""Distances between generated and real audio."""

import numpy as np
import pytest
from scipy import linalg

from research.errors import InputError
from research.metrics import generation


def test_frechet_distance_is_that_of_normal_distributions():
  rng = np.random.default_rng(0)
  a = rng.standard_normal((400, 6)) @ rng.standard_normal((6, 6))
  b = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6)) + 1.0
  one, two = generation.normal(a), generation.normal(b)
  root = linalg.sqrtm(one.covariance @ two.covariance).real
  want = np.square(one.mean - two.mean).sum() + np.trace(one.covariance + two.covariance - 2 * root)
  assert generation.frechet_audio_distance(a, b) == pytest.approx(want, rel=1e-9)
  assert generation.frechet_audio_distance(a, a) == pytest.approx(0.0, abs=1e-9)
  # One dimension: (difference of means)^2 + (difference of deviations)^2.
  x = np.array([[0.0], [2.0]])
  y = np.array([[1.0], [7.0]])
  want = 9.0 + (np.sqrt(2.0) - np.sqrt(18.0)) ** 2
  assert generation.frechet_audio_distance(x, y) == pytest.approx(want)
  # Fewer clips than dimensions.
  few = generation.frechet_audio_distance(
    rng.standard_normal((4, 50)), rng.standard_normal((5, 50))
  )
  assert np.isfinite(few) and few > 0


def test_distances_of_small_sets_are_too_large_and_extrapolated_ones_less_so():
  rng = np.random.default_rng(0)
  real = rng.standard_normal((4000, 16))
  small = rng.standard_normal((100, 16))
  plain = generation.frechet_audio_distance(small, real)
  value, fit = generation.extrapolated(small, real)
  assert plain > 0.5 and abs(value) < 0.5 * plain and fit > 0.5


def test_scores_of_texts():
  audio = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
  texts = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
  assert generation.clap_score(audio, texts) == pytest.approx(2 / 3)
  assert generation.matched(audio, texts, [0, 0, 1]) == pytest.approx(2 / 3)
  assert generation.matched(np.eye(3), np.eye(3)) == 1.0


def test_what_cannot_be_is_a_sentence():
  for run, words in (
    (lambda: generation.normal(np.zeros((1, 3))), 'at least two clips'),
    (lambda: generation.normal(np.full((3, 3), np.nan)), 'not finite'),
    (
      lambda: generation.frechet_audio_distance(np.zeros((3, 2)), np.zeros((3, 4))),
      '2 and 4 dimensions',
    ),
    (lambda: generation.extrapolated(np.zeros((7, 2)), np.zeros((9, 2))), '7 clips are too few'),
    (lambda: generation.clap_score(np.ones((2, 3)), np.ones((3, 3))), 'one text for each clip'),
    (lambda: generation.clap_score(np.zeros((2, 3)), np.ones((2, 3))), 'is zero'),
  ):
    with pytest.raises(InputError, match=words):
      run()

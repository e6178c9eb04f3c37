"""Retrieval: ranks, recalls and precision of small matrices, counted by hand."""

import numpy as np
import pytest

from research.errors import InputError
from research.metrics import retrieval


def test_one_relevant_candidate():
  similarity = np.array([[0.9, 0.1, 0.5], [0.8, 0.2, 0.5], [0.1, 0.2, 0.3]])
  scores = retrieval.retrieval_scores(similarity, np.eye(3, dtype=bool))
  # Ranks 1, 3 and 1.
  assert scores['R@1'] == pytest.approx(2 / 3)
  assert scores['R@5'] == scores['R@10'] == 1.0
  assert scores['mAP@10'] == pytest.approx((1 + 1 / 3 + 1) / 3)
  assert (scores['mean_rank'], scores['median_rank']) == (pytest.approx(5 / 3), 1.0)


def test_several_captions_of_a_clip():
  relevant = retrieval.relevance([0, 1], [0, 0, 1, 1])
  similarity = np.array([[0.9, 0.1, 0.8, 0.2], [0.9, 0.8, 0.7, 0.6]])
  places = retrieval.ranks(similarity, relevant)
  assert [each.tolist() for each in places] == [[1, 4], [3, 4]]
  assert retrieval.recall_at(places, 1) == 0.5
  # (1/1 + 2/4) / 2 and (1/3 + 2/4) / 2.
  assert retrieval.mean_average_precision_at(places) == pytest.approx((0.75 + 5 / 12) / 2)
  # Behind the cut nothing counts.
  assert retrieval.mean_average_precision_at(places, 3) == pytest.approx((0.5 + 1 / 6) / 2)


def test_the_earlier_of_equals_is_nearer():
  places = retrieval.ranks(np.zeros((2, 2)), np.eye(2, dtype=bool))
  assert [each.tolist() for each in places] == [[1], [2]]


def test_what_cannot_be_ranked_is_refused():
  with pytest.raises(InputError, match='1 of 2 queries have no relevant'):
    retrieval.ranks(np.zeros((2, 2)), np.array([[True, False], [False, False]]))
  with pytest.raises(InputError, match='not a number'):
    retrieval.ranks(np.array([[np.nan]]), np.array([[True]]))
  with pytest.raises(InputError, match='must be'):
    retrieval.ranks(np.zeros((2, 3)), np.ones((2, 2), bool))

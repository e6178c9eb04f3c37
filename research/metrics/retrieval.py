"""Retrieval of captions by audio and of audio by captions, in NumPy.

Queries are rows of a matrix of similarities, what is retrieved its columns. Of equal similarities
the earlier column is the nearer. Letters: q queries, c candidates, p relevant candidates.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from research.errors import InputError

KS = (1, 5, 10)


def relevance(queries: Sequence[int], candidates: Sequence[int]) -> Bool[np.ndarray, 'q c']:
  """Which candidates are relevant: those of the same clip.

  Args:
    queries, candidates: numbers of their clips; a clip may have several captions (Clotho: 5).
  """
  return np.asarray(queries)[:, None] == np.asarray(candidates)[None, :]


def ranks(
  similarity: Float[np.ndarray, 'q c'], relevant: Bool[np.ndarray, '_ _']
) -> list[Int[np.ndarray, ' p']]:
  """Ranks of the relevant candidates of every query, from 1, ascending.

  Raises:
    InputError: shapes differ, a similarity is not a number, or a query has no relevant candidate.
  """
  if similarity.shape != relevant.shape or similarity.ndim != 2:
    raise InputError(
      f'Similarities have shape {similarity.shape} and their relevance {relevant.shape}; both must '
      'be [queries, candidates].'
    )
  if np.isnan(similarity).any():
    raise InputError('A similarity is not a number: an embedding holds NaN.')
  none = int((~relevant.any(axis=1)).sum())
  if none:
    raise InputError(f'{none} of {len(relevant)} queries have no relevant candidate.')
  order = np.argsort(-similarity, axis=1, kind='stable')
  found = np.take_along_axis(relevant, order, axis=1)
  return [np.flatnonzero(row) + 1 for row in found]


def recall_at(places: Sequence[Int[np.ndarray, ' p']], k: int) -> float:
  """R@k of audio-text retrieval: the fraction of queries with a relevant candidate among the first
  k (Clotho, AudioCaps; LAION-CLAP's evaluation)."""
  return float(np.mean([each[0] <= k for each in places]))


def mean_average_precision_at(places: Sequence[Int[np.ndarray, ' p']], k: int = 10) -> float:
  """mAP@k: the mean over queries of sum_{i: rank_i <= k} (i / rank_i) / min(p, k), rank_i that of
  the i-th relevant candidate (DCASE 2022, task 6b).

  With one relevant candidate it is the mean of 1 / rank up to k.
  """
  each = []
  for ranked in places:
    near = ranked[ranked <= k]
    precision = np.arange(1, len(near) + 1) / near
    each.append(precision.sum() / min(len(ranked), k))
  return float(np.mean(each))


def retrieval_scores(
  similarity: Float[np.ndarray, 'q c'], relevant: Bool[np.ndarray, 'q c']
) -> dict[str, float]:
  """R@1, R@5, R@10, mAP@10, and the mean and median rank of the nearest relevant candidate.

  Raises:
    InputError: see `ranks`.
  """
  places = ranks(similarity, relevant)
  first = [each[0] for each in places]
  return {
    **{f'R@{k}': recall_at(places, k) for k in KS},
    'mAP@10': mean_average_precision_at(places),
    'mean_rank': float(np.mean(first)),
    'median_rank': float(np.median(first)),
  }

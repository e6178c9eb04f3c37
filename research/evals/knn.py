"""Cosine k-nearest neighbours on frozen embeddings; k is chosen on the validation rows.

The weighted vote is that of Wu et al. (2018, arXiv 1805.01978) and of DINO's evaluation: a
neighbour has weight exp(similarity / 0.07). Embeddings are first standardised with the statistics
of the training rows, as for the probe, so that a common offset does not dominate the similarity.
Dimensions: n clips, d width, c classes, k numbers of neighbours, m queries.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from research.evals.probe import standardise
from research.metrics import classification

NEIGHBOURS = (1, 5, 10, 20)
TEMPERATURE = 0.07


class KnnResult(NamedTuple):
  """Result of the best k by validation score; ties go to the smaller k."""

  test_scores: np.ndarray  # fraction of the vote f32 [n_test, c]
  validation: float
  neighbours: int
  grid: list[dict[str, float]]  # neighbours, validation, test for every k


def fit(
  features: Float[np.ndarray, 'n d'],
  labels: np.ndarray,
  rows: tuple[np.ndarray, np.ndarray, np.ndarray],
  *,
  num_classes: int,
  metric: str,
  neighbours: tuple[int, ...] = NEIGHBOURS,
  refit: bool = False,
  chunk: int = 1024,
) -> KnnResult:
  """Classifies validation and test rows by their nearest training rows.

  Args:
    features: embeddings of all clips.
    labels: int [n] or multi-hot f32 [n, c].
    rows: int arrays of training, validation and test rows.
    num_classes: c.
    metric: name in `classification.METRICS` that selects k.
    neighbours: values of k to try; clipped to the number of training rows.
    refit: test rows also take neighbours from the validation rows.
    chunk: queries per device call; bounds device memory.
  """
  train, validation, test = (np.asarray(r) for r in rows)
  counts = tuple(sorted({min(k, len(train)) for k in neighbours}))
  classify = functools.partial(_classify, features, labels, num_classes=num_classes, chunk=chunk)
  on_validation, on_test = np.split(
    classify(train, np.concatenate([validation, test]), counts), [len(validation)], axis=1
  )

  score = classification.METRICS[metric]
  by_validation = [score(v, labels[validation]) for v in on_validation]
  winner = int(np.argmax(np.nan_to_num(by_validation, nan=-np.inf)))
  test_scores = on_test[winner]
  if refit:
    both = np.concatenate([train, validation])
    test_scores = classify(both, test, counts[winner : winner + 1])[0]
  return KnnResult(
    test_scores=test_scores,
    validation=float(by_validation[winner]),
    neighbours=counts[winner],
    grid=[
      {'neighbours': k, 'validation': float(v), 'test': float(score(t, labels[test]))}
      for k, v, t in zip(counts, by_validation, on_test)
    ],
  )


def _classify(
  features: np.ndarray,
  labels: np.ndarray,
  known: np.ndarray,
  queries: np.ndarray,
  counts: tuple[int, ...],
  *,
  num_classes: int,
  chunk: int,
) -> Float[np.ndarray, 'k m c']:
  """Votes of the nearest `known` rows for the rows `queries`, for every k."""
  x = standardise(features, known)
  x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  hot = labels if labels.ndim == 2 else np.eye(num_classes, dtype=np.float32)[labels]
  bank, hot = jnp.asarray(x[known]), jnp.asarray(hot[known], jnp.float32)
  votes = np.zeros((len(counts), len(queries), num_classes), np.float32)
  for start in range(0, len(queries), chunk):
    part = queries[start : start + chunk]
    padded = np.zeros((min(chunk, len(queries)), x.shape[1]), np.float32)  # one shape: one compile
    padded[: len(part)] = x[part]
    chunk_votes = np.asarray(_votes(jnp.asarray(padded), bank, hot, counts))
    votes[:, start : start + len(part)] = chunk_votes[:, : len(part)]
  return votes


@functools.partial(jax.jit, static_argnames='counts')
def _votes(
  queries: Float[Array, 'm d'], bank: Float[Array, 'n d'], hot: Float[Array, 'n c'], counts: tuple
) -> Float[Array, 'k m c']:
  """Fraction of the weighted vote for every class, for every k."""
  similarity, places = jax.lax.top_k(queries @ bank.T, max(counts))
  weight = jnp.exp((similarity - similarity[:, :1]) / TEMPERATURE)  # the nearest weighs 1
  votes = weight[..., None] * hot[places]
  return jnp.stack([votes[:, :k].sum(1) / weight[:, :k].sum(1)[:, None] for k in counts])

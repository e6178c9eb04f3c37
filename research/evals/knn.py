"""Cosine nearest neighbours on frozen embeddings; the number of neighbours is chosen on validation.

The vote is the one of Wu et al. (2018, arXiv 1805.01978) that DINO's evaluation uses: neighbours
weigh exp(similarity / 0.07). Embeddings are standardised with the training rows' statistics first,
as for the probe, so that a shared offset does not make every clip look alike.
Letters: n clips, d width, c classes.
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
  """What the neighbours said. The winning count has the best validation score, of ties the less."""

  test_scores: np.ndarray  # share of the vote f32 [n_test, c]
  validation: float
  neighbours: int
  grid: list[dict[str, float]]  # neighbours, validation, test of every count


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
    metric: the name in `scores.METRICS` that chooses.
    neighbours: counts to try; those above the number of training rows are cut to it.
    refit: the test rows' neighbours come from the validation rows too.
    chunk: queries compared with all training rows at a time; bounds memory on the device.
  """
  train, validation, test = (np.asarray(r) for r in rows)
  counts = tuple(sorted({min(k, len(train)) for k in neighbours}))
  ask = functools.partial(_ask, features, labels, num_classes=num_classes, chunk=chunk)
  first, second = np.split(
    ask(train, np.concatenate([validation, test]), counts), [len(validation)], axis=1
  )

  score = classification.METRICS[metric]
  by_validation = [score(v, labels[validation]) for v in first]
  winner = int(np.argmax(np.nan_to_num(by_validation, nan=-np.inf)))
  said = second[winner]
  if refit:
    said = ask(np.concatenate([train, validation]), test, counts[winner : winner + 1])[0]
  return KnnResult(
    test_scores=said,
    validation=float(by_validation[winner]),
    neighbours=counts[winner],
    grid=[
      {'neighbours': k, 'validation': float(v), 'test': float(score(t, labels[test]))}
      for k, v, t in zip(counts, by_validation, second)
    ],
  )


def _ask(
  features: np.ndarray,
  labels: np.ndarray,
  known: np.ndarray,
  queries: np.ndarray,
  counts: tuple[int, ...],
  *,
  num_classes: int,
  chunk: int,
) -> Float[np.ndarray, 'k m c']:
  """The vote of the nearest `known` rows about the rows `queries`, for every count."""
  x = standardise(features, known)
  x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  hot = labels if labels.ndim == 2 else np.eye(num_classes, dtype=np.float32)[labels]
  bank, hot = jnp.asarray(x[known]), jnp.asarray(hot[known], jnp.float32)
  votes = np.zeros((len(counts), len(queries), num_classes), np.float32)
  for start in range(0, len(queries), chunk):
    part = queries[start : start + chunk]
    padded = np.zeros((min(chunk, len(queries)), x.shape[1]), np.float32)  # one shape, one program
    padded[: len(part)] = x[part]
    said = np.asarray(_votes(jnp.asarray(padded), bank, hot, counts))
    votes[:, start : start + len(part)] = said[:, : len(part)]
  return votes


@functools.partial(jax.jit, static_argnames='counts')
def _votes(
  queries: Float[Array, 'm d'], bank: Float[Array, 'n d'], hot: Float[Array, 'n c'], counts: tuple
) -> Float[Array, 'k m c']:
  """Each count's share of the vote for every class."""
  similarity, places = jax.lax.top_k(queries @ bank.T, max(counts))
  weight = jnp.exp((similarity - similarity[:, :1]) / TEMPERATURE)  # the nearest weighs 1
  said = weight[..., None] * hot[places]
  return jnp.stack([said[:, :k].sum(1) / weight[:, :k].sum(1)[:, None] for k in counts])

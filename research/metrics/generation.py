"""How near generated audio is to real audio, and to what was asked for: distances between
embeddings.

Fréchet audio distance (Kilgour et al. 2019, arXiv 1812.08466): the distance between two normal
distributions with the means and covariances of the embeddings of both sets. Of small sets it is too
large; extrapolated to a set without end it is not (Gui et al. 2024, arXiv 2311.01616, after Chong
and Forsyth 2020). CLAP score: the mean cosine of every clip and its text. Letters: n, m clips, d
width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg

from research.errors import InputError

# Named sizes would have to be equal in all arguments.
Vectors = Float[np.ndarray, '_ _']
# Sizes of the subsets that `extrapolated` fits a line to.
SIZES = 15


class Normal(NamedTuple):
  """Mean [d] and covariance [d, d] of a set."""

  mean: Float[np.ndarray, ' d']
  covariance: Float[np.ndarray, 'd d']


def normal(vectors: Vectors) -> Normal:
  """Mean and covariance (over n - 1) of vectors, float64.

  Raises:
    InputError: fewer than two vectors, or values that are not finite.
  """
  x = np.asarray(vectors, np.float64)
  if x.ndim != 2 or len(x) < 2:
    raise InputError(
      f'A distance between sets of embeddings needs at least two clips in each; got {x.shape}.'
    )
  if not np.isfinite(x).all():
    raise InputError('Embeddings are not finite: a clip, or the encoder, gives none.')
  return Normal(x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False)))


def frechet_distance(a: Normal, b: Normal) -> float:
  """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

  The trace of the root is the sum of the roots of the eigenvalues of C_a C_b, which are those of
  the symmetric C_a^(1/2) C_b C_a^(1/2): nothing of it is complex, and sets with fewer clips than
  dimensions need no number added to the diagonal.

  Raises:
    InputError: sets of embeddings of different widths.
  """
  if a.mean.shape != b.mean.shape:
    raise InputError(
      f'Embeddings of {a.mean.size} and {b.mean.size} dimensions: take the same encoder.'
    )
  values, vectors = linalg.eigh(a.covariance)
  root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
  middle = linalg.eigvalsh(root @ b.covariance @ root)
  trace = np.trace(a.covariance) + np.trace(b.covariance)
  gap = np.square(a.mean - b.mean).sum()
  return float(gap + trace - 2 * np.sqrt(np.maximum(middle, 0.0)).sum())


def frechet_audio_distance(generated: Vectors, real: Vectors) -> float:
  """FAD of two sets of embeddings, see `normal` and `frechet_distance`."""
  return frechet_distance(normal(generated), normal(real))


def extrapolated(
  generated: Vectors, real: Vectors, seed: int = 0, sizes: int = SIZES
) -> tuple[float, float]:
  """(FAD of a generated set without end, R^2 of the line).

  FAD of subsets of n clips is about a line in 1 / n, whose value at 0 this is.

  Args:
    generated: embeddings; subsets have from half of them to all.
    real: embeddings, all of which count.
    seed: of the subsets.
    sizes: number of subsets.

  Raises:
    InputError: fewer than eight generated clips.
  """
  x = np.asarray(generated, np.float64)
  if len(x) < 8:
    raise InputError(f'{len(x)} clips are too few to extrapolate a distance: give at least 8.')
  other, rng = normal(real), np.random.default_rng(seed)
  counts = np.unique(np.linspace(len(x) // 2, len(x), sizes).astype(int))
  found = np.array([
    frechet_distance(normal(x[rng.choice(len(x), n, replace=False)]), other) for n in counts
  ])  # fmt: skip
  inverse = 1.0 / counts
  slope, value = np.polyfit(inverse, found, 1)
  rest = np.square(found - (value + slope * inverse)).sum()
  spread = np.square(found - found.mean()).sum()
  return float(value), float(1.0 - rest / spread) if spread > 0 else 1.0


def clap_score(audio: Vectors, texts: Vectors) -> float:
  """Mean cosine of clips and their texts, in CLAP's joint space.

  Args:
    audio: of clips.
    texts: of the text of each.

  Raises:
    InputError: not as many texts as clips, none, or a vector of zeros.
  """
  return float(np.mean(cosines(audio, texts)))


def cosines(audio: Vectors, texts: Vectors) -> Float[np.ndarray, ' n']:
  """Cosine of every clip and its text; see `clap_score`."""
  a, b = (np.asarray(x, np.float64) for x in (audio, texts))
  if a.shape != b.shape or not len(a):
    raise InputError(
      f'Clips have embeddings {a.shape} and texts {b.shape}: give one text for each clip, of the '
      'same CLAP.'
    )
  sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
  if not (sizes > 0).all():
    raise InputError('An embedding is zero: a clip, or a text, is empty.')
  return (a * b).sum(axis=1) / sizes


def matched(audio: Vectors, texts: Vectors, labels: Sequence[int] | None = None) -> float:
  """Fraction of clips whose own text is the nearest of all.

  Args:
    audio: of clips.
    texts: of the text of each; equal labels have equal texts.
    labels: of the texts; None: all are different.

  Raises:
    InputError: see `clap_score`.
  """
  cosines(audio, texts)
  own = np.arange(len(audio)) if labels is None else np.asarray(labels)
  a, b = (np.asarray(x, np.float64) for x in (audio, texts))
  nearest = (a @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T).argmax(axis=1)
  return float(np.mean(own[nearest] == own))

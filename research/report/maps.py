"""Embeddings in the plane: principal components, and t-SNE where scikit-learn is installed."""

import importlib.util

import numpy as np
from jaxtyping import Float, Int

# t-SNE is quadratic or nearly so, and more points than this are only a smear.
MAX_POINTS = 1500
# Principal components that the classifier of `separated` sees.
DIRECTIONS = 200


def pca(x: Float[np.ndarray, 'n d'], components: int = 2) -> Float[np.ndarray, 'n k']:
  """Coordinates on the first principal components; the largest of each component is positive."""
  x = np.asarray(x, np.float64)
  centred = x - x.mean(axis=0)
  if x.shape[0] >= x.shape[1]:
    _, vectors = np.linalg.eigh(centred.T @ centred)
    y = centred @ vectors[:, ::-1][:, :components]
  else:  # the n x n side is the smaller one, with the same non-zero eigenvalues
    values, vectors = np.linalg.eigh(centred @ centred.T)
    y = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, ::-1][:, :components]
  y = np.pad(y, ((0, 0), (0, components - y.shape[1])))
  # The sign of an eigenvector is arbitrary: fix it, so that two runs draw the same picture.
  sign = np.sign(y[np.abs(y).argmax(axis=0), np.arange(components)])
  return y * np.where(sign == 0, 1.0, sign)


def has_tsne() -> bool:
  """Whether scikit-learn is installed."""
  return importlib.util.find_spec('sklearn') is not None


def flat(x: Float[np.ndarray, 'n d'], method: str) -> Float[np.ndarray, 'n 2']:
  """Two coordinates of every clip, of standardised embeddings.

  Args:
    x: embeddings.
    method: 'pca', or 'tsne' (needs scikit-learn; see `has_tsne`).
  """
  x = np.asarray(x, np.float64)
  std = x.std(axis=0)
  x = np.where(std > 0, (x - x.mean(axis=0)) / np.where(std > 0, std, 1.0), 0.0)
  if method == 'pca' or len(x) < 5:
    return pca(x)
  from sklearn.manifold import TSNE

  # 50 components first, as its authors do (van der Maaten & Hinton, 2008).
  reduced = pca(x, min(50, *x.shape))
  perplexity = min(30.0, (len(x) - 1) / 3)
  return TSNE(perplexity=perplexity, init='pca', random_state=0).fit_transform(reduced)


def separated(
  train: Float[np.ndarray, 'm d'], labels: Int[np.ndarray, ' m'], x: Float[np.ndarray, 'n d']
) -> Float[np.ndarray, 'n 2']:
  """Two coordinates of clips by the class scores of a linear classifier, t-SNE of them.

  The classifier is a linear discriminant with a shrunk covariance (Ledoit and Wolf, 2004). Needs
  scikit-learn.

  Args:
    train, labels: embeddings and classes that the classifier learns.
    x: embeddings to draw, other clips.
  """
  from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

  train, x = np.asarray(train, np.float64), np.asarray(x, np.float64)
  mean, std = train.mean(axis=0), train.std(axis=0)
  std = np.where(std > 0, std, 1.0)
  both = pca((np.concatenate([train, x]) - mean) / std, min(DIRECTIONS, *train.shape))
  classifier = LinearDiscriminantAnalysis(solver='lsqr', shrinkage='auto')
  classifier.fit(both[: len(train)], labels)
  scores = classifier.decision_function(both[len(train) :])
  return flat(scores.reshape(len(x), -1), 'tsne')


def sample(count: int, limit: int = MAX_POINTS) -> np.ndarray:
  """At most `limit` of `count` rows, the same ones every time."""
  if count <= limit:
    return np.arange(count)
  return np.sort(np.random.default_rng(0).choice(count, limit, replace=False))

"""Search for spoken queries in spoken documents, without training (query by example; SUPERB,
arXiv 2105.01051; figures of s3prl downstream/quesst14_dtw).

Subsequence dynamic time warping: each query frame moves on by one, the document by 0, 1 or 2
(dtw-python's step pattern 'asymmetric'), with a free begin and end. A row of costs depends on the
row before alone, so all documents of a batch are searched at once, one query frame a step.
Letters: q queries, r documents, n query frames, m document frames, d width.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.errors import InputError, unknown

DISTANCES = ('cosine_exp', 'cosine', 'euclidean', 'cityblock')
MIN_FRAMES = 5  # of a query; shorter ones are not searched
THRESHOLD = 2.0  # of the decision, on normalised scores
# Queries and documents are padded to multiples, so that few shapes are compiled; frames of a batch
# of documents; distances that are held at once.
QUERY_STEP, DOCUMENT_STEP, BATCH_FRAMES, CELLS = 16, 128, 2**16, 2**26


def statistics(
  features: Iterable[Float[np.ndarray, '_ d']],
) -> tuple[Float[np.ndarray, ' d'], Float[np.ndarray, ' d']]:
  """Mean and unbiased standard deviation (at least 1e-9) of all frames, float32."""
  count, total, squares = 0, np.float64(0), np.float64(0)
  shift = None
  for x in features:
    x = np.asarray(x, np.float64)
    shift = x.mean(0) if shift is None else shift  # keeps the sum of squares exact
    count, total, squares = (
      count + len(x), total + (x - shift).sum(0), squares + ((x - shift) ** 2).sum(0)
    )  # fmt: skip
  if shift is None or count < 2:
    raise InputError('A search needs features of queries and documents, two frames or more.')
  variance = np.maximum(squares - total**2 / count, 0.0) / (count - 1)
  std = np.maximum(np.sqrt(variance), 1e-9)
  return (shift + total / count).astype(np.float32), std.astype(np.float32)


def distances(
  query: Float[Array, 'n d'], document: Float[Array, '*r m d'], method: str = 'cosine_exp'
) -> Float[Array, '*r n m']:
  """Distance of every query frame to every document frame.

  Args:
    query: frames.
    document: frames of one or of several documents.
    method: one of DISTANCES; 'cosine_exp' is e^(1 - cos) - 1.

  Raises:
    InputError: an unknown method.
  """
  if method not in DISTANCES:
    raise unknown('distance', method, DISTANCES)
  shape = document.shape[:-1]
  flat = prepare(document.reshape(-1, document.shape[-1]), method)
  found = _between(prepare(query, method), flat, method).reshape(len(query), *shape)
  return jnp.moveaxis(found, 0, -2)


def prepare(x: Float[Array, '*n d'], method: str) -> Float[Array, '*n d']:
  """Frames as their distances need them: of unit length for those by the cosine."""
  if not method.startswith('cosine'):
    return x
  return x * jax.lax.rsqrt(jnp.maximum((x**2).sum(-1, keepdims=True), 1e-24))


def _between(x: Float[Array, 'n d'], y: Float[Array, 'm d'], method: str) -> Float[Array, 'n m']:
  """Distances of prepared frames."""
  if method == 'cityblock':  # no product of matrices: one query frame at a time
    return jax.lax.map(lambda row: jnp.abs(y - row).sum(-1), x)
  product = x @ y.T
  if method == 'euclidean':
    sizes = (x**2).sum(-1)[:, None] + (y**2).sum(-1)
    return jnp.sqrt(jnp.maximum(sizes - 2.0 * product, 0.0))
  return jnp.expm1(1.0 - product) if method == 'cosine_exp' else 1.0 - product


def normalise_rows(
  distance: Float[Array, '*r n m'], mask: Bool[Array, '*r m']
) -> Float[Array, '*r n m']:
  """Each row scaled to [0, 1] over the real frames of its document."""
  return _scaled(distance, mask[..., None, :])


def _scaled(distance, mask):
  low = jnp.where(mask, distance, jnp.inf).min(-1, keepdims=True)
  high = jnp.where(mask, distance, -jnp.inf).max(-1, keepdims=True)
  return (distance - low) / jnp.where(high > low, high - low, 1.0)


def accumulate(
  distance: Float[Array, '*r n m'], mask: Bool[Array, '*r m']
) -> Float[Array, '*r n m']:
  """Least cost of a path to every (query frame, document frame); infinite behind the mask."""

  def step(before, row):
    cost = row + _best_before(before)
    return cost, cost

  rows = jnp.moveaxis(jnp.where(mask[..., None, :], distance, jnp.inf), -2, 0)
  _, rest = jax.lax.scan(step, rows[0], rows[1:])
  return jnp.moveaxis(jnp.concatenate([rows[:1], rest]), 0, -2)


def _best_before(cost):
  """The cheapest of the same document frame and the two before."""
  edge = [(0, 0)] * (cost.ndim - 1)
  one = jnp.pad(cost[..., :-1], [*edge, (1, 0)], constant_values=jnp.inf)
  two = jnp.pad(cost[..., :-2], [*edge, (2, 0)], constant_values=jnp.inf)
  return jnp.minimum(cost, jnp.minimum(one, two))


def path(cost: Float[np.ndarray, 'n m']) -> np.ndarray:
  """The cheapest path, int [n, 2]: a document frame for each query frame."""
  cost = np.asarray(cost)
  j = int(np.argmin(cost[-1]))
  found = [j]
  for row in cost[-2::-1]:
    j = min((k for k in (j, j - 1, j - 2) if k >= 0), key=row.__getitem__)
    found.append(j)
  return np.stack([np.arange(len(cost)), found[::-1]], axis=1)


@functools.partial(jax.jit, static_argnames=('method', 'scale_rows'))
def _search(queries, counts, documents, mask, method, scale_rows):
  """Minus the least cost a frame, [g, r], of queries [n, g, d] of `counts` [g] real frames in
  documents [r, m, d], both prepared. One product of matrices for all, then a frame a step."""
  (n, g, d), (r, m) = queries.shape, mask.shape
  rows = _between(queries.reshape(-1, d), documents.reshape(-1, d), method).reshape(n, g, r, m)
  rows = _scaled(rows, mask) if scale_rows else rows
  rows = jnp.where(mask, rows, jnp.inf)

  def step(before, given):
    row, real = given
    return jnp.where(real[:, None, None], row + _best_before(before), before), None

  real = jnp.arange(1, n)[:, None] < counts
  last, _ = jax.lax.scan(step, rows[0], (rows[1:], real))
  return -last.min(-1) / counts[:, None].astype(jnp.float32)


def search(
  queries: Sequence[Float[np.ndarray, '_ d']],
  documents: Sequence[Float[np.ndarray, '_ d']],
  *,
  method: str = 'cosine_exp',
  normalise: bool = True,
  scale_rows: bool = True,
  min_frames: int = MIN_FRAMES,
  batch_frames: int = BATCH_FRAMES,
) -> Float[np.ndarray, 'q r']:
  """Raw scores of every query in every document: minus the path's cost a query frame.

  Args:
    queries: features of each, of one layer.
    documents: features of each.
    method: of `distances`.
    normalise: whether all features are brought to mean 0 and variance 1 first.
    scale_rows: whether the distances of a query frame to a document are scaled to [0, 1].
    min_frames: queries below it are not searched: nan.
    batch_frames: document frames that are searched at once.

  Raises:
    InputError: there is no query or no document, one is empty, or an unknown method.
  """
  if method not in DISTANCES:
    raise unknown('distance', method, DISTANCES)
  if not queries or not documents or not all(map(len, (*queries, *documents))):
    raise InputError(
      f'A search got {len(queries)} queries and {len(documents)} documents: one or more of each '
      'with frames is expected.'
    )
  if normalise:
    mean, std = statistics([*queries, *documents])
    queries, documents = ([(x - mean) / std for x in y] for y in (queries, documents))
  scores = np.full((len(queries), len(documents)), np.nan, np.float32)
  groups: dict[int, list[int]] = {}
  for i, x in enumerate(queries):
    if len(x) >= min_frames:
      groups.setdefault(len(x) + -len(x) % QUERY_STEP, []).append(i)
  for rows in _batches([len(x) for x in documents], batch_frames):
    size = max(len(documents[r]) for r in rows)
    size += -size % DOCUMENT_STEP
    block = prepare(jnp.asarray(np.stack([_pad(documents[r], size) for r in rows])), method)
    mask = jnp.arange(size) < jnp.asarray([len(documents[r]) for r in rows])[:, None]
    for frames, members in groups.items():
      width = max(1, CELLS // (frames * mask.size))
      for first in range(0, len(members), width):
        some = members[first : first + width]
        # Groups of one width are one program: the last one is filled up.
        filled = some + some[-1:] * (min(width, len(members)) - len(some))
        stacked = jnp.asarray(np.stack([_pad(queries[i], frames) for i in filled], axis=1))
        counts = jnp.asarray([len(queries[i]) for i in filled])
        found = _search(
          prepare(stacked, method), counts, block, mask, method=method, scale_rows=scale_rows
        )
        scores[np.ix_(some, rows)] = np.asarray(found)[: len(some)]
  return scores


def _pad(x: np.ndarray, frames: int) -> np.ndarray:
  return np.pad(np.asarray(x, np.float32), ((0, frames - len(x)), (0, 0)))


def _batches(sizes: Sequence[int], frames: int) -> Iterator[list[int]]:
  """Documents of about one length together, `frames` frames at most."""
  order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
  while order:
    longest = sizes[order[0]] + -sizes[order[0]] % DOCUMENT_STEP
    count = max(1, frames // longest)
    yield order[:count]
    order = order[count:]


def normalise_scores(scores: Float[np.ndarray, 'q r']) -> Float[np.ndarray, 'q r']:
  """Scores of each query with mean 0 and variance 1 over documents; 0 for a query that was not
  searched."""
  scores = np.nan_to_num(np.asarray(scores, np.float64))
  spread = np.maximum(scores.std(axis=1, keepdims=True), 1e-9)
  return (scores - scores.mean(axis=1, keepdims=True)) / spread

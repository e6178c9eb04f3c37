"""k-means on the accelerator: assignment, initialisation, and the mini-batch update.

The rules are those of scikit-learn's MiniBatchKMeans, which made HuBERT's targets (fairseq,
examples/hubert/simple_kmeans), on fixed shapes: rows behind a mask may be NaN and count for
nothing. All of it can be jitted with the rows sharded over devices: sums then run over all of
them. Float32; shape letters: n frames, d features, k clusters.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from research.errors import unknown

INITS = ('k-means++', 'random')
# A distance is a difference of large numbers: TF32 or bfloat16 would decide between near clusters.
_EXACT = jax.lax.Precision.HIGHEST
# The first mini-batches are of few clips: what none of them takes may belong to others.
GRACE = 10


class State(NamedTuple):
  """Everything that a fit knows.

  Attributes:
    centroids: where the clusters are.
    counts: frames that each cluster has taken so far; one over it is its learning rate.
    steps: mini-batches so far.
    inertia: mean squared distance of the last mini-batch to the centroids before it.
    smoothed: exponentially weighted mean of it; NaN before the second mini-batch.
    best: lowest `smoothed` so far.
    stale: mini-batches since `best`.
    restarts: how often a cluster was moved because it was dead.
    recent: frames that each cluster took since somebody set it to 0; for reports.
  """

  centroids: Float[Array, 'k d']
  counts: Float[Array, 'k']
  steps: Int[Array, '']
  inertia: Float[Array, '']
  smoothed: Float[Array, '']
  best: Float[Array, '']
  stale: Int[Array, '']
  restarts: Int[Array, '']
  recent: Float[Array, 'k']


def assign(
  x: Float[Array, 'n d'], centroids: Float[Array, 'k d'], block: int | None = None
) -> tuple[Int[Array, 'n'], Float[Array, 'n']]:
  """The nearest centroid of every row, the first of equals, and the squared distance to it.

  fairseq, dump_km_label.py: argmin of |x|^2 - 2 x c + |c|^2, whose first term decides nothing.

  Args:
    x: rows.
    centroids: of the clusters.
    block: rows at a time, a divisor of n: on one CPU the scores then stay in its cache. Not for
      rows that are shared out over devices.
  """
  if block is None:
    labels = _nearest(x, centroids)
  else:
    parts = x.reshape(-1, block, x.shape[1])
    labels = jax.lax.map(lambda part: _nearest(part, centroids), parts).reshape(-1)
  return labels, jnp.square(x - centroids[labels]).sum(axis=1)


def _nearest(x: Float[Array, 'n d'], centroids: Float[Array, 'k d']) -> Int[Array, 'n']:
  # Clusters first: the smallest of every column is found without turning the matrix.
  scores = jnp.square(centroids).sum(axis=1)[:, None] - 2.0 * jnp.matmul(
    centroids, x.T, precision=_EXACT
  )
  scores = jax.lax.optimization_barrier(scores)  # or the CPU computes it twice
  clusters = centroids.shape[0]
  numbers = jnp.arange(clusters, dtype=jnp.int32)[:, None]
  labels = jnp.where(scores == scores.min(axis=0), numbers, clusters).min(axis=0)
  # Rows that are not finite belong to no cluster; they get a valid number.
  return jnp.minimum(labels, clusters - 1)


def mean_inertia(
  x: Float[Array, 'n d'],
  mask: Bool[Array, 'n'],
  centroids: Float[Array, 'k d'],
  block: int | None = None,
) -> Float[Array, '']:
  """Mean squared distance of the real rows to their nearest centroid; `block` as in `assign`."""
  _, squared = assign(x, centroids, block)
  return jnp.where(mask, squared, 0.0).sum() / jnp.maximum(mask.sum().astype(jnp.float32), 1.0)


# -- Initialisation ----------------------------------------------------------------------------


def random_init(
  key: PRNGKeyArray, x: Float[Array, 'n d'], mask: Bool[Array, 'n'], clusters: int
) -> Float[Array, 'k d']:
  """Different real rows, drawn evenly; there have to be at least `clusters` of them."""
  draws = jnp.where(mask, jax.random.uniform(key, mask.shape), -1.0)
  return x[jax.lax.top_k(draws, clusters)[1]]


def plus_plus_init(
  key: PRNGKeyArray, x: Float[Array, 'n d'], mask: Bool[Array, 'n'], clusters: int
) -> Float[Array, 'k d']:
  """k-means++ (Arthur and Vassilvitskii 2007), greedy as in scikit-learn.

  Every centroid is the best of 2 + log k rows drawn by their squared distance to the centroids so
  far.
  """
  trials = 2 + int(math.log(clusters))
  x = jnp.where(mask[:, None], x, 0.0)
  squares = jnp.square(x).sum(axis=1)

  def distances(rows: Float[Array, 'r d']) -> Float[Array, 'r n']:
    products = jnp.matmul(rows, x.T, precision=_EXACT)
    found = jnp.square(rows).sum(axis=1)[:, None] - 2.0 * products + squares
    return jnp.where(mask, jnp.maximum(found, 0.0), 0.0)

  key, draw = jax.random.split(key)
  first = jax.lax.top_k(jnp.where(mask, jax.random.uniform(draw, mask.shape), -1.0), 1)[1]
  centroids = jnp.zeros((clusters, x.shape[1]), x.dtype).at[0].set(x[first[0]])

  def add(i, carry):
    centroids, closest = carry
    total = jnp.cumsum(closest)
    uniform = jax.random.uniform(jax.random.fold_in(key, i), (trials,))
    # Side 'right' passes over rows at distance 0, real or not.
    rows = jnp.searchsorted(total, uniform * total[-1], side='right')
    rows = jnp.minimum(rows, len(total) - 1)
    nearer = jnp.minimum(closest, distances(x[rows]))
    best = jnp.argmin(nearer.sum(axis=1))
    return centroids.at[i].set(x[rows[best]]), nearer[best]

  closest = distances(x[first])[0]
  return jax.lax.fori_loop(1, clusters, add, (centroids, closest))[0]


@functools.partial(jax.jit, static_argnames=('clusters', 'init', 'tries', 'block'))
def best_init(
  key: PRNGKeyArray,
  x: Float[Array, 'n d'],
  mask: Bool[Array, 'n'],
  *,
  clusters: int,
  init: str = 'k-means++',
  tries: int = 20,
  block: int | None = None,
) -> Float[Array, 'k d']:
  """Of several initialisations, that with the lowest inertia on `x`; `block` as in `assign`.

  Raises:
    InputError: no such initialisation.
  """
  if init not in INITS:
    raise unknown('initialisation', init, INITS)
  draw = plus_plus_init if init == 'k-means++' else random_init
  first = draw(jax.random.fold_in(key, 0), x, mask, clusters)
  if tries == 1:
    return first

  def attempt(i, carry):
    centroids = draw(jax.random.fold_in(key, i), x, mask, clusters)
    found = mean_inertia(x, mask, centroids, block)
    better = found < carry[1]
    return jnp.where(better, centroids, carry[0]), jnp.where(better, found, carry[1])

  start = first, mean_inertia(x, mask, first, block)
  return jax.lax.fori_loop(1, tries, attempt, start)[0]


def start(centroids: Float[Array, 'k d']) -> State:
  """The state before the first mini-batch."""
  zeros, none = jnp.zeros(centroids.shape[0]), jnp.zeros((), jnp.int32)
  nan = jnp.full((), jnp.nan)
  return State(centroids, zeros, none, nan, nan, jnp.full((), jnp.inf), none, none, zeros)


# -- Mini-batches ------------------------------------------------------------------------------


def cluster_sums(
  x: Float[Array, 'n d'], labels: Int[Array, 'n'], clusters: int
) -> Float[Array, 'k d']:
  """Sums of the rows of each label, the same bits every time; rows whose label is `clusters` are
  left out, whatever they hold."""
  return jax.lax.platform_dependent(
    x,
    labels,
    # A product with ones and zeros is what accelerators do best, and atomic additions there come in
    # another order every time; a CPU adds row by row, sixteen times as fast.
    cpu=lambda x, labels: jax.ops.segment_sum(x, labels, clusters),
    default=lambda x, labels: jnp.matmul(
      jax.nn.one_hot(labels, clusters, dtype=x.dtype).T,
      jnp.where(labels[:, None] < clusters, x, 0.0),
      precision=_EXACT,
    ),
  )


def update(
  state: State,
  x: Float[Array, 'n d'],
  mask: Bool[Array, 'n'],
  key: PRNGKeyArray,
  *,
  alpha: float,
  reassignment_ratio: float = 0.0,
  grace: int = GRACE,
  block: int | None = None,
) -> State:
  """One mini-batch.

  Each centroid becomes the mean of all frames it ever took: its learning rate is one over their
  number. Clusters that never took a frame move to rows of this mini-batch, drawn by `key` (at most
  half of the rows).

  Args:
    state: of the fit.
    x: rows.
    mask: True for real rows.
    key: of the draws.
    alpha: weight of this mini-batch in the smoothed inertia; scikit-learn has
      min(1, 2 * rows / (frames of the data + 1)).
    reassignment_ratio: clusters with fewer frames than this share of the largest move as well.
    grace: mini-batches before the first cluster may move.
    block: see `assign`.
  """
  clusters = state.centroids.shape[0]
  # Masked rows get an unused label; copying x without them would take longer.
  labels, squared = assign(x, state.centroids, block)
  labels = jnp.where(mask, labels, clusters)
  weights = mask.astype(jnp.float32)
  rows = jnp.maximum(weights.sum(), 1.0)
  inertia = jnp.where(mask, squared, 0.0).sum() / rows

  # -- Centroids: running means.
  taken = jax.ops.segment_sum(weights, labels, clusters)
  counts = state.counts + taken
  # What is added shrinks with the count, so float32 is enough for any number of frames.
  moved = cluster_sums(x, labels, clusters) - taken[:, None] * state.centroids
  centroids = state.centroids + moved / jnp.maximum(counts, 1.0)[:, None]

  # -- Dead clusters: each gets a row of its own.
  dead = counts <= 0
  if reassignment_ratio > 0:
    dead |= counts < reassignment_ratio * counts.max()
  place = jnp.cumsum(dead) - 1
  dead &= (place < mask.sum() // 2) & (state.steps >= grace)

  def restarted(centroids):
    draws = jnp.where(mask, jax.random.uniform(key, mask.shape), -1.0)
    order = jax.lax.top_k(draws, min(clusters, x.shape[0]))[1]
    drawn = x[order[jnp.clip(place, 0, len(order) - 1)]]
    return jnp.where(dead[:, None], drawn, centroids)

  centroids = jax.lax.cond(dead.any(), restarted, lambda centroids: centroids, centroids)
  if reassignment_ratio > 0:
    # As many as the poorest of the others, or it would be moved again at once.
    rest = jnp.where(dead, jnp.inf, counts).min()
    counts = jnp.where(dead, jnp.where(jnp.isfinite(rest), rest, 0.0), counts)

  # -- Progress: the first inertia is that of the initialisation and is passed over.
  first, second = state.steps == 0, jnp.isnan(state.smoothed)
  smoothed = jnp.where(second, inertia, state.smoothed * (1.0 - alpha) + inertia * alpha)
  smoothed = jnp.where(first, jnp.nan, smoothed)
  better = smoothed < state.best
  stale = jnp.where(better | first, 0, state.stale + 1)
  return State(
    centroids=centroids,
    counts=counts,
    steps=state.steps + 1,
    inertia=inertia,
    smoothed=smoothed,
    best=jnp.where(better, smoothed, state.best),
    stale=stale,
    restarts=state.restarts + dead.sum().astype(jnp.int32),
    recent=state.recent + taken,
  )

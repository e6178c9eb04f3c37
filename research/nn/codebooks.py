"""What codebooks do, as pure functions: nearest vectors, running averages, k-means, dead codes.

Every sum is over all frames of a batch, wherever they lie: on a mesh of devices a codebook learns
what it learns on one. Draws are given, as rows of the batch; `draw_rows` makes them from a key.
Letters: r frames, k codes, d width.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# -- Assignment --------------------------------------------------------------------------------


def distances(x: Float[Array, 'r d'], vectors: Float[Array, 'k d']) -> Float[Array, 'r k']:
  """|x|^2 - 2 x e + |e|^2, in this order of terms, which decides near ties."""
  products = jnp.einsum('rd,kd->rk', x, vectors, precision='highest')
  return jnp.square(x).sum(axis=-1)[:, None] - 2.0 * products + jnp.square(vectors).sum(axis=-1)


def nearest(x: Float[Array, 'r d'], vectors: Float[Array, 'k d']) -> Int[Array, ' r']:
  """The code of each frame; of equal distances the lowest."""
  return jnp.argmin(distances(x, vectors), axis=-1)


def straight_through(x: Float[Array, '*s'], vectors: Float[Array, '*s']) -> Float[Array, '*s']:
  """The vectors, whose gradient goes to `x` as it is (VQ-VAE, arXiv 1711.00937, §3.2)."""
  return x + jax.lax.stop_gradient(vectors - x)


def mean_square(
  one: Float[Array, 'r d'], other: Float[Array, 'r d'], used: Bool[Array, ' r']
) -> Float[Array, '']:
  """Mean squared difference over all values of the frames that are used."""
  count = jnp.maximum(used.sum(), 1).astype(jnp.float32) * one.shape[-1]
  return jnp.where(used[:, None], jnp.square(one - other), 0.0).sum() / count


def tally(
  x: Float[Array, 'r d'], codes: Int[Array, ' r'], used: Bool[Array, ' r'], k: int
) -> tuple[Float[Array, ' k'], Float[Array, 'k d']]:
  """(frames of each code, their sum). As a product, not a scatter: its bits are the same in every
  run on a GPU too."""
  chosen = jnp.where(used[:, None], jax.nn.one_hot(codes, k), 0.0)
  return chosen.sum(axis=0), jnp.einsum('rk,rd->kd', chosen, x, precision='highest')


# -- Health ------------------------------------------------------------------------------------


def perplexity(probabilities: Float[Array, '*g k'], epsilon: float = 1e-10) -> Float[Array, '*g']:
  """exp(entropy), with `epsilon` inside the logarithm: haiku's and sonnet's is 1e-10."""
  return jnp.exp(-(probabilities * jnp.log(probabilities + epsilon)).sum(axis=-1))


def fractions(counts: Float[Array, '*g k']) -> Float[Array, '*g k']:
  """Counts as parts of their sum."""
  return counts / jnp.maximum(counts.sum(axis=-1, keepdims=True), 1.0)


# -- Draws -------------------------------------------------------------------------------------


def draw_rows(key: Array, used: Bool[Array, ' r'], count: int) -> Int[Array, ' n']:
  """`count` rows among those used, each once, and again from the first where they are too few."""
  order = jnp.argsort(jnp.where(used, jax.random.uniform(key, used.shape), 2.0))
  return order[jnp.arange(count) % jnp.maximum(used.sum(), 1)]


class Draws(NamedTuple):
  """Frames that replace or begin codes.

  Attributes:
    rows: which frame, of each code.
    noise: standard normal, times 0.01 d^-0.5 added to each; None for none. Jukebox adds it where a
      batch has fewer frames than there are codes, as codes would be equal.
  """

  rows: Int[Array, '*q k']
  noise: Float[Array, '*q k d'] | None = None


def draw(key: Array, used: Bool[Array, ' r'], k: int, noise_width: int = 0) -> Draws:
  """Draws for one codebook; with the width of vectors also noise, 0 where frames are enough."""
  rows = draw_rows(jax.random.fold_in(key, 0), used, k)
  if not noise_width:
    return Draws(rows)
  noise = jax.random.normal(jax.random.fold_in(key, 1), (k, noise_width))
  return Draws(rows, jnp.where(used.sum() < k, noise, 0.0))


def drawn(x: Float[Array, 'r d'], draws: Draws) -> Float[Array, 'k d']:
  """The vectors of draws."""
  rows = x[draws.rows]
  return rows if draws.noise is None else rows + draws.noise * (0.01 * x.shape[-1] ** -0.5)


# -- Running averages --------------------------------------------------------------------------

# What happens to codes whose running count is below the threshold.
DEAD = ('keep', 'restart', 'reset')
STARTS = ('random', 'rows', 'kmeans')


@dataclasses.dataclass(frozen=True)
class Ema:
  """How a codebook follows the frames of its codes: e = sums / counts, both running averages.

  Attributes:
    decay: of the averages, an update.
    debias: averages start at 0 and are divided by 1 - decay^updates.
    epsilon: Laplace smoothing of counts, (n + epsilon) / (N + k epsilon) N; 0 for none.
    threshold: running count below which a code is dead.
    dead: 'keep': it stays what it is. 'restart': each update a frame of the batch takes its place,
      its running sum and count go on (Jukebox). 'reset': so do sum and count, which begin at the
      threshold, so that it lives on.
    start: 'random': as initialised. 'rows': frames of the first batch. 'kmeans': their k-means.
    iterations: of the k-means.
    published_sums: EnCodec's `embed_avg` after k-means: the centroids themselves, not times their
      counts, by which all vectors shrink at first.
  """

  decay: float = 0.99
  debias: bool = False
  epsilon: float = 0.0
  threshold: float = 0.0
  dead: str = 'keep'
  start: str = 'random'
  iterations: int = 50
  published_sums: bool = False

  def __post_init__(self):
    if self.dead not in DEAD or self.start not in STARTS:
      raise ValueError(f'dead={self.dead!r} is of {DEAD}, start={self.start!r} of {STARTS}.')


# dm-haiku's and sonnet's VectorQuantizerEMA; Jukebox (vqvae/bottleneck.py); EnCodec
# (quantization/core_vq.py), whose released expiry of dead codes is overwritten by the update after
# it and so has no effect: `ENCODEC_PUBLISHED` is that, `ENCODEC` what was meant.
HAIKU = Ema(debias=True, epsilon=1e-5)
JUKEBOX = Ema(threshold=1.0, dead='restart', start='rows')
ENCODEC = Ema(epsilon=1e-5, threshold=2.0, dead='reset', start='kmeans')
ENCODEC_PUBLISHED = Ema(epsilon=1e-5, start='kmeans', published_sums=True)


class Averages(NamedTuple):
  """A codebook that follows its frames.

  Attributes:
    vectors: the codebook.
    sums, counts: running averages, of the sum and the number of frames of each code.
    updates: how many there were.
  """

  vectors: Float[Array, 'k d']
  sums: Float[Array, 'k d']
  counts: Float[Array, ' k']
  updates: Int[Array, '']


def kmeans(
  x: Float[Array, 'r d'], used: Bool[Array, ' r'], means: Float[Array, 'k d'], iterations: int
) -> tuple[Float[Array, 'k d'], Float[Array, ' k']]:
  """(centroids, frames of each in the last assignment) of Lloyd's iterations; a centroid without
  frames stays."""

  def turn(_, state):
    means, _ = state
    counts, sums = tally(x, nearest(x, means), used, len(means))
    return jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1.0)[:, None], means), counts

  return jax.lax.fori_loop(0, iterations, turn, (means, jnp.zeros(len(means))))


def begin(
  how: Ema, x: Float[Array, 'r d'], used: Bool[Array, ' r'], draws: Draws, updates: Int[Array, '']
) -> Averages:
  """A codebook of the first batch, before its first update."""
  rows = drawn(x, draws)
  if how.start == 'rows':
    return Averages(rows, rows, jnp.ones(len(rows)), updates)
  means, counts = kmeans(x, used, rows, how.iterations)
  sums = means if how.published_sums else means * counts[:, None]
  return Averages(means, sums, counts, updates)


def restore(vectors: Float[Array, 'k d'], usage: float) -> Averages:
  """A trained codebook alone, to learn on: every code counts as used `usage` times, in Jukebox the
  codes of a clip times the clips of an update, by the codes of the codebook."""
  return Averages(vectors, vectors * usage, jnp.full(len(vectors), usage), jnp.zeros((), jnp.int32))


def update(
  how: Ema,
  state: Averages,
  x: Float[Array, 'r d'],
  codes: Int[Array, ' r'],
  used: Bool[Array, ' r'],
  draws: Draws | None = None,
) -> Averages:
  """The codebook after a batch whose frames had these codes.

  Args:
    how: see `Ema`.
    state: before.
    x: frames.
    codes: of each.
    used: which count; a batch without any changes nothing.
    draws: frames for dead codes, needed unless `how.dead` is 'keep'.
  """
  k = len(state.vectors)
  new_counts, new_sums = tally(x, codes, used, k)
  counts = how.decay * state.counts + (1.0 - how.decay) * new_counts
  sums = how.decay * state.sums + (1.0 - how.decay) * new_sums
  updates = state.updates + 1

  # Vectors: averages, debiased and smoothed.
  own_counts, own_sums = counts, sums
  if how.debias:
    weight = 1.0 - jnp.power(jnp.float32(how.decay), updates.astype(jnp.float32))
    own_counts, own_sums = counts / weight, sums / weight
  if how.epsilon:
    total = own_counts.sum()
    own_counts = (own_counts + how.epsilon) / (total + k * how.epsilon) * total
  there = own_counts > 0
  mean = own_sums / jnp.where(there, own_counts, 1.0)[:, None]
  vectors = jnp.where(there[:, None], mean, state.vectors)

  # Codes that too few frames chose lately.
  if how.dead != 'keep' and draws is not None:
    dead = counts < how.threshold
    rows = drawn(x, draws)
    vectors = jnp.where(dead[:, None], rows, vectors)
    if how.dead == 'reset':
      sums = jnp.where(dead[:, None], rows * how.threshold, sums)
      counts = jnp.where(dead, how.threshold, counts)
  after = Averages(vectors, sums, counts, updates)
  return jax.tree.map(lambda a, b: jnp.where(used.any(), a, b), after, state)


def changes(
  how: Ema, before: Averages, after: Averages, x: Float[Array, 'r d'], used: Bool[Array, ' r']
) -> dict[str, Float[Array, '']]:
  """Jukebox's signals of an update.

  Returns:
    'entropy' of the codes of the batch in nats, 'used_curr' codes with at least `threshold` frames
    in it, 'usage' codes whose running count is at least that, 'dk' root mean square by which
    vectors moved, 'fit' mean squared distance of frames to their vectors, 'pn' root mean square of
    frames about their mean.
  """
  k = len(before.vectors)
  far = distances(x, before.vectors)
  codes = jnp.argmin(far, axis=-1)
  counts, _ = tally(x, codes, used, k)
  p = fractions(counts)
  real = jnp.maximum(used.sum(), 1).astype(jnp.float32)
  mean = jnp.where(used[:, None], x, 0.0).sum() / (real * x.shape[-1])
  return {
    'entropy': -(p * jnp.log(p + 1e-8)).sum(),
    'used_curr': (counts >= how.threshold).sum().astype(jnp.float32),
    'usage': (after.counts >= how.threshold).sum().astype(jnp.float32),
    'dk': jnp.sqrt(jnp.square(after.vectors - before.vectors).mean()),
    'fit': jnp.where(used, far.min(axis=-1), 0.0).sum() / real,
    'pn': jnp.sqrt(mean_square(x, jnp.full_like(x, mean), used)),
  }

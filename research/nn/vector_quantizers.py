"""Codebooks that replace a frame by its nearest vector: VQ-VAE's, and residual rows of them.

One codebook learns by gradients (`GradientQuantizer`) or by running averages of its frames
(`EmaQuantizer`), in any of the manners of `codebooks`. With `depth` above 1 each quantiser takes
what those before it left (EnCodec, arXiv 2210.13438, §3.2).
Letters: b clips, m frames, r = b m, d width, k codes, q quantisers.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError
from research.nn import codebooks
from research.nn.codebooks import Averages, Draws
from research.nn.quantizers import Quantized

# Collection of what running averages keep.
COLLECTION = 'codebooks'


class GradientQuantizer(nn.Module):
  """VQ-VAE's codebook (arXiv 1711.00937, §3.2) with sonnet's and haiku's means over all values:
  loss = mean (sg(z) - e)^2 + commitment mean (z - sg(e))^2.

  Parameter: `codebook` [1, k, d], uniform with variance 1 / d.

  Attributes:
    codes: k.
    width: d.
    commitment: weight of the second term.
  """

  codes: int
  width: int
  commitment: float = 0.25

  def setup(self):
    start = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform', in_axis=2, out_axis=1)
    self.codebook = self.param('codebook', start, (1, self.codes, self.width))

  def __call__(self, x: Float[Array, 'b m d'], used: Bool[Array, 'b m']) -> Quantized:
    """Quantises frames, in float32; those that are not `used` do not count in loss and usage."""
    codebook = jnp.asarray(self.codebook)[0]
    flat, real = _flat(x, used)
    still = jax.lax.stop_gradient
    codes = codebooks.nearest(still(flat), still(codebook))
    vectors = codebook[codes]
    codebook_loss = codebooks.mean_square(still(flat), vectors, real)
    commitment = codebooks.mean_square(flat, still(vectors), real)
    counts, _ = codebooks.tally(still(flat), codes, real, self.codes)
    return _quantized(
      x, used, codebooks.straight_through(flat, vectors), codes[None], counts[None],
      commitment[None], codebook_loss + self.commitment * commitment,
    )  # fmt: skip

  def lookup(self, codes: Int[Array, '*places 1']) -> Float[Array, '*places d']:
    """The vectors of codes."""
    return jnp.asarray(self.codebook)[0][codes[..., 0]]


class EmaQuantizer(nn.Module):
  """Codebooks that follow the running average of their frames; no gradient reaches them.

  Variables, in the collection 'codebooks': `vectors`, `sums` [q, k, d], `counts` [q, k], `updates`
  int [q], and `begun` bool [q], False until the first batch has set a codebook that starts by one.

  Attributes:
    codes: k.
    width: d.
    how: of the averages.
    depth: q.
    depths: in training one of these numbers of quantisers is drawn for every batch, with equal
      chances; () for always all. The others do not learn from the batch.
    commitment: weight of mean (z - sg(e))^2, averaged over quantisers.
    commit_all: the commitment of every quantiser reaches the frames (audiocraft); otherwise that of
      the first alone, as in the released EnCodec, which keeps what its authors call a mistake.
  """

  codes: int
  width: int
  how: codebooks.Ema = codebooks.ENCODEC
  depth: int = 1
  depths: tuple[int, ...] = ()
  commitment: float = 1.0
  commit_all: bool = False

  def setup(self):
    q, k, d = self.depth, self.codes, self.width
    if any(not 1 <= each <= q for each in self.depths):
      raise InputError(f'{q} quantisers got depths={self.depths}: give numbers of 1 to {q}.')
    start = nn.initializers.variance_scaling(
      1.0, 'fan_in', 'uniform', in_axis=2, out_axis=1, batch_axis=0
    )

    def make(name, function):
      return self.variable(COLLECTION, name, function)

    def random():
      return start(self.make_rng('params'), (q, k, d))

    self.vectors = make('vectors', random)
    self.sums = make('sums', lambda: jnp.zeros((q, k, d)))
    self.counts = make('counts', lambda: jnp.zeros((q, k)))
    self.updates = make('updates', lambda: jnp.zeros((q,), jnp.int32))
    self.begun = make('begun', lambda: jnp.full((q,), self.how.start == 'random'))

  def __call__(
    self,
    x: Float[Array, 'b m d'],
    used: Bool[Array, 'b m'],
    train: bool = False,
    n_q: Int[Array, ''] | int | None = None,
    start: Draws | None = None,
    dead: Draws | None = None,
  ) -> Quantized:
    """Quantises frames, in float32; in training the codebooks learn.

    Args:
      x: frames; what is not used may be anything.
      used: frames that count.
      train: codebooks learn.
      n_q: quantisers that take part; None: all, in training one of `depths`. An array masks the
        others, a number leaves them out.
      start, dead: frames that begin codebooks, and that take the place of dead codes; [q, k].
        None: drawn from rng 'noise'.

    Returns:
      `Quantized`; codes are [b, m, q], 0 where a quantiser takes no part. Perplexity and usage are
      means over the quantisers that take part, commitments [q] theirs.
    """
    learns = train and not self.is_initializing() and self.is_mutable_collection(COLLECTION)
    flat, real = _flat(x, used)
    depth = n_q if isinstance(n_q, int) else self.depth
    if not 1 <= depth <= self.depth:
      raise InputError(f'n_q={n_q} of {self.depth} quantisers: give 1 to {self.depth}.')

    # How many take part, and what they draw: a codebook starts once, so that both draws are one.
    count: Any = depth
    if isinstance(n_q, jax.Array):
      count = n_q
    elif n_q is None and learns and self.depths:
      place = jax.random.randint(self.make_rng('noise'), (), 0, len(self.depths))
      count = jnp.asarray(self.depths)[place]
    active = jnp.arange(depth) < count
    if learns and self._draws(start, dead):
      keys = jax.random.split(self.make_rng('noise'), depth)
      width = self.width if self.how.dead == 'restart' else 0
      draws = jax.vmap(lambda key: codebooks.draw(key, real, self.codes, width))(keys)
      start, dead = start or draws, dead or draws

    state = Averages(self.vectors.value, self.sums.value, self.counts.value, self.updates.value)
    state, begun = jax.tree.map(lambda v: v[:depth], (state, self.begun.value))

    def layer(carry, given):
      residual, total = carry
      state, begun, active, start, dead = given
      still = jax.lax.stop_gradient(residual)
      if learns:
        state, begun = self._begin(state, begun, active, still, real, start)
      codes = codebooks.nearest(still, state.vectors)
      vectors = jnp.where(active, state.vectors[codes], 0.0)
      commitment = jnp.where(active, codebooks.mean_square(residual, vectors, real), 0.0)
      counts, _ = codebooks.tally(still, codes, real, self.codes)
      if learns:
        state = self._learn(state, active, still, codes, real, dead)
      left = residual - vectors
      left = left if self.commit_all else jax.lax.stop_gradient(left)
      found = jnp.where(active, codes, 0), counts, commitment, state, begun
      return (left, total + vectors), found

    given = (state, begun, active, start, dead)
    first = (flat, jnp.zeros_like(flat))
    (_, total), (codes, counts, commitments, state, begun) = jax.lax.scan(layer, first, given)
    if learns:
      self._keep(state, begun, depth)
    penalty = commitments.sum() / jnp.asarray(count, jnp.float32)
    vectors = codebooks.straight_through(flat, total)
    return _quantized(
      x, used, vectors, codes, counts, commitments, self.commitment * penalty, active
    )

  def _draws(self, start: Draws | None, dead: Draws | None) -> bool:
    """Whether anything is left to draw."""
    begins = self.how.start != 'random' and start is None
    return begins or (self.how.dead != 'keep' and dead is None)

  def _begin(self, state, begun, active, x, real, start):
    """The codebook, set by the frames if nothing has set it yet."""
    if self.how.start == 'random':
      return state, begun

    def first():
      return codebooks.begin(self.how, x, real, start, state.updates)

    now = active & ~begun & real.any()
    return jax.lax.cond(now, first, lambda: state), begun | now

  def _learn(self, state, active, x, codes, real, dead):
    after = codebooks.update(self.how, state, x, codes, real, dead)
    return jax.tree.map(lambda new, old: jnp.where(active, new, old), after, state)

  def _keep(self, state, begun, depth):
    variables = self.vectors, self.sums, self.counts, self.updates, self.begun
    for variable, value in zip(variables, (*state, begun), strict=True):
      variable.value = variable.value.at[:depth].set(value)

  def lookup(self, codes: Int[Array, '*places q']) -> Float[Array, '*places d']:
    """The sum of the vectors of codes; fewer quantisers than there are may be given, and a code
    below 0 adds nothing."""
    vectors = jnp.asarray(self.vectors.value)  # loaded variables are NumPy's
    total = jnp.zeros((*codes.shape[:-1], self.width))
    for i in range(codes.shape[-1]):
      code = codes[..., i]
      total = total + jnp.where(code[..., None] >= 0, vectors[i][code], 0.0)
    return total


def _flat(
  x: Float[Array, 'b m d'], used: Bool[Array, 'b m']
) -> tuple[Float[Array, 'r d'], Bool[Array, ' r']]:
  """Frames in one row, zeros where they are not used."""
  x = jnp.where(used[..., None], x.astype(jnp.float32), 0.0)
  return x.reshape(-1, x.shape[-1]), used.reshape(-1)


def _quantized(
  x: Float[Array, 'b m d'],
  used: Bool[Array, 'b m'],
  vectors: Float[Array, 'r d'],
  codes: Int[Array, 'q r'],
  counts: Float[Array, 'q k'],
  commitments: Float[Array, ' q'],
  loss: Float[Array, ''],
  active: Bool[Array, ' q'] | None = None,
) -> Quantized:
  """Results in the shape of the batch."""
  active = jnp.ones(len(codes), bool) if active is None else active
  each = codebooks.perplexity(codebooks.fractions(counts))
  usage = (counts > 0).mean(axis=-1)
  codes = jnp.where(used.reshape(-1), codes, 0).T.reshape(*used.shape, len(codes))
  return Quantized(
    vectors.reshape(x.shape),
    codes,
    codes,
    code_perplexity=each.mean(where=active),
    min_code_perplexity=each.min(where=active, initial=jnp.inf),
    loss=loss,
    code_usage=usage.mean(where=active),
    min_code_usage=usage.min(where=active, initial=1.0),
    commitments=commitments,
  )

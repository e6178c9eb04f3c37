"""Mini-batches of a k-means fit: a pool in which frames of many clips mix, and what leaves it."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from research.units import kmeans
from research.units.blocks import Blocks, RowBlocks

# Mini-batches in the pool.
POOL = 10


class Pool(NamedTuple):
  """Frames that wait for a mini-batch: the rows `order[:waiting]`."""

  frames: Float[Array, 'm d']
  order: Int[Array, 'o']
  waiting: Int[Array, '']


@dataclasses.dataclass(frozen=True)
class Rules:
  """What the compiled programs depend on."""

  batch_size: int
  alpha: float
  reassignment_ratio: float
  max_no_improvement: int
  rows: NamedSharding
  whole: NamedSharding
  block: int | None

  @property
  def padded(self) -> int:
    """Rows of a mini-batch, so that devices or blocks share them evenly."""
    unit = self.block or self.rows.mesh.size
    return -(-self.batch_size // unit) * unit

  def place(self, tree):
    """On every device, whole."""
    return jax.lax.with_sharding_constraint(tree, self.whole)


@functools.partial(jax.jit, static_argnames=('rules',), donate_argnums=(0,))
def append(pool: Pool, x: Float[Array, 'b n d'], mask: Bool[Array, 'b n'], *, rules: Rules) -> Pool:
  """The pool with the real frames of a block behind those that wait."""
  x, mask = rules.place((x.reshape(-1, x.shape[-1]), mask.reshape(-1)))
  nowhere = pool.frames.shape[0]
  target = jnp.where(mask, pool.waiting + jnp.cumsum(mask) - 1, nowhere)
  frames = pool.frames.at[target].set(x, mode='drop')
  return rules.place(Pool(frames, pool.order, pool.waiting + mask.sum()))


@functools.partial(jax.jit, static_argnames=('rules',), donate_argnums=(0,))
def drain(state: kmeans.State, pool: Pool, key: PRNGKeyArray, *, rules: Rules) -> kmeans.State:
  """The state after as many mini-batches as there are frames for in the pool.

  Each takes every n-th frame: all clips of the pool are in all of them. Clips come in batches of
  similar length, whose inertias differ so much that the smoothed one would be lowest by chance.
  """
  size = rules.batch_size
  full = pool.waiting // size
  padded = rules.padded
  key = jax.random.fold_in(key, state.steps)

  def step(carry):
    i, state = carry
    rows = jnp.minimum(jnp.arange(padded) * full + i, pool.order.shape[0] - 1)
    found = kmeans.update(
      state,
      jax.lax.with_sharding_constraint(pool.frames[pool.order[rows]], rules.rows),
      jnp.arange(padded) < size,
      jax.random.fold_in(key, i),
      alpha=rules.alpha,
      reassignment_ratio=rules.reassignment_ratio,
      block=rules.block,
    )
    return i + 1, found

  def more(carry):
    i, state = carry
    return (i < full) & (state.stale < rules.max_no_improvement)

  return rules.place(jax.lax.while_loop(more, step, (jnp.int32(0), state))[1])


@functools.partial(jax.jit, static_argnames=('rules',), donate_argnums=(0,))
def rest_of(pool: Pool, *, rules: Rules) -> Pool:
  """The frames that are left when the mini-batches are out.

  Not in `drain`: changed in place after a loop that reads it, the pool would be copied twice.
  """
  size = rules.batch_size
  full = pool.waiting // size
  rest = jax.lax.dynamic_slice_in_dim(pool.frames, full * size, size)
  frames = pool.frames.at[:size].set(rest)
  return rules.place(Pool(frames, pool.order, pool.waiting - full * size))


def pools(
  blocks: Blocks, rules: Rules, position: int, held: np.ndarray
) -> Iterator[tuple[int, Pool]]:
  """(blocks read so far, frames of some mini-batches), from block number `position` to the end.

  `held` is what was left of the blocks before. The arrays of a pool are gone with the next one.
  """
  put = blocks.devices.put_whole
  if isinstance(blocks, RowBlocks):
    for order in blocks.start(position):
      position += 1
      waiting = put(np.int32(len(order)))
      order = np.pad(order, (0, blocks.size - len(order)))
      yield position, Pool(blocks.x, put(order), waiting)
    return
  wanted = min(POOL * rules.batch_size, blocks.frames)
  frames = np.zeros((wanted + blocks.largest + rules.batch_size, held.shape[1]), np.float32)
  frames[: len(held)] = held
  order = np.arange(len(frames), dtype=np.int32)
  pool = Pool(put(frames), put(order), put(np.int32(len(held))))
  del frames
  for x, mask in blocks.start(position):
    pool = append(pool, x, mask, rules=rules)
    position += 1
    if int(pool.waiting) < wanted and position < blocks.total:
      continue
    yield position, pool
    pool = rest_of(pool, rules=rules)

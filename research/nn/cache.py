"""What a decoder keeps of earlier tokens: keys and values, in arrays whose shapes never change.

Layers take a cache and return the next one, so a step is a pure function that is compiled once; a
program that is given its cache to keep (`donate_argnums`) writes in place. An array of one layer is
[b, g, m, k], heads before slots: with slots first a step on a CPU copies all keys and values into
that order (8 x 20 heads of 1024 x 64: 50 ms, here 1.2 ms).

A cache is `aligned` or not. Aligned, all rows write the same slots, so padding takes slots too, and
is on the left where prompts differ in length (or anywhere: it is never attended to). Otherwise each
row writes after its own tokens, and padding, wherever it is, takes none; such writes are scatters,
slower on accelerators.
Letters: b rows, t new tokens, m slots, g key heads, k size of a head, l layers.
"""

import dataclasses
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError

# Position of a slot that holds no token.
EMPTY = -1


# Fields are Any: under `eval_shape` and in shardings the leaves are no arrays.
@flax.struct.dataclass
class Cache:
  """Keys and values of one layer's self-attention, or with a leading axis of all layers.

  Attributes:
    keys, values: [b, g, m, k].
    positions: int32 [b, m], position of the token in each slot among its row's real tokens, or
      EMPTY.
    length: int32 [b], real tokens of each row: the position of its next one.
    slots: int32 [], slots written, where rows are aligned; else None.
    ring: a full cache writes over its oldest slots: for layers that see a window of at most m.
  """

  keys: Any
  values: Any
  positions: Any
  length: Any
  slots: Any
  ring: bool = flax.struct.field(pytree_node=False, default=False)

  @property
  def max_length(self) -> int:
    return self.keys.shape[-2]


@flax.struct.dataclass
class Memory:
  """Keys and values of cross-attention, computed once: [b, g, s, k], and `mask` [b, s], True where
  they may be attended to, or None."""

  keys: Any
  values: Any
  mask: Any = None


@flax.struct.dataclass
class State:
  """What a decoder keeps from step to step.

  Attributes:
    caches: those of its layers, see `create_layers`: r rows.
    memories: those of its layers, of b inputs, r a multiple of b: rows of one input are neighbours
      and share its memory. None: it attends to no other sequence.
  """

  caches: Any
  memories: Any = None

  def after(self, caches: Any) -> 'State':
    """The state with the caches of further tokens."""
    return dataclasses.replace(self, caches=caches)

  def reorder(self, rows: Int[Array, ' r']) -> 'State':
    """The state whose row i continues from row `rows[i]`, which is of the same input."""
    return self.after(reorder(self.caches, rows))


class Seen(NamedTuple):
  """What the queries of a step may attend to; `positions` as in `Cache`."""

  keys: Float[Array, 'b s g k']
  values: Float[Array, 'b s g k']
  positions: Int[Array, 'b s']


# -- New caches --------------------------------------------------------------------------------


def create(
  batch: int,
  max_length: int,
  heads: int,
  size: int,
  dtype: Any = jnp.float32,
  aligned: bool = True,
  ring: bool = False,
) -> Cache:
  """An empty cache of one layer.

  Args:
    batch: rows.
    max_length: slots of a row.
    heads: key and value heads.
    size: of a head.
    dtype: of keys and values; 'bfloat16' halves their memory, attention computes in its own.
    aligned, ring: see above and `Cache`.

  Raises:
    InputError: a size below 1.
  """
  sizes = dict(batch=batch, max_length=max_length, heads=heads, size=size)
  for name, value in sizes.items():
    if value < 1:
      raise InputError(f'A cache got {name}={value}: give at least 1.')
  shape = (batch, heads, max_length, size)
  return Cache(
    keys=jnp.zeros(shape, dtype),
    values=jnp.zeros(shape, dtype),
    positions=jnp.full((batch, max_length), EMPTY, jnp.int32),
    length=jnp.zeros((batch,), jnp.int32),
    slots=jnp.zeros((), jnp.int32) if aligned else None,
    ring=ring,
  )


def create_layers(depth: int, scan: bool, *args: Any, **kwargs: Any) -> Any:
  """Empty caches of a row of equal layers, as `layers.run_blocks` takes them: a tuple, or for
  scanned layers one cache with a leading axis. Further arguments are those of `create`."""
  one = create(*args, **kwargs)
  if scan:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (depth, *x.shape)), one)
  return tuple(jax.tree.map(jnp.copy, one) for _ in range(depth))  # donated one by one


# -- One step ----------------------------------------------------------------------------------


def token_positions(
  cache: Cache | None, tokens: int, mask: Bool[Array, 'b t'] | None
) -> Int[Array, '#b t']:
  """Positions of new tokens among the real tokens of their row: the first real one has 0.

  Args:
    cache: of one layer, or None before which there is nothing.
    tokens: t.
    mask: True for real tokens; None for all. A padded one has the position of the real one before.
  """
  if mask is None:
    new = jnp.arange(tokens, dtype=jnp.int32)[None]
  else:
    new = jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=1) - 1, 0)
  return new if cache is None else new + cache.length[:, None]


def first_cache(state: Any) -> Cache:
  """The cache of the first layer in the state of a decoder: how many tokens there are, and where.

  Args:
    state: a tree with a cache a layer, or with one cache of all layers.
  """
  leaves = jax.tree.leaves(state, is_leaf=_is_cache)
  cache = next(leaf for leaf in leaves if _is_cache(leaf))
  return cache if cache.keys.ndim == 4 else jax.tree.map(lambda x: x[0], cache)


def _is_cache(x: Any) -> bool:
  return isinstance(x, Cache)


def append(
  cache: Cache,
  keys: Float[Array, 'b t g k'],
  values: Float[Array, 'b t g k'],
  mask: Bool[Array, 'b t'] | None = None,
) -> tuple[Cache, Seen]:
  """Writes t tokens: (the cache with them, what their queries attend to).

  The caller sees to it that there is room (`check_room`). Under `jit`, which cannot raise, tokens
  without room overwrite the last slots of aligned rows, and are not stored in other rows.

  Args:
    cache: of one layer.
    keys, values: of the new tokens.
    mask: True for real tokens; None for all.

  Raises:
    InputError: more tokens than slots; outside `jit`, more than slots that are left.
  """
  b, t = keys.shape[:2]
  m = cache.max_length
  real = jnp.ones((b, t), bool) if mask is None else mask
  if not cache.ring:
    check_room(cache, t if cache.slots is not None or mask is None else real.sum(axis=1))
  positions = jnp.where(real, token_positions(cache, t, mask), EMPTY)
  length = cache.length + real.sum(axis=1, dtype=jnp.int32)
  new = keys.swapaxes(1, 2), values.swapaxes(1, 2)

  if cache.slots is not None and (t == 1 or not cache.ring):
    start = cache.slots % m if cache.ring else cache.slots
    kept = [
      jax.lax.dynamic_update_slice_in_dim(old, x.astype(old.dtype), start, axis=2)
      for old, x in zip((cache.keys, cache.values), new)
    ]
    at = jax.lax.dynamic_update_slice_in_dim(cache.positions, positions, start, axis=1)
  else:
    # Where to: behind what is there, or nowhere.
    if cache.slots is None:
      order, taken = positions, real
    else:
      order, taken = cache.slots + jnp.arange(t)[None], jnp.ones((1, t), bool)
    if cache.ring:
      # Of two tokens for one slot the later one stays.
      end = length[:, None] if cache.slots is None else cache.slots + t
      order, taken = order % m, taken & (order >= end - m)
    order = jnp.broadcast_to(jnp.where(taken, order, m), (b, t))
    put = jax.vmap(lambda old, at, x: old.at[:, at].set(x.astype(old.dtype), mode='drop'))
    kept = [put(old, order, x) for old, x in zip((cache.keys, cache.values), new)]
    at = put(cache.positions[:, None], order, positions[:, None])[:, 0]

  slots = None if cache.slots is None else cache.slots + t
  after = dataclasses.replace(
    cache, keys=kept[0], values=kept[1], positions=at, length=length, slots=slots
  )
  if cache.ring and t > 1:
    # The first of these queries see tokens that the last ones have written over.
    both = [
      jnp.concatenate([old.astype(x.dtype), x], axis=2)
      for old, x in zip((cache.keys, cache.values), new)
    ]
    at = jnp.concatenate([cache.positions, positions], axis=1)
  else:
    both = [x.astype(keys.dtype) for x in kept]
  return after, Seen(both[0].swapaxes(1, 2), both[1].swapaxes(1, 2), at)


def check_room(cache: Cache, tokens: int | Int[Array, ' b'] = 0) -> None:
  """Raises InputError if `tokens` more (of each row) do not fit.

  Under `jit` only `tokens` itself is known. After compiled steps, a call with 0 tokens tells
  whether they had room.
  """
  used: Any = cache.length if cache.slots is None else cache.slots
  used, more = (np.zeros((), int) if _traced(x) else np.asarray(x) for x in (used, tokens))
  if (used + more).max() > cache.max_length:
    raise InputError(
      f'A cache of {cache.max_length} slots, {used.max()} of them in use, cannot take '
      f'{more.max()} more tokens: create it with a larger max_length.'
    )


def _traced(x: Any) -> bool:
  return isinstance(x, jax.core.Tracer)


# -- Rows --------------------------------------------------------------------------------------


def reorder(state: Any, rows: Int[Array, ' r']) -> Any:
  """The state of a decoder whose row i continues from row `rows[i]`: in a beam search, or to decode
  each row several times.

  Memories are copied too: a beam search whose rows stay with their clip reorders caches alone.

  Args:
    state: a tree of caches, memories, and arrays [b, …] (streaming states).
    rows: of the old state.
  """

  def take(x: Any) -> Any:
    if not isinstance(x, (Cache, Memory)):
      return jnp.take(x, rows, axis=0)
    axis = x.keys.ndim - 4
    changes = {
      name: jnp.take(value, rows, axis=axis)
      for name, value in vars(x).items()
      if name not in ('slots', 'ring') and value is not None
    }
    return type(x)(**{**vars(x), **changes})

  return jax.tree.map(take, state, is_leaf=lambda x: isinstance(x, (Cache, Memory)))

"""Causal dilated convolutions, all at once and sample by sample: equal by construction.

A layer with p taps of dilation d sees its own input and those d, 2 d, … (p - 1) d samples before.
What it keeps between steps are its last (p - 1) d inputs, in a ring whose slot i holds the input
of a time that is i modulo its length: one read of each earlier tap and one write a sample, without
moving what is there (Fast WaveNet, arXiv 1611.09482, whose queues these are). Rings that begin
with zeros stand for zeros before the first input of every layer.

Letters: b rows, u new samples, i channels in, o channels out, p taps, r slots of a ring.
"""

from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Num


@flax.struct.dataclass
class Rings:
  """Inputs that layers keep.

  Attributes:
    inputs: of every layer [r, b, i]; slots first, so that a write is one piece of memory.
    position: int32 [], samples taken so far.
  """

  inputs: Any
  position: Any


def rings(rows: int, shapes: Sequence[tuple[int, int, int]], dtype: Any = jnp.float32) -> Rings:
  """Empty rings.

  Args:
    rows: b.
    shapes: (taps, dilation, channels) of every layer.
    dtype: of what is kept.
  """
  made = [jnp.zeros(((p - 1) * d, rows, i), dtype) for p, d, i in shapes]
  return Rings(tuple(made), jnp.zeros((), jnp.int32))


def taps(
  ring: Num[Array, 'r b i'],
  position: Int[Array, ''],
  x: Num[Array, 'b u i'],
  count: int,
  dilation: int,
) -> tuple[Num[Array, 'b u pi'], Num[Array, 'r b i']]:
  """What every tap sees of u new inputs, side by side, the oldest first; and the ring after them.

  Args:
    ring: of the layer.
    position: samples before x.
    x: the new inputs.
    count: p.
    dilation: d.
  """
  if count == 1:
    return x, ring
  u, size = x.shape[1], (count - 1) * dilation
  if u == 1:
    at = [(position + j * dilation) % size for j in range(count - 1)]
    read = [jax.lax.dynamic_index_in_dim(ring, i, 0, keepdims=False) for i in at]
    new = x[:, 0]
    seen = jnp.concatenate([*(r.astype(new.dtype) for r in read), new], axis=-1)[:, None]
    return seen, jax.lax.dynamic_update_index_in_dim(ring, new.astype(ring.dtype), at[0], 0)
  # In order of time, then as the ring has them.
  past = jnp.roll(ring, -(position % size), axis=0).swapaxes(0, 1).astype(x.dtype)
  whole = jnp.concatenate([past, x], axis=1)
  kept = whole[:, u:].swapaxes(0, 1).astype(ring.dtype)
  return side_by_side(whole, u, count, dilation), jnp.roll(kept, (position + u) % size, axis=0)


def side_by_side(
  whole: Num[Array, 'b s i'], u: int, count: int, dilation: int
) -> Num[Array, 'b u pi']:
  """The taps of the last u of s inputs, side by side."""
  parts = [whole[:, j * dilation : j * dilation + u] for j in range(count)]
  return jnp.concatenate(parts, axis=-1)


def causal(x: Num[Array, 'b u i'], count: int, dilation: int) -> Num[Array, 'b u pi']:
  """The taps of inputs before which there are zeros, side by side."""
  if count == 1:
    return x
  whole = jnp.pad(x, ((0, 0), ((count - 1) * dilation, 0), (0, 0)))
  return side_by_side(whole, x.shape[1], count, dilation)

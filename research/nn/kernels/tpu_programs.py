"""Attention in Pallas for TPUs: the programs. `tpu_attention` says where and how they run.

A program computes some queries against all keys of some heads, so that the softmax needs no second
pass over the keys. The backward pass computes the weights again (Dao et al. 2022, arXiv 2205.14135,
appendix B).

Heads stay side by side as the projections leave them, [b, t, h k]: no array is transposed. The
columns of a program are a multiple of both LANES and a head. A product for one head is one over the
LANES around it, with zeros in the columns of other heads: a matrix unit is as wide as that anyway.
What a block holds beyond the end of an array is unknown, and cleaned before it is used.

Letters: b batch, t queries, s keys, h heads, k size of a head.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array

LANES = 128  # of a register
ROWS = 16  # of a register of 16-bit floats
LOGITS = 512 * 1024  # of a program and head; about ten arrays of this size are held at a time
NO_KEY = -3e38  # logit of what lies beyond the keys; that of a masked key is -1e30
MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class Call:
  """What is known of a call when it is compiled.

  Attributes:
    scale: of the queries.
    rate: dropout of the weights.
    shape: (t, s, h, k).
    masked, biased, gated: whether there is a mask, a bias, and a gate.
    interpret: runs without a TPU, for tests.
  """

  scale: float
  rate: float
  shape: tuple[int, int, int, int]
  masked: bool = False
  biased: bool = False
  gated: bool = False
  interpret: Any = False

  @property
  def columns(self) -> int:
    """Of a program."""
    return math.lcm(LANES, self.shape[3])

  @property
  def heads(self) -> int:
    """Of a program."""
    return self.columns // self.shape[3]

  @property
  def keys(self) -> int:
    """All keys, as many as registers hold."""
    return _up(self.shape[1], LANES)

  @property
  def queries(self) -> int:
    """Of a program."""
    t = self.shape[0]
    parts = max(1, math.ceil(t * self.keys / LOGITS))
    return _up(math.ceil(t / parts), ROWS)

  def cost(self, b: int, products: int) -> pl.CostEstimate:
    """Of a kernel that computes `products` matrix products over all query-key pairs."""
    t, s, h, k = self.shape
    pairs = b * h * t * s
    moved = 2 * b * h * k * (t + s) * products
    return pl.CostEstimate(
      flops=2 * products * pairs * k, transcendentals=pairs, bytes_accessed=moved
    )


def _up(n: int, multiple: int) -> int:
  return math.ceil(n / multiple) * multiple


# -- In a kernel -------------------------------------------------------------------------------


def _iota(shape: tuple[int, ...], axis: int) -> Array:
  return lax.broadcasted_iota(jnp.int32, shape, axis)


def _rows(ref: Any, start: Any, count: int) -> Array:
  """A block of rows [1, n, columns], with zeros from row `count` of the array on."""
  x = ref[0]
  return jnp.where(start + _iota(x.shape, 0) < count, x, jnp.zeros((), x.dtype))


def _window(call: Call, head: int) -> tuple[slice, int]:
  """The columns around a head, a multiple of LANES, and where the head begins in them."""
  size = call.shape[3]
  first = head * size // LANES * LANES
  return slice(first, _up((head + 1) * size, LANES)), head * size - first


def _own(call: Call, x: Array, begin: int) -> Array:
  """Zeros in the columns of other heads."""
  column = _iota(x.shape, 1)
  here = (column >= begin) & (column < begin + call.shape[3])
  return jnp.where(here, x, jnp.zeros((), x.dtype))


class _Columns:
  """A sum of arrays that each cover some columns, float32."""

  def __init__(self, shape: tuple[int, ...]):
    self.parts = [jnp.zeros((shape[0], LANES), jnp.float32)] * (shape[1] // LANES)

  def add(self, at: slice, x: Array) -> None:
    for i in range(at.start // LANES, at.stop // LANES):
      start = i * LANES - at.start
      self.parts[i] += x[:, start : start + LANES]

  def whole(self) -> Array:
    return self.parts[0] if len(self.parts) == 1 else jnp.concatenate(self.parts, 1)


def _dot(a: Array, b: Array, axes: tuple[int, int]) -> Array:
  contracted = ((axes[0],), (axes[1],)), ((), ())
  return lax.dot_general(a, b, contracted, preferred_element_type=jnp.float32)


def _mix(x: Array) -> Array:
  """The finaliser of MurmurHash3: every bit depends on every bit."""
  for shift, factor in ((16, -2048144789), (13, -1028477387)):
    x = (x ^ lax.shift_right_logical(x, jnp.int32(shift))) * jnp.int32(factor)
  return x ^ lax.shift_right_logical(x, jnp.int32(16))


def kept(call: Call, seed: Any, clip: Any, head: Any, start: Any, shape: tuple[int, ...]) -> Array:
  """Which weights of a block of queries dropout keeps: a hash of their place, so that the backward
  pass and any mesh find the same."""
  where = _mix(seed[0] + (clip + seed[2]) * jnp.int32(0x3C6EF372))
  where = _mix(where + (head + seed[3]) * jnp.int32(0x1B873593))
  row = _mix((start + _iota((shape[0], 1), 0)) * jnp.int32(0x2545F491) + where)
  key = _mix(_iota((1, shape[1]), 1) * jnp.int32(0x27D4EB2F) + seed[1])
  drawn = lax.shift_right_logical(_mix(row ^ key), jnp.int32(1))
  return drawn >= jnp.int32(min(call.rate * 2**31, 2**31 - 1))


def _bias(call: Call, refs: dict[str, Any], head: int, start: Any) -> tuple[Array, Any]:
  """(table, gate) of one head, [queries, keys] and [queries, 1] or 1."""
  table = refs['table'][head]
  row = start + _iota((table.shape[0], 1), 0) < call.shape[0]
  table = jnp.where(row & (_iota((1, table.shape[1]), 1) < call.shape[1]), table, 0.0)
  if not call.gated:
    return table, 1.0
  return table, jnp.where(row, refs['gate'][0, 0, :, head : head + 1], 0.0)


def _weigh(
  call: Call, refs: dict[str, Any], head: int, start: Any, q: Array, k: Array
) -> tuple[Array, Array, Array]:
  """exp of the logits less the largest of a query's, their sum over the keys, and which keys are
  allowed [1, keys]."""
  logits = _dot(q, k, (1, 1))
  if call.biased:
    table, gate = _bias(call, refs, head, start)
    logits += table * gate
  there = _iota((1, logits.shape[1]), 1) < call.shape[1]
  allowed = there & (refs['mask'][0] > 0) if call.masked else there
  if call.masked:
    logits = jnp.where(allowed, logits, MASKED)
  # What lies beyond the keys takes no part, even where no key is allowed.
  logits = jnp.where(there, logits, NO_KEY)
  weights = jnp.exp(logits - logits.max(1, keepdims=True))
  return weights, weights.sum(1, keepdims=True), allowed


def _at(call: Call, axes: tuple[int, int, int]) -> tuple[Any, Any, Any]:
  """(clip, first head, first query) of a program; axes of the grid in this order."""
  clip, columns, part = (pl.program_id(axis) for axis in axes)
  return clip, columns * call.heads, part * call.queries


def forward(call: Call, names: tuple[str, ...], *all_refs: Any) -> None:
  refs = dict(zip((*names, 'y'), all_refs))
  clip, first, start = _at(call, (0, 1, 2))
  q = _rows(refs['q'], start, call.shape[0])
  q = q * np.asarray(call.scale, q.dtype)
  k, v = (_rows(refs[name], 0, call.shape[1]) for name in 'kv')
  y = _Columns(q.shape)
  for head in range(call.heads):
    at, begin = _window(call, head)
    weights, total, _ = _weigh(call, refs, head, start, _own(call, q[:, at], begin), k[:, at])
    if call.rate:
      keep = kept(call, refs['seed'], clip, first + head, start, weights.shape)
      weights = jnp.where(keep, weights, 0.0)
      total *= 1.0 - call.rate
    found = _dot(weights.astype(v.dtype), v[:, at], (1, 0)) / total
    y.add(at, _own(call, found, begin))
  refs['y'][0] = y.whole().astype(refs['y'].dtype)


def _logits_back(call, refs, head, at, begin, place, q, k, v, y, g):
  """Of one head: gradient of the logits, dropped weights and the gradient for which they count."""
  own = _own(call, q[:, at], begin)
  weights, total, allowed = _weigh(call, refs, head, place[2], own, k[:, at])
  share = _own(call, g[:, at], begin).astype(jnp.float32) / total
  delta = (share * y[:, at].astype(jnp.float32)).sum(1, keepdims=True)
  share = share.astype(g.dtype)
  back = _dot(share, v[:, at], (1, 1))
  dropped = weights
  if call.rate:
    clip, first, start = place
    keep = kept(call, refs['seed'], clip, first + head, start, weights.shape)
    dropped, back = (jnp.where(keep, x / (1.0 - call.rate), 0.0) for x in (weights, back))
  logits = weights * (back - delta)
  if call.masked:
    # A query without any key has equal weights.
    logits = jnp.where(allowed, logits, 0.0)
  return logits, dropped, share, own


def _inputs(call: Call, refs: dict[str, Any], start: Any) -> tuple[Array, ...]:
  q, y, g = (_rows(refs[name], start, call.shape[0]) for name in 'qyg')
  k, v = (_rows(refs[name], 0, call.shape[1]) for name in 'kv')
  return q * np.asarray(call.scale, q.dtype), k, v, y, g


def backward(call: Call, names: tuple[str, ...], *all_refs: Any) -> None:
  outputs = ('dq', 'dk', 'dv', *(['dgate'] if call.gated else []), 'dk_sum', 'dv_sum')
  refs = dict(zip((*names, *outputs), all_refs))
  place = _at(call, (0, 1, 2))
  arrays = _inputs(call, refs, place[2])
  q, k = arrays[:2]

  @pl.when(pl.program_id(2) == 0)
  def _():
    refs['dk_sum'][...] = jnp.zeros_like(refs['dk_sum'])
    refs['dv_sum'][...] = jnp.zeros_like(refs['dv_sum'])

  dq = _Columns(q.shape)
  for head in range(call.heads):
    at, begin = _window(call, head)
    logits, weights, share, own = _logits_back(call, refs, head, at, begin, place, *arrays)
    if call.gated:
      table, _ = _bias(call, refs, head, place[2])
      refs['dgate'][0, 0, :, head : head + 1] = (logits * table).sum(1, keepdims=True)
    logits = logits.astype(k.dtype)
    dq.add(at, _own(call, _dot(logits, k[:, at], (1, 0)), begin))
    refs['dk_sum'][:, at] += _dot(logits, own, (0, 0))
    refs['dv_sum'][:, at] += _dot(weights.astype(share.dtype), share, (0, 0))
  refs['dq'][0] = (dq.whole() * call.scale).astype(refs['dq'].dtype)

  @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
  def _():
    for name in ('dk', 'dv'):
      refs[name][0] = refs[f'{name}_sum'][...].astype(refs[name].dtype)


def table(call: Call, names: tuple[str, ...], *all_refs: Any) -> None:
  """The gradient of the table, summed over the clips: the innermost axis of the grid."""
  refs = dict(zip((*names, 'dtable'), all_refs))
  place = _at(call, (2, 0, 1))
  arrays = _inputs(call, refs, place[2])

  @pl.when(pl.program_id(2) == 0)
  def _():
    refs['dtable'][...] = jnp.zeros_like(refs['dtable'])

  for head in range(call.heads):
    at, begin = _window(call, head)
    logits = _logits_back(call, refs, head, at, begin, place, *arrays)[0]
    refs['dtable'][head] += logits * _bias(call, refs, head, place[2])[1]

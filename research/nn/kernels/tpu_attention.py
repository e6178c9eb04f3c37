"""Attention on TPUs: the logits of all pairs stay on the chip.

XLA writes them to memory several times a layer, which bounds the speed of encoders with some
hundred tokens. `tpu_programs` has the programs, this file where they run: on every device of the
mesh for its own clips and heads.

Letters: b batch, t queries, s keys, h heads, k size of a head.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from research.nn import meshes
from research.nn.kernels import tpu_programs
from research.nn.kernels.tpu_programs import LANES, Call

VMEM = 64 * 2**20  # bytes of on-chip memory that a program may use
SMALL_VMEM = ('TPU v2', 'TPU v3', 'TPU v4')  # chips with 16 MiB of it
# Where there are fewer pairs a head, XLA's form writes too little to matter; with more keys a block
# of logits has too few queries.
MIN_PAIRS = 256 * 256
MAX_KEYS = 4096


def suits(q: Array, k: Array, mask: Array | None) -> bool:
  """Whether these arrays are computed here: on a TPU that holds the blocks, in 16-bit floats, with
  as many key heads as query heads, whole columns of heads, and a mask of keys, not of pairs."""
  t, heads, size = q.shape[1:]
  call = Call(1.0, 0.0, (t, k.shape[1], heads, size))
  kind = meshes.device_kind()
  return (
    kind.startswith('TPU')
    and not kind.startswith(SMALL_VMEM)
    and q.dtype == jnp.bfloat16
    and k.shape[2] == heads
    and heads % call.heads == 0
    and call.columns <= 8 * LANES
    and (mask is None or mask.ndim == 2)
    and k.shape[1] <= MAX_KEYS
    and t * k.shape[1] >= MIN_PAIRS
    and meshes.splits_rows(q.shape[0])
  )


def attention(
  q: Float[Array, 'b t h k'],
  k: Float[Array, 'b s h k'],
  v: Float[Array, 'b s h k'],
  mask: Bool[Array, 'b s'] | None,
  gate: Float[Array, 'b t h'] | None,
  table: Float[Array, 'h t s'] | None,
  words: Int[Array, '2'] | None,
  scale: float,
  rate: float = 0.0,
  interpret: Any = False,
) -> Float[Array, 'b t h k']:
  """softmax(scale q.k + gate table) v over the keys that `mask` allows, softmax in float32.

  Args:
    q, k, v: queries, keys and values.
    mask: True where a key may be attended to. A query without any key gets the mean of all values,
      and no gradient for itself and the keys.
    gate, table: bias of the logits: the table, times the gate if there is one.
    words: random words of the dropout of weights.
    scale: of the queries before the product.
    rate: of dropout.
    interpret: runs without a TPU, for tests.
  """
  (_, t, heads, size), s = q.shape, k.shape[1]
  given = mask is not None, table is not None, gate is not None
  call = Call(scale, rate, (t, s, heads, size), *given, interpret=interpret)
  return _attend(call, q, k, v, mask, gate, table, words)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(call, q, k, v, mask, gate, table, words):
  return _on_mesh(call, forward, 'q', dict(q=q, k=k, v=v, mask=mask, gate=gate, table=table), words)


def _attend_forward(call, *arrays):
  y = checkpoint_name(_attend(call, *arrays), 'attention')
  return y, (*arrays, y)


def _attend_backward(call, kept, g):
  q, k, v, mask, gate, table, words, y = kept
  arrays = dict(q=q, k=k, v=v, mask=mask, gate=gate, table=table, y=y, g=g)
  outputs = ['q', 'k', 'v', *(['gate'] if call.gated else []), *(['table'] if call.biased else [])]
  found = dict(zip(outputs, _on_mesh(call, backward, outputs, arrays, words)))
  bias = (
    None if x is None else found[n].astype(x.dtype) for n, x in dict(gate=gate, table=table).items()
  )
  return *(found[name] for name in 'qkv'), None, *bias, None


_attend.defvjp(_attend_forward, _attend_backward)


def _on_mesh(
  call: Call, kernel: Callable[..., Any], outputs: Any, arrays: dict[str, Any], words: Any
) -> Any:
  """kernel(call, seed, arrays) on every device of the mesh for its own clips and heads; outputs are
  placed as the arrays that they are named after, a table is summed over the clips."""
  arrays = {name: x for name, x in arrays.items() if x is not None}
  rows, tensor = meshes.row_axes(), meshes.tensor_axis(call.shape[2], call.heads)
  if not rows and tensor is None:
    seed = None if words is None else jnp.append(words, jnp.zeros(2, jnp.int32))
    return kernel(call, seed, arrays)
  heads = P(rows or None, None, tensor)
  specs = dict.fromkeys(arrays, heads) | dict(mask=P(rows or None), table=P(tensor))
  local = dataclasses.replace(
    call, shape=(*call.shape[:2], call.shape[2] // meshes.size(tensor), call.shape[3])
  )

  def on_device(words: Any, arrays: dict[str, Any]) -> Any:
    seed = None
    if words is not None:
      first = [
        lax.axis_index(rows) * len(arrays['q']) if rows else 0,
        0 if tensor is None else lax.axis_index(tensor) * local.shape[2],
      ]
      seed = jnp.append(words, jnp.stack([jnp.asarray(n, jnp.int32) for n in first]))
    found = kernel(local, seed, arrays)
    if call.biased and kernel is backward and rows:
      found = (*found[:-1], lax.psum(found[-1], rows))
    return found

  out = jax.tree.map(lambda name: specs[name], outputs)
  mapped = jax.shard_map(
    on_device,
    in_specs=(P(), {name: specs[name] for name in arrays}),
    out_specs=out if isinstance(outputs, str) else tuple(out),
    check_vma=False,
  )
  return mapped(words, arrays)


# -- Calls -------------------------------------------------------------------------------------


def _specs(call: Call, order: tuple[int, int, int]) -> dict[str, pl.BlockSpec]:
  """Blocks of all arrays; `order` are the axes of clips, columns and queries in the grid."""

  def spec(block: tuple[int, ...], index: Any) -> pl.BlockSpec:
    return pl.BlockSpec(block, lambda *grid: index(*(grid[axis] for axis in order)))

  queries = spec((1, call.queries, call.columns), lambda b, c, t: (b, t, c))
  keys = spec((1, call.keys, call.columns), lambda b, c, t: (b, 0, c))
  table = spec((call.heads, call.queries, call.keys), lambda b, c, t: (c, t, 0))
  gate = spec((1, 1, call.queries, call.heads), lambda b, c, t: (b, c, t, 0))
  return dict(
    seed=pl.BlockSpec(memory_space=pltpu.SMEM),
    mask=spec((1, 1, call.keys), lambda b, c, t: (b, 0, 0)),
    q=queries, y=queries, g=queries, dq=queries,
    k=keys, v=keys, dk=keys, dv=keys,
    table=table, dtable=table, gate=gate, dgate=gate,
  )  # fmt: skip


def _laid_out(call: Call, seed: Any, arrays: dict[str, Any]) -> dict[str, Any]:
  """Arrays as kernels take them."""
  found = {name: x.reshape(*x.shape[:2], -1) for name, x in arrays.items() if name in 'qkvyg'}
  if seed is not None:
    found['seed'] = seed
  if call.masked:
    found['mask'] = arrays['mask'].astype(jnp.int32)[:, None]
  if call.biased:
    found['table'] = arrays['table'].astype(jnp.float32)
  if call.gated:
    gate = arrays['gate'].astype(jnp.float32)
    found['gate'] = gate.reshape(*gate.shape[:2], -1, call.heads).swapaxes(1, 2)
  return found


def _run(call, kernel, products, arrays, outputs, scratch=(), order=(0, 1, 2)):
  """Runs a kernel that computes `products` matrix products over all query-key pairs."""
  specs = _specs(call, order)
  t, _, heads, _ = call.shape
  b = len(arrays['q'])
  grid = [0, 0, 0]
  for axis, count in zip(order, (b, heads // call.heads, math.ceil(t / call.queries))):
    grid[axis] = count
  # Programs along the last axis add to one block: they run one after another.
  semantics: Any = ('parallel', 'parallel', 'arbitrary')
  return pl.pallas_call(
    functools.partial(kernel, call, tuple(arrays)),
    grid=tuple(grid),
    in_specs=[specs[each] for each in arrays],
    out_specs=[specs[each] for each in outputs],
    out_shape=list(outputs.values()),
    scratch_shapes=scratch,
    compiler_params=pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=VMEM),
    cost_estimate=call.cost(b, products),
    interpret=call.interpret,
    name=f'attention_{kernel.__name__}',
  )(*arrays.values())


def forward(call: Call, seed: Int[Array, '4'] | None, given: dict[str, Any]) -> Array:
  """y [b, t, h, k] of q, k, v and what else `attention` takes; `seed` has its two words and the
  numbers of the first clip and of the first head."""
  arrays = _laid_out(call, seed, given)
  outputs = {'y': jax.ShapeDtypeStruct(arrays['q'].shape, given['v'].dtype)}
  (y,) = _run(call, tpu_programs.forward, 2, arrays, outputs)
  return y.reshape(given['q'].shape)


def backward(call: Call, seed: Int[Array, '4'] | None, given: dict[str, Any]) -> tuple[Array, ...]:
  """Gradients of q, k, v, gate and table, of those that are there, for the gradient g of y; those
  of the table summed over the clips."""
  arrays = _laid_out(call, seed, given)

  def like(*names: str) -> dict[str, jax.ShapeDtypeStruct]:
    return {f'd{n}': jax.ShapeDtypeStruct(arrays[n].shape, arrays[n].dtype) for n in names}

  scratch = [pltpu.VMEM((call.keys, call.columns), jnp.float32)] * 2
  outputs = like(*'qkv', *(['gate'] if call.gated else []))
  found = _run(call, tpu_programs.backward, 5, arrays, outputs, scratch)
  found = [d.reshape(given[name].shape) for name, d in zip('qkv', found)] + list(found[3:])
  if call.gated:
    found[3] = found[3].swapaxes(1, 2).reshape(given['gate'].shape)
  if call.biased:
    found += _run(call, tpu_programs.table, 2, arrays, like('table'), order=(2, 0, 1))
  return tuple(found)

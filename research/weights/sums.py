"""Checksums of arrays, kept beside a checkpoint: a disk may give back other bits than it was given.

A sum is of the words of an array, each times an odd number that depends on its place, modulo 2^32.
So it is the same on any mesh and in any number of processes, and no change of a single word goes
unseen.
"""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.errors import InputError

_GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: neighbours get far-away numbers
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}
# The place of the input position among the sums.
POSITION = 'position'


def of(tree: Any, position: Any = None) -> dict[str, int]:
  """{path: sum} of a nested dict of arrays, and the sum of the input position if there is one.

  Called by all processes at once where arrays lie on devices of several.
  """
  leaves = {_name(path): _raw(x) for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]}
  leaves = {name: x for name, x in leaves.items() if x.dtype.itemsize in _WORDS}
  # NumPy reads the memory of a CPU in its place; elsewhere the sums are cheaper than the transfer.
  here = {name: x for name, x in leaves.items() if _on_cpu(x)}
  found = {name: _numpy_sum(np.asarray(x)) for name, x in here.items()}
  there = {name: x for name, x in leaves.items() if name not in here}
  if there:
    found |= {name: int(x) for name, x in jax.device_get(_device_sums(there)).items()}
  if position is not None:
    found[POSITION] = zlib.crc32(json.dumps(position, sort_keys=True).encode())
  return found


def check(
  saved: Mapping[str, int] | None, tree: Any, position: Any = None, where: str = 'It'
) -> None:
  """Raises InputError where the arrays, or the position, are not those whose sums were saved.

  `tree` may be a part of what was saved. Without sums (arrays that were copied alone) nothing is
  checked.
  """
  if not saved:
    return
  different = [name for name, each in of(tree, position).items() if saved.get(name) != each]
  if different:
    more = f' and {len(different) - 1} more' if len(different) > 1 else ''
    raise InputError(
      f'{where} is damaged: its checksum does not match in {different[0]}{more}. Use another '
      'checkpoint, or restore a backup.'
    )


def _name(path: Any) -> str:
  return '/'.join(str(getattr(k, 'key', getattr(k, 'idx', getattr(k, 'name', k)))) for k in path)


def _raw(x: Any) -> Any:
  if isinstance(x, jax.Array):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
  return np.asarray(x)


def _on_cpu(x: Any) -> bool:
  if not isinstance(x, jax.Array):
    return True
  return x.is_fully_addressable and all(d.platform == 'cpu' for d in x.devices())


def _numpy_sum(x: np.ndarray) -> int:
  words = np.ascontiguousarray(x).reshape(-1).view(_WORDS[x.dtype.itemsize])
  total, step = 0, 2**22
  for at in range(0, len(words), step):
    part = words[at : at + step].astype(np.uint32)
    place = np.arange(at, at + len(part), dtype=np.uint64).astype(np.uint32)
    total += int((part * (place * np.uint32(_GOLDEN) | np.uint32(1))).sum(dtype=np.uint32))
  return total % 2**32


@jax.jit
def _device_sums(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return {name: _device_sum(x) for name, x in leaves.items()}


def _device_sum(x: jax.Array) -> jax.Array:
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  words = jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize]).astype(jnp.uint32)
  # The place in the flat array, dimension by dimension: a reshape would move what is sharded.
  place = jnp.zeros(words.shape, jnp.uint32)
  for axis in range(words.ndim):
    stride = math.prod(words.shape[axis + 1 :]) % 2**32
    place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride)
  return (words * (place * jnp.uint32(_GOLDEN) | jnp.uint32(1))).sum(dtype=jnp.uint32)

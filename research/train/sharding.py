"""Sharding: a mesh with axes `data`, `fsdp` and `tensor`, and rules from parameter paths to axes.

Models are independent of the rules. A rule is a regular expression on the path of a leaf and the
mesh axis of each dimension. The paths of optimiser moments and teacher parameters end in the path
of their parameter, so they are sharded like it. A dimension not divisible by its axis is
replicated.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from research.errors import InputError
from research.nn.meshes import BATCH_AXES
from research.train.state import path_name

AXES = ('data', 'fsdp', 'tensor')

# Leading dimensions that a rule does not name (scanned layers) are replicated.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  # Attention: split the heads; [d, 3, h, k], [d, h, k] and [h, k, d].
  (r'(qkv|kv|q)/kernel$', ('fsdp', None, 'tensor', None)),
  (r'(qkv|kv|q)/bias$', (None, 'tensor', None)),
  (r'(query|key|value)/kernel$', ('fsdp', 'tensor', None)),
  (r'(query|key|value)/bias$', ('tensor', None)),
  (r'attn/(proj|out)/kernel$', ('tensor', None, 'fsdp')),
  # MLP: split the hidden width.
  (r'(fc1|gate)/kernel$', ('fsdp', 'tensor')),
  (r'fc1/bias$', ('tensor',)),
  (r'fc2/kernel$', ('tensor', 'fsdp')),
  # Outputs of a language model: split the vocabulary.
  (r'lm_head/kernel$', ('fsdp', 'tensor')),
  # All other matrices: sharded over `fsdp` on the last dimension.
  (r'kernel$', (None, 'fsdp')),
  (r'(embedding|codebook)$', (None, 'fsdp')),
)


def make_mesh(shape: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
  """A mesh over `devices` (default: all); one axis may be -1 for all remaining devices.

  Slices of TPUs, between which there is only the network, split `data` first: only gradients cross
  it.

  Raises:
    InputError: the product of the sizes is not the number of devices, or a part of `data` does not
      fit into a slice.
  """
  devices = list(jax.devices() if devices is None else devices)
  grid = device_grid(mesh_sizes(shape, len(devices)), devices)
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def device_grid(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
  """Devices as a mesh of these sizes has them, see `make_mesh`."""
  slices = [getattr(device, 'slice_index', None) or 0 for device in devices]
  check_slices(sizes, len(set(slices)))
  devices = [device for _, device in sorted(zip(slices, devices), key=lambda each: each[0])]
  return np.asarray(devices).reshape(sizes)


def check_slices(sizes: Sequence[int], slices: int) -> None:
  """Raises InputError unless `fsdp` and `tensor` stay within a slice."""
  if sizes[0] % slices:
    raise InputError(
      f'mesh.data={sizes[0]} does not divide into {slices} slices: fsdp and tensor work within a '
      f'slice, so let data be a multiple of {slices}.'
    )


def mesh_sizes(shape: Mapping[str, int], devices: int) -> list[int]:
  """Sizes of the mesh axes over that many devices; arguments and errors as of `make_mesh`."""
  wrong = set(shape) - set(AXES)
  if wrong:
    raise InputError(
      f'mesh.{sorted(wrong)[0]} does not exist: the mesh axes are {", ".join(AXES)}.'
    )
  sizes = [int(shape.get(axis, 1)) for axis in AXES]
  known = math.prod(s for s in sizes if s != -1)
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise InputError(f'mesh {dict(shape)}: sizes are positive, and at most one is -1 (the rest).')
  if -1 in sizes and known and devices % known == 0:
    sizes[sizes.index(-1)] = devices // known
  if -1 in sizes or math.prod(sizes) != devices:
    raise InputError(
      f'mesh {dict(shape)} needs {known}{" x n" if -1 in sizes else ""} devices, but there are '
      f'{devices}: choose data x fsdp x tensor = {devices}.'
    )
  return sizes


def leaf_spec(path: str, shape: Sequence[int], mesh: Mesh | AbstractMesh) -> P:
  """The axes of one leaf: those of the first rule that matches its path."""
  for pattern, axes in RULES:
    if re.search(pattern, path) and len(shape) >= len(axes):
      axes = (None,) * (len(shape) - len(axes)) + axes
      return P(*(a if a and n % mesh.shape[a] == 0 else None for a, n in zip(axes, shape)))
  return P()


def shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
  """A NamedSharding for each leaf of `tree` (arrays or shapes), from `RULES`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: NamedSharding(mesh, leaf_spec(path_name(path), np.shape(x), mesh)), tree
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Batches are split on their first dimension over `data` and `fsdp`."""
  return NamedSharding(mesh, P(BATCH_AXES))


def batch_devices(mesh: Mesh | AbstractMesh) -> int:
  """Number of devices that split a batch."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


@functools.cache
def batch_part(mesh: Mesh) -> tuple[int, int]:
  """Which part of a global batch this process reads: (its index, number of parts).

  Raises:
    InputError: the devices of a process hold rows that are not one of several equal parts.
  """
  holders = mesh.devices.reshape(batch_devices(mesh), -1)
  owners = np.array([[device.process_index for device in row] for row in holders])
  return part_of(owners, jax.process_index())


def part_of(owners: np.ndarray, process: int) -> tuple[int, int]:
  """See `batch_part`.

  The devices decide: processes whose devices split a model between them (a `tensor` axis across
  hosts) read the same part.

  Args:
    owners: [parts, holders], the process of every device.
    process: the process that reads.
  """
  rows = {each: np.flatnonzero((owners == each).any(axis=1)) for each in np.unique(owners)}
  own = rows[process]
  for mine in rows.values():
    apart = len(mine) != len(own) or mine[-1] - mine[0] != len(mine) - 1 or mine[0] % len(mine)
    if apart:
      raise InputError(
        'The mesh gives the devices of one process rows of a batch that are not one of several '
        'equal parts: let data x fsdp be a multiple of the number of processes, or tensor a '
        'multiple of the devices of a process.'
      )
  return int(own[0]) // len(own), len(owners) // len(own)


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Global arrays from the rows that this process holds, see `batch_part`."""
  sharding, (_, parts) = batch_sharding(mesh), batch_part(mesh)

  def put(x: np.ndarray) -> jax.Array:
    shape = (parts * len(x), *x.shape[1:])
    return jax.make_array_from_process_local_data(sharding, x, shape)

  return {name: put(np.asarray(x)) for name, x in batch.items()}

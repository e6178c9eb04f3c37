"""What layers ask of a mesh: activations stay where their clips are, parameters come to them."""

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

BATCH_AXES = ('data', 'fsdp')  # that split a batch


def keep_rows(x: Array) -> Array:
  """The same array, its first axis split as a batch is; with parameters split over `fsdp` only.

  Without it XLA may compute with parts of the weights and add up activations over devices, which
  moves several times more than gathering the weights does.
  """
  shape = jax.sharding.get_abstract_mesh().shape
  parts = math.prod(shape.get(axis, 1) for axis in BATCH_AXES)
  if shape.get('fsdp', 1) == 1 or x.shape[0] % parts:
    return x
  return jax.lax.with_sharding_constraint(x, P(BATCH_AXES, *[P.UNCONSTRAINED] * (x.ndim - 1)))


def gather(kernel: Array) -> Array:
  """The same parameter, whole on every device; with parameters split over `fsdp` only.

  For kernels that XLA would rather split a computation by: grouped convolutions.
  """
  shape = jax.sharding.get_abstract_mesh().shape
  return kernel if shape.get('fsdp', 1) == 1 else jax.lax.with_sharding_constraint(kernel, P())


def sum_over_rows(f: Callable[..., Array], *arrays: Array) -> Array:
  """f(*arrays), a sum over the first axis of all arrays, computed by every device for its own rows
  and added up over devices once: XLA would do that within f's loops each time."""
  axes = row_axes()
  if not axes or not splits_rows(len(arrays[0])):
    return f(*arrays)
  mapped = jax.shard_map(
    lambda *parts: jax.lax.psum(f(*parts), axes), in_specs=P(axes), out_specs=P(), check_vma=False
  )
  return mapped(*arrays)


def row_axes() -> tuple[str, ...]:
  """The axes of the mesh that split a batch; none where there is one device or no mesh."""
  shape = jax.sharding.get_abstract_mesh().shape
  return tuple(axis for axis in BATCH_AXES if shape.get(axis, 1) > 1)


def splits_rows(rows: int) -> bool:
  """Whether all devices get the same number of these rows; without a mesh, whether there is one."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return jax.device_count() == 1
  return rows % math.prod(mesh.shape[axis] for axis in row_axes()) == 0


def tensor_axis(heads: int, together: int) -> str | None:
  """The axis that splits heads of which some stay together; None where it does not."""
  parts = size('tensor')
  return 'tensor' if parts > 1 and heads % (parts * together) == 0 else None


def size(axis: str | None) -> int:
  """Devices along an axis of the mesh."""
  return 1 if axis is None else jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def device_kind() -> str:
  """Of the devices that a program is traced for, as `jax.Device.device_kind`."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is not None:
    return device.device_kind
  chosen = jax.config.values['jax_default_device']
  if isinstance(chosen, str):
    return chosen
  return (chosen or jax.devices()[0]).device_kind

"""What layers ask of a mesh: activations stay where their clips are, parameters come to them."""

import math

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

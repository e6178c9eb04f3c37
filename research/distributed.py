"""Multi-process helpers: agree on a flag, broadcast bytes, hold a global array."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array


def agree(flag: bool) -> bool:
  """The flag of process 0, on every process (their disks may differ)."""
  return bool(broadcast(b'1' if flag else b''))


def broadcast(data: bytes) -> bytes:
  """The bytes of process 0, on every process."""
  if jax.process_count() == 1:
    return data
  from jax.experimental import multihost_utils

  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  sent = np.zeros(length, np.uint8)
  if not jax.process_index():
    sent[:] = np.frombuffer(data, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes() if length else b''


class Devices:
  """All devices of all processes, as a one-dimensional mesh."""

  def __init__(self):
    mesh = Mesh(np.array(jax.devices()), ('data',))
    self.rows = NamedSharding(mesh, PartitionSpec('data'))
    self.whole = NamedSharding(mesh, PartitionSpec())
    self.count = mesh.size
    self.one_cpu = mesh.size == 1 and jax.default_backend() == 'cpu'

  def put_rows(self, local: np.ndarray) -> Array:
    """A global array from the rows that this process holds."""
    return jax.make_array_from_process_local_data(self.rows, local)

  def split_rows(self, value: np.ndarray) -> Array:
    """A row-sharded global array from an array that every process holds in full."""
    return jax.make_array_from_callback(value.shape, self.rows, lambda index: value[index])

  def put_whole(self, value: Any) -> Array:
    """The array replicated on every device."""
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, self.whole, lambda index: value[index])

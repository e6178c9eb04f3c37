"""Multi-process helpers: agree on a flag, broadcast bytes, hold a global array."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from research.errors import InputError


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


def process() -> tuple[int, int]:
  """(index of this process, how many there are)."""
  return jax.process_index(), jax.process_count()


def first(make: Callable[[], bytes]) -> bytes:
  """What `make` gives on the first process, on every process.

  Raises:
    InputError: on every process, if `make` raises it on the first one.
  """
  if jax.process_count() == 1:
    return make()
  error: InputError | None = None
  data = b''
  if not jax.process_index():
    try:
      data = b'1' + make()
    except InputError as raised:
      error, data = raised, b'0' + str(raised).encode()
  data = broadcast(data)
  if data[:1] == b'0':
    raise error or InputError(f'Process 0 has stopped: {data[1:].decode()}')
  return data[1:]


def check_all(error: Exception | None = None) -> None:
  """Waits until every process is here.

  Raises:
    error: this process's own, if it has one.
    InputError: another process came with an error.
  """
  failed = somewhere(error is not None)
  if error is not None:
    raise error
  if failed:
    raise InputError('Another process has stopped: see its message.')


def somewhere(flag: bool) -> bool:
  """Whether the flag is set on any process. Collective."""
  if jax.process_count() == 1:
    return flag
  from jax.experimental import multihost_utils

  return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def total(value: np.ndarray) -> np.ndarray:
  """The sum over all processes of arrays of one shape, on every process."""
  if jax.process_count() == 1:
    return value
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(value)).sum(axis=0)


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

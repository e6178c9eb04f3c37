"""The training program of a config as shapes: its batches, its state on a mesh, its FLOPs, and the
lowered step. Nothing is computed and no data are read."""

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from research.audio import batching, settings
from research.errors import InputError
from research.train import build, flops, optim, sharding, step
from research.train.state import State, count, init_state

KEY_BYTES = 8  # of a random key


@dataclasses.dataclass(frozen=True)
class Batch:
  """A shape of batches: `rows` clips of `seconds` over all chips."""

  rows: int
  seconds: float


def batches(config: Mapping[str, Any]) -> list[Batch]:
  """The batch of each length bucket, longest first.

  Raises:
    InputError: the lengths depend on the data.
  """
  data = config['data']
  buckets, longest = data['buckets'], data['seconds']
  if buckets is None or isinstance(buckets, int):
    if longest is None:
      raise InputError(
        'The length of the batches depends on the data: set config.data.seconds to that of the '
        'longest clip.'
      )
    # How many clips a shorter bucket has, and which lengths, depends on the data as well.
    buckets = [longest]
  lengths = sorted(buckets)
  rows = settings.bucket_rows(
    lengths, data['batch_size'], data['batch_seconds'], data['batch_multiple'], 1
  )
  return [Batch(*each) for each in zip(reversed(rows), reversed(lengths))]


class Program:
  """The step of a config as `loop.train` runs it.

  Attributes:
    config: completed.
    clips: number of training clips, of which the length of a run in epochs depends; None: unknown.
    total: steps of the run; None if unknown.
    params: number of parameters.
  """

  def __init__(self, config: Mapping[str, Any], clips: int | None = None):
    self.config = config
    self.batches = batches(config)
    self.model = build.model(config)
    known = clips or config['data']['epoch_size']
    rows = self.batches[0].rows
    # The schedule needs a length; the shapes do not depend on it.
    total, epoch = build.length(config, known or 1_000_000, rows)
    self.total = total if known or config['total_steps'] is not None else None
    self._schedule = optim.make_schedule(config['optim'], total, epoch)
    self._optimizer = build.optimizer(config, self.model, self._schedule)
    self._steps = total
    example = build.example_batch(config, self.model, 1, self.batches[0].seconds)

    def fresh() -> State:
      teacher, adapters = bool(config['teacher']), config['adapters']
      return init_state(self.model, self._optimizer, example, config['seed'], teacher, adapters)

    self.state = jax.eval_shape(fresh)
    self.params = count(self.state.params)

  def on(self, config: Mapping[str, Any]) -> 'Program':
    """The same program with a config that differs in mesh and accumulation only."""
    other = copy.copy(self)
    other.config = config
    return other

  def step(self, remat: bool = True) -> Any:
    """`(state, batch) -> (state, metrics)`; without `remat` that of the model that keeps all."""
    model = self.model if remat else build.without_remat(self.model)
    return build.train_step(self.config, model, self._optimizer, self._schedule, self._steps)

  def shapes(self, batch: Batch, mesh: Mesh | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch, on a mesh spread as in a run."""
    arrays = build.example_batch(self.config, self.model, 1, batch.seconds)
    where = None if mesh is None else sharding.batch_sharding(mesh)
    rows = batch.rows if mesh is None else self.rows(batch, mesh)
    return {
      name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=where)
      for name, x in arrays.items()
    }

  def rows(self, batch: Batch, mesh: Mesh | AbstractMesh) -> int:
    """Rows of a global batch on a mesh, with those that fill it up.

    Raises:
      InputError: `train` would refuse the batch on this mesh.
    """
    return batching.filled(batch.rows, build.fill_to(self.config, self.model, mesh))

  def flops(self, batch: Batch, remat: bool = True) -> float:
    """FLOPs of a step over all chips: as it runs, or without rematerialisation."""
    traced = jax.jit(self.step(remat)).trace(self.state, self.shapes(batch))
    return flops.count(traced.jaxpr)

  def step_flops(self, batch: Batch) -> tuple[float, float]:
    """FLOPs of a step over all chips: of the model, without rematerialisation, and as it runs."""
    kept = self.flops(batch, remat=False)
    return kept, kept if build.without_remat(self.model) is self.model else self.flops(batch)

  def state_bytes(self, mesh: Mesh | AbstractMesh) -> dict[str, int]:
    """Bytes of the state that each chip holds, by part."""
    parts = dict(
      params=self.state.params,
      optimizer=self.state.opt_state,
      teacher=self.state.teacher,
      variables=self.state.variables,
    )
    spread = {name: sharding.shardings(tree, mesh) for name, tree in parts.items()}
    return {name: local_bytes(tree, spread[name]) for name, tree in parts.items()}

  def lower(self, batch: Batch, mesh: Mesh) -> Any:
    """The lowered step for the devices of a mesh, which need not be there."""
    platform = mesh.devices.flat[0].platform
    spread = sharding.shardings(self.state, mesh)
    with jax.set_mesh(mesh):
      state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), self.state, spread
      )
      traced = step.jit(self.step(), spread, mesh).trace(state, self.shapes(batch, mesh))
      with jax.numpy_dtype_promotion('standard'):
        return traced.lower(lowering_platforms=(platform,))


def abstract_mesh(shape: Mapping[str, int], chips: int) -> AbstractMesh:
  """The mesh of a config over that many chips, without devices."""
  return AbstractMesh(tuple(sharding.mesh_sizes(shape, chips)), sharding.AXES)


def local_bytes(tree: Any, spread: Any) -> int:
  """Bytes of the arrays of a tree that each device holds under these shardings."""

  def size(x: Any, where: Any) -> int:
    key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return math.prod(where.shard_shape(x.shape)) * (KEY_BYTES if key else x.dtype.itemsize)

  return sum(jax.tree.leaves(jax.tree.map(size, tree, spread)))

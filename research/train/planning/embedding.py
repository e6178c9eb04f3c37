"""Embedding with the model of a config as shapes: what `launch.embed` runs on a slice, in the form
of `program.Program`. Every chip holds the weights, and clips are shared out among all chips."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from research.capabilities import Embeds
from research.errors import InputError
from research.inference.embedder import ModelApply, embed_batch
from research.inference.stream import BATCH_SECONDS
from research.train import flops, sharding
from research.train.planning import program
from research.train.planning.program import Batch
from research.train.planning.topology import Topology


class Embedding:
  """The program that embeds clips; attributes as of `program.Program`, `total` counts batches."""

  def __init__(self, config: Mapping[str, Any], topology: Topology, clips: int | None = None):
    """
    Args:
      config: completed; its batches give the lengths of clips.
      topology: the slice. A host embeds `BATCH_SECONDS` of audio at once.
      clips: how many there are; None: unknown.

    Raises:
      InputError: the model gives no embeddings.
    """
    trained = program.Program(config)
    self.config, self.model, self.params = config, trained.model, trained.params
    if not isinstance(self.model, Embeds):
      raise InputError(f'{type(self.model).__name__} gives no embeddings, for which to plan.')
    own = topology.chips // topology.hosts
    self.batches = []
    for batch in trained.batches:
      rows = max(1, int(BATCH_SECONDS / batch.seconds))
      self.batches.append(Batch(-(-rows // own) * own * topology.hosts, batch.seconds))
    self.total = None if clips is None else math.ceil(clips / self.batches[0].rows)
    # By shapes: adapters are merged into what they adapt.
    self._variables = jax.eval_shape(lambda state: state.weights(), trained.state)
    pool = self.model.EMBEDDING.pool
    self._embed = lambda variables, audio, mask: embed_batch(
      ModelApply(self.model), (-1,), pool, 1, variables, audio, mask
    )[0]

  def _arguments(self, batch: Batch, mesh: Mesh | None = None) -> tuple[Any, ...]:
    samples = round(batch.seconds * self.config['data']['sample_rate'])
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    rows = None if mesh is None else sharding.batch_sharding(mesh)
    shape = (batch.rows, samples)
    return (
      jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), self._variables
      ),
      jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows),
      jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=rows),
    )

  def rows(self, batch: Batch, mesh: Mesh | AbstractMesh) -> int:
    """Rows of a batch: chosen so that all chips have as many."""
    del mesh
    return batch.rows

  def step_flops(self, batch: Batch) -> tuple[float, float]:
    """FLOPs of a batch over all chips, twice."""
    found = flops.count(jax.jit(self._embed).trace(*self._arguments(batch)).jaxpr)
    return found, found

  def state_bytes(self, mesh: Mesh | AbstractMesh) -> dict[str, int]:
    """Bytes that each chip holds."""
    del mesh
    return {'weights': sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self._variables))}

  def lower(self, batch: Batch, mesh: Mesh) -> Any:
    """The lowered program for the devices of a mesh, which need not be there."""
    platform = mesh.devices.flat[0].platform
    with jax.set_mesh(mesh):
      traced = jax.jit(self._embed).trace(*self._arguments(batch, mesh))
      with jax.numpy_dtype_promotion('standard'):
        return traced.lower(lowering_platforms=(platform,))

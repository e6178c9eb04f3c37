"""The training state: one frozen tree that is saved and restored as a whole."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from research.nn import adapters as lora

# Random streams that a model may use; each step derives all of them from the run's key.
STREAMS = ('mask', 'dropout', 'augment', 'noise')

Tree = Any


@flax.struct.dataclass
class State:
  """The training state.

  Attributes:
    step: int32 scalar, number of completed optimiser steps.
    params: trained parameters, float32.
    opt_state: state of the optimiser.
    teacher: None, or {'params': EMA of `params`, 'variables': the teacher's own collections; all
      but 'memory', a model's memory of its data, which is shared}.
    variables: all other collections of the model (batch statistics, codebooks, tables).
    key: random key of the run; the key of a step is `fold_in(key, step)`.
  """

  # `Tree`, not `jax.Array`: under `eval_shape` and when restoring, the leaves are shapes.
  step: Tree
  params: Tree
  opt_state: Tree
  teacher: Tree
  variables: Tree
  key: Tree

  def weights(self) -> dict[str, Tree]:
    """The variables that the model computes with: adapters added to their kernels."""
    return {'params': lora.effective(self.params), **self.variables}

  def to_dict(self) -> dict[str, Tree]:
    """The fields that are not None, by name: the content of a checkpoint."""
    fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
    return {name: value for name, value in fields.items() if value is not None}

  @classmethod
  def from_dict(cls, fields: Mapping[str, Tree]) -> 'State':
    """The inverse of `to_dict`."""
    return cls(**{'teacher': None, **fields})


def streams(key: jax.Array) -> dict[str, jax.Array]:
  """One independent key per stream of `STREAMS`."""
  return {name: jax.random.fold_in(key, i) for i, name in enumerate(STREAMS)}


def init_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  batch: Mapping[str, Any],
  seed: int,
  with_teacher: bool,
  adapters: Mapping[str, Any] | None = None,
) -> State:
  """An initial state. Pure: may be traced under `jax.jit` or `jax.eval_shape`.

  Args:
    model: the model; initialised by a call with `train=True`.
    optimizer: the optimiser.
    batch: arrays with the shapes of a batch (values do not matter).
    seed: seed of the run.
    with_teacher: add an EMA teacher, a copy of the parameters.
    adapters: settings of `nn.adapters.add`, or None.
  """
  root = jax.random.key(seed)
  init_key, run_key = jax.random.split(root)
  rngs = {'params': jax.random.fold_in(init_key, len(STREAMS)), **streams(init_key)}
  variables = nn.meta.unbox(model.init(rngs, batch, train=True))
  params = variables.pop('params')
  if adapters:
    added = {k: adapters[k] for k in ('rank', 'alpha', 'targets')}
    params = lora.add(params, jax.random.fold_in(init_key, len(STREAMS) + 1), **added)
  teacher = None
  if with_teacher:
    # A copy, not an alias: the step donates the state's buffers.
    teacher = jax.tree.map(
      jnp.copy, {'params': params, 'variables': teacher_collections(variables)}
    )
  return State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    teacher=teacher,
    variables=variables,
    key=run_key,
  )


def teacher_collections(variables: Mapping[str, Tree]) -> dict[str, Tree]:
  """The collections of which the teacher has its own copy: all but 'memory'."""
  return {name: tree for name, tree in variables.items() if name != 'memory'}


def path_name(path: tuple[Any, ...]) -> str:
  """A tree path as text: ('encoder', 'norm', 'scale') -> 'encoder/norm/scale'."""
  return '/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path)


def count(tree: Tree) -> int:
  """Number of values in a tree of arrays."""
  return sum(x.size for x in jax.tree.leaves(tree))

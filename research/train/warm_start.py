"""Starting from weights that exist: what fits is copied, what does not is said."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from research import weights
from research.errors import InputError
from research.models.layers import stack_blocks, unstack_blocks
from research.train.state import State, path_name, teachers


def _check_frontend(theirs: Any, ours: Any, spec: Mapping[str, Any]) -> None:
  """Refuses weights that were trained on other features, naming both values."""
  if theirs is None or ours is None:
    return
  free = {'mean', 'std'} if spec['statistics'] == 'any' else set()
  different = {k: v for k, v in theirs.differences(ours).items() if k not in free}
  if different:
    named = '; '.join(f'{k} is {a!r} there and {b!r} here' for k, (a, b) in different.items())
    raise InputError(
      f'{spec["path"]} was trained with another front-end ({named}): set '
      'config.model.args.frontend to match, or, for mean and std alone, '
      "config.init.statistics='any'."
    )


def _by_name(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Arrays by path, the transformer blocks both one by one and stacked (scan_layers)."""
  unrolled = unstack_blocks(variables)
  leaves = []
  for tree in (stack_blocks(unrolled), unrolled):
    leaves += jax.tree_util.tree_flatten_with_path(tree)[0]
  return {path_name(path): np.asarray(x) for path, x in leaves}


def warm_start(
  state: State,
  spec: Mapping[str, Any],
  frontend: Any = None,
  borrowed: Mapping[str, Mapping[str, Any]] | None = None,
) -> State:
  """The state with every parameter and table that `spec['path']` has under the same name and shape.

  Weights of scanned layers fit a model of unrolled ones, and the other way round. Counters of
  updates start anew.

  Args:
    state: a fresh state.
    spec: dict(path, include=REGEX of names to take, exclude=REGEX of names to leave or None,
      statistics='same' or 'any': whether the front-end's mean and std may differ, as when
      fine-tuning with the statistics of the new data; under=None, or the path of the part of this
      model that the weights are for, as 'frozen/vq_wav2vec', which they must fill).
    frontend: the model's front-end, which the weights must have been trained with.
    borrowed: {path of a part: {argument: value}} that weights for that part must have been trained
      with.

  Raises:
    InputError: when nothing fits, when a shape differs that `exclude` does not name, when the
      front-ends or borrowed arguments differ, or when something is missing for the part `under`.
  """
  if not spec['path']:
    raise InputError(
      'config.init.path is not set: give the weights to start from with --config.init.path=PATH, '
      'or start from nothing with --config.init=None.'
    )
  if spec['statistics'] not in ('same', 'any'):
    raise InputError(f"config.init.statistics is {spec['statistics']!r}; it is 'same' or 'any'.")
  loaded = weights.load(spec['path'])
  _check_frontend(loaded.frontend, frontend, spec)
  under = spec.get('under')
  for name, value in (borrowed or {}).get(under or '', {}).items():
    if getattr(loaded.model, name, None) != value:
      raise InputError(
        f'{spec["path"]} has {name}={getattr(loaded.model, name, None)!r}, but {under} of this '
        f'model has {name}={value!r}: give it the arguments of the weights.'
      )
  have = _by_name(dict(loaded.variables))
  if under:
    have = {f'{under}/{name}': x for name, x in have.items()}
  taken, fresh = [], []

  def take(path, x):
    name = path_name(path)
    wanted = re.search(spec['include'], name) and not (
      spec['exclude'] and re.search(spec['exclude'], name)
    )
    if not wanted or name not in have or name.startswith('counters/'):
      fresh.append(name)
      return x
    if have[name].shape != x.shape:
      raise InputError(
        f'{spec["path"]} has {name} of shape {have[name].shape}, this model {x.shape}: give the '
        f'model the same sizes, or leave it out with config.init.exclude.'
      )
    taken.append(name)
    return jax.device_put(have[name].astype(x.dtype), x.sharding)

  own = {'params': state.params, **state.variables}
  merged = jax.tree_util.tree_map_with_path(take, own)
  if not taken:
    raise InputError(f'Nothing in {spec["path"]} has the name of a parameter of this model.')
  if under and any(name.startswith(f'{under}/') for name in fresh):
    lacking = [name for name in fresh if name.startswith(f'{under}/')]
    raise InputError(f'{spec["path"]} lacks {", ".join(lacking)}: it does not fill {under}.')
  logging.info('took %d arrays from %s; fresh: %s', len(taken), spec['path'], fresh)
  params = merged.pop('params')
  teacher = state.teacher
  if teacher is not None:
    teacher = jax.tree.map(jnp.copy, {'params': params, 'variables': teachers(merged)})
  return state.replace(params=params, variables=merged, teacher=teacher)  # type: ignore[attr-defined]

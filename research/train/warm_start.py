"""Starting from weights that exist: what fits is copied, what does not is said."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from research import weights
from research.capabilities import Borrows, Hears, Resizes
from research.errors import InputError
from research.models.finetuned import encoder_of, encoder_place, flat_arguments
from research.nn.layers import stack_blocks, unstack_blocks
from research.train.state import State, path_name, teacher_collections


def check_frontend(theirs: Any, ours: Any, spec: Mapping[str, Any]) -> None:
  """Refuses weights that were trained on other features than our model's, naming both values."""
  if not isinstance(theirs, Hears) or not isinstance(ours, Hears):
    return
  free = {'mean', 'std'} if spec['statistics'] == 'any' else set()
  found = theirs.frontend.differences(ours.frontend)
  different = {k: v for k, v in found.items() if k not in free}
  if different:
    named = '; '.join(f'{k} is {a!r} there and {b!r} here' for k, (a, b) in different.items())
    place = f'--config.{encoder_place(ours)}.frontend'
    mend = ' '.join(f'{place}.{k}={a}' for k, (a, _) in different.items())
    other = '; or, where the new data has its own, --config.init.statistics=any'
    raise InputError(
      f'{spec["path"]} was trained with another front-end ({named}): give {mend}'
      f', in a new --workdir{other * (set(different) <= {"mean", "std"})}.'
    )


def _check_settings(
  loaded: weights.Pretrained, model: Any, spec: Mapping[str, Any], taken: Sequence[str]
) -> None:
  """Refuses weights for a part that compute something else with the settings here."""
  theirs: Any = loaded.model
  known = {} if spec.get('under') or not isinstance(theirs, Borrows) else theirs.borrowed
  for part, settings in model.borrowed.items() if isinstance(model, Borrows) else ():
    if not any(name.startswith(f'{part}/') for name in taken):
      continue
    for name, value in settings.items():
      own = known[part].get(name, value) if part in known else flat_arguments(theirs).get(name)
      if own != value:
        raise InputError(
          f'{spec["path"]} has {name}={own!r}, but {part} of this model has {name}={value!r}, '
          'where the same arrays compute something else: give '
          f'--config.{encoder_place(model)}.{name}={own} in a new --workdir, or leave the part out '
          'with config.init.exclude.'
        )


def _check_leftovers(have: Iterable[str], own: Iterable[str], spec: Mapping[str, Any]) -> None:
  """Says which arrays have no place in a part that this model has; what is of other parts, as
  heads are, is not missed."""

  def part(name: str) -> str:
    return '/'.join(name.split('/')[:2])

  own = set(own)
  parts = {part(name) for name in own}
  left = [
    name for name in sorted(set(have) - own)
    if part(name) in parts and _wanted(name, spec) and not name.startswith('counters/')
  ]  # fmt: skip
  if left:
    shown = ', '.join(left[:6]) + f' … ({len(left)} in all)' * (len(left) > 6)
    warnings.warn(
      f'{spec["path"]} has arrays that this model has no place for: {shown}. They are left out; '
      'where that is meant, name them in config.init.exclude.',
      stacklevel=3,
    )


def _wanted(name: str, spec: Mapping[str, Any]) -> bool:
  """Whether the patterns of the config take an array."""
  left_out = spec['exclude'] and re.search(spec['exclude'], name)
  return bool(re.search(spec['include'], name)) and not left_out


def _names(variables: Mapping[str, Any]) -> list[str]:
  """Paths of the arrays, the transformer blocks one by one."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(unstack_blocks(variables))
  return [path_name(path) for path, _ in leaves]


def by_name(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Arrays by path, the transformer blocks both one by one and stacked (scan_layers)."""
  unrolled = unstack_blocks(variables)
  leaves = []
  for tree in (stack_blocks(unrolled), unrolled):
    leaves += jax.tree_util.tree_flatten_with_path(tree)[0]
  return {path_name(path): np.asarray(x) for path, x in leaves}


def warm_start(state: State, spec: Mapping[str, Any], model: Any) -> State:
  """The state with every parameter and table that `spec['path']` has under the same name and shape.

  Weights of scanned layers fit a model of unrolled ones, and the other way round. Counters of
  updates start anew.

  Args:
    state: a fresh state.
    spec: dict(path, include=REGEX of names to take, exclude=REGEX of names to leave or None,
      statistics='same' or 'any': whether the front-end's mean and std may differ, as when
      fine-tuning with the statistics of the new data; under=None, or the path of the part of this
      model that the weights are for, as 'frozen/vq_wav2vec', which they must fill).
    model: whose state it is. The weights must have been trained with its front-end, where both have
      one, and where arrays are taken for a part that it borrows, with the part's settings.

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
  loaded = weights.load(spec['path'], whole=True)
  check_frontend(loaded.model, model, spec)
  under = spec.get('under')
  have = by_name(dict(loaded.variables))
  if under:
    have = {f'{under}/{name}': x for name, x in have.items()}
  taken, fresh = [], []

  def take(path, x):
    name = path_name(path)
    theirs = have.get(name)
    if theirs is None and name.endswith('/pos_embed'):
      # Learned positions start from fixed ones.
      theirs = have.get(name.replace('params/', 'buffers/', 1))
    if not _wanted(name, spec) or theirs is None or name.startswith('counters/'):
      fresh.append(name)
      return x
    if theirs.shape != x.shape:
      own = encoder_of(model)
      found = None
      if isinstance(own, Resizes):
        found = own.resized(name, theirs, encoder_of(loaded.model))
      if found is not None:
        logging.info('%s: resized from %s to %s', name, theirs.shape, x.shape)
        taken.append(name)
        return jax.device_put(found.astype(x.dtype), x.sharding)
      # A setting says more than a shape.
      _check_settings(loaded, model, spec, [name])
      raise InputError(
        f'{spec["path"]} has {name} of shape {theirs.shape}, this model {x.shape}: give the '
        f'model the same sizes, or leave it out with config.init.exclude.'
      )
    taken.append(name)
    return jax.device_put(theirs.astype(x.dtype), x.sharding)

  own = {'params': state.params, **state.variables}
  merged = jax.tree_util.tree_map_with_path(take, own)
  if not taken:
    raise InputError(f'Nothing in {spec["path"]} has the name of a parameter of this model.')
  _check_settings(loaded, model, spec, taken)
  if under and any(name.startswith(f'{under}/') for name in fresh):
    lacking = [name for name in fresh if name.startswith(f'{under}/')]
    raise InputError(f'{spec["path"]} lacks {", ".join(lacking)}: it does not fill {under}.')
  if not under:
    _check_leftovers(_names(loaded.variables), _names(own), spec)
  logging.info('took %d arrays from %s; fresh: %s', len(taken), spec['path'], fresh)
  params = merged.pop('params')
  teacher = state.teacher
  if teacher is not None:
    teacher = jax.tree.map(jnp.copy, {'params': params, 'variables': teacher_collections(merged)})
  return state.replace(params=params, variables=merged, teacher=teacher)  # type: ignore[attr-defined]

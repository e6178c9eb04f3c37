"""Starting parts of a model from weights of other models: an encoder from a Whisper, a language
model from a Qwen2.5.

  config.init.parts = dict(
    audio_tower=dict(path='hf://openai/whisper-medium', part='encoder'),
    language_model=dict(path='/path/to/Qwen2.5-7B-Instruct'),
  )

A part is filled whole, but for gates between the layers of a language model. Tables of positions
that are longer there are cut; an embedding of tokens with more rows here keeps its own last rows,
and of one with a few more rows there, which stand for no token, the last ones are left out.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from research import weights
from research.errors import InputError, unknown
from research.train.state import State, path_name, teacher_collections
from research.train.warm_start import by_name, check_frontend, warm_start
from research.weights import language_parts

# Where the vocabulary is an axis: (array, axis).
# Rows that a vocabulary may have behind its tokens (267 in Qwen2.5-3B).
PADDING = 512
GATES = re.compile(r'^language_model/blocks(_\d+)?/before/')
TOKENS = ((re.compile(r'/token_embedding$'), 0), (re.compile(r'/lm_head/kernel$'), 1))


def started(state: State, spec: Mapping[str, Any], model: Any) -> State:
  """The state with what `config.init` takes: weights of the whole model first, then parts."""
  if spec['path'] or not spec['parts']:
    state = warm_start(state, spec, model)
  return warm_parts(state, spec, model) if spec['parts'] else state


def warm_parts(state: State, spec: Mapping[str, Any], model: Any) -> State:
  """The state with the parts that `spec['parts']` names.

  Args:
    state: a fresh state.
    spec: of config.init; parts: {part of this model: dict(path, part='' or the part there)}.
    model: whose state it is.

  Raises:
    InputError: a part that there is not here or there, other shapes, or another front-end.
  """
  own = {'params': state.params, **state.variables}
  for part, given in spec['parts'].items():
    if part not in state.params:
      raise unknown('part of this model in config.init.parts', part, state.params)
    if not isinstance(given, Mapping) or set(given) - {'path', 'part'} or not given.get('path'):
      raise InputError(
        f'config.init.parts.{part} has no path: give the weights with '
        f'--config.init.parts.{part}.path=PATH, or start from nothing with --config.init=None.'
      )
    own = _filled(own, part, _arrays(given, part, spec, model), given['path'])
  params, teacher = own.pop('params'), state.teacher
  if teacher is not None:
    teacher = jax.tree.map(jnp.copy, {'params': params, 'variables': teacher_collections(own)})
  return state.replace(params=params, variables=own, teacher=teacher)  # type: ignore[attr-defined]


def _arrays(
  given: Mapping[str, Any], part: str, spec: Mapping[str, Any], model: Any
) -> dict[str, np.ndarray]:
  """Arrays for a part, by their paths here."""
  path, theirs = given['path'], given.get('part') or ''
  if part == 'language_model' and not theirs and language_parts.is_language_model(path):
    flat = language_parts.read_language_model(path, model)
    return by_name(flax.traverse_util.unflatten_dict(flat, sep='/'))
  loaded = weights.load(path, whole=True)
  if part == 'audio_tower':
    check_frontend(loaded.model, model, {**spec, 'path': path})
  found = {}
  for name, x in by_name(dict(loaded.variables)).items():
    collection, _, rest = name.partition('/')
    if theirs and not rest.startswith(f'{theirs}/'):
      continue
    found[f'{collection}/{part}/{rest.removeprefix(f"{theirs}/") if theirs else rest}'] = x
  if not found:
    parts = {name.split('/')[1] for name in by_name(dict(loaded.variables))}
    raise unknown(f'part of {path} for config.init.parts.{part}.part', theirs, parts)
  return found


def _filled(own: Mapping[str, Any], part: str, have: Mapping[str, Any], path: str) -> dict:
  """Variables of which a part is `have`."""
  count = 0

  def take(place: Any, x: Any) -> Any:
    nonlocal count
    name = path_name(place)
    collection, own_part, *rest = name.split('/')
    if own_part != part or collection == 'counters' or rest[-1].startswith('lora_'):
      return x
    if GATES.match('/'.join((own_part, *rest))):
      return x
    if name not in have:
      raise InputError(f'{path} lacks {name}: it does not fill {part}.')
    count += 1
    return jax.device_put(_fitting(name, have[name], x, path).astype(x.dtype), x.sharding)

  made = jax.tree_util.tree_map_with_path(take, dict(own))
  logging.info('took %d arrays of %s from %s', count, part, path)
  return made


def _fitting(name: str, theirs: np.ndarray, ours: Any, path: str) -> np.ndarray:
  """An array in the shape that it has here."""
  if theirs.shape == ours.shape:
    return theirs
  longer = name.startswith('buffers/') and theirs.shape[1:] == ours.shape[1:]
  if longer and len(theirs) > len(ours):
    return theirs[: len(ours)]
  for pattern, axis in TOKENS:
    rows = [shape[:axis] + shape[axis + 1 :] for shape in (theirs.shape, ours.shape)]
    same = rows[0] == rows[1]
    if not pattern.search(name) or not same:
      continue
    if 0 <= theirs.shape[axis] - ours.shape[axis] <= PADDING:
      return np.take(theirs, range(ours.shape[axis]), axis=axis)
    if theirs.shape[axis] < ours.shape[axis]:
      rest = np.take(np.asarray(ours), range(theirs.shape[axis], ours.shape[axis]), axis=axis)
      return np.concatenate([theirs, rest], axis=axis)
  raise InputError(
    f'{path} has {name} of shape {theirs.shape}, this model {ours.shape}: give the model the same '
    'sizes.'
  )

"""Key tables: a release's weights and ours, renamed and reshaped in either direction by the same
rules.

A rule names one tensor on both sides, or with `{i}` one tensor per layer, and the layout change
between them. Layout changes are reshapes and transposes, so going there and back gives the
identical tensors.
"""

import collections
import fnmatch
import functools
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from research.capabilities import Sheds
from research.errors import InputError
from research.models.finetuned import encoder_of
from research.nn.layers import stack_blocks, unstack_blocks

Arrays = dict[str, np.ndarray]
Derive = Callable[[Any, Mapping[str, Any]], Mapping[str, np.ndarray]]


class Rule(NamedTuple):
  """One line of a key table.

  Attributes:
    theirs: original key. 'key#1' is the second of equal parts of its first axis, as of queries,
      keys and values in one matrix; all parts are in the table.
    ours: path in our variables, '/'-separated, collection first. 'path#1' is the second of the
      pieces that one fused array of ours is stacked of, before its last two axes (vectors and
      numbers are rows of theirs); 'path@1' the second of the two halves of its last axis; 'path~1'
      the second along its first axis, of an array of all layers.
    layout: a key of LAYOUTS.
    layers: model attribute that says how many layers `{i}` counts; '' for a single tensor.
    heads: number of attention heads, for layouts that need it, or the model attribute that holds
      it.
  """

  theirs: str
  ours: str
  layout: str = 'same'
  layers: str = ''
  heads: str | int = ''


class Layout(NamedTuple):
  """A layout change: functions (array, heads) -> array, theirs to ours and back."""

  convert: Any
  revert: Any


def _square(x, heads):
  side = round(x.shape[0] ** 0.5)
  return x.T.reshape(x.shape[1], 1, side, side)


def _turned(table, rows, columns):
  patches = table[2:].reshape(rows, columns, table.shape[1]).transpose(1, 0, 2)
  return np.concatenate([table[:2], patches.reshape(-1, table.shape[1])])


LAYOUTS = {
  'same': Layout(lambda x, h: x, lambda x, h: x),
  # Linear [out, in] <-> kernel [in, out].
  'linear': Layout(lambda x, h: x.T, lambda x, h: x.T),
  # Conv2d [d, 1, p, p] <-> kernel [p * p, d] over flattened patches.
  'patch': Layout(lambda x, h: x.reshape(x.shape[0], -1).T, _square),
  # The same where frequency is the first axis of a patch, as in AST.
  'patch_of_bins': Layout(
    lambda x, h: x.transpose(0, 1, 3, 2).reshape(x.shape[0], -1).T,
    lambda x, h: _square(x, h).transpose(0, 1, 3, 2),
  ),
  # Fused qkv Linear [3 h k, d] <-> kernel [d, 3, h, k].
  'heads_in': Layout(
    lambda x, h: x.T.reshape(x.shape[1], 3, h, -1), lambda x, h: x.reshape(x.shape[0], -1).T
  ),
  # Fused keys and values Linear [2 h k, d] <-> kernel [d, 2, h, k].
  'pair_of_heads': Layout(
    lambda x, h: x.T.reshape(x.shape[1], 2, h, -1), lambda x, h: x.reshape(x.shape[0], -1).T
  ),
  'heads_in_bias': Layout(lambda x, h: x.reshape(3, h, -1), lambda x, h: x.reshape(-1)),
  # Output Linear [d, h k] <-> kernel [h, k, d].
  'heads_out': Layout(
    lambda x, h: x.T.reshape(h, -1, x.shape[0]), lambda x, h: x.reshape(-1, x.shape[-1]).T
  ),
  # Linear [h k, d] of queries, keys or values <-> piece [d, h, k] of the fused kernel.
  'heads': Layout(
    lambda x, h: x.T.reshape(x.shape[1], h, -1), lambda x, h: x.reshape(x.shape[0], -1).T
  ),
  'heads_bias': Layout(lambda x, h: x.reshape(h, -1), lambda x, h: x.reshape(-1)),
  # Conv1d [o, i, p] <-> kernel [p, i, o].
  'conv1d': Layout(lambda x, h: x.transpose(2, 1, 0), lambda x, h: x.transpose(2, 1, 0)),
  # ConvTranspose1d [i, o, p] <-> kernel [p, i, o].
  'conv1d_transposed': Layout(lambda x, h: x.transpose(2, 0, 1), lambda x, h: x.transpose(1, 2, 0)),
  # A flag as a number [1] <-> [].
  'flag': Layout(
    lambda x, h: x.reshape(()).astype(bool), lambda x, h: x.astype(np.float32).reshape(1)
  ),
  # [n, d] <-> [1, n, d].
  'row': Layout(lambda x, h: x[None], lambda x, h: x[0]),
  # Scale of a weight norm over taps [1, 1, p] <-> [p].
  'taps': Layout(lambda x, h: x.reshape(-1), lambda x, h: x.reshape(1, 1, -1)),
  # Scales of a weight norm over outputs [o, 1, 1] <-> [o], of a Conv2d [o, 1, 1, 1] <-> [o].
  'scales': Layout(lambda x, h: x.reshape(-1), lambda x, h: x.reshape(-1, 1, 1)),
  'scales2d': Layout(lambda x, h: x.reshape(-1), lambda x, h: x.reshape(-1, 1, 1, 1)),
  # A number a head [1, h, 1, 1] <-> [h].
  'per_head': Layout(lambda x, h: x.reshape(-1), lambda x, h: x.reshape(1, -1, 1, 1)),
  # Codebook [1, g k, d] <-> [g, k, d].
  'codebook': Layout(
    lambda x, h: x.reshape(h, -1, x.shape[-1]), lambda x, h: x.reshape(1, -1, x.shape[-1])
  ),
  # Codebook [k, g, d] <-> [g, k, d].
  'grouped_codebook': Layout(lambda x, h: x.transpose(1, 0, 2), lambda x, h: x.transpose(1, 0, 2)),
  # Grouped Conv1d of kernel 1 [g o, i, 1] <-> kernel [g, i, o].
  'grouped': Layout(
    lambda x, h: x.reshape(h, -1, x.shape[1]).transpose(0, 2, 1),
    lambda x, h: x.transpose(0, 2, 1).reshape(-1, x.shape[1], 1),
  ),
  # ConvTranspose2d over one row [i, o, 1, s] <-> kernel [i, s, o].
  'steps': Layout(
    lambda x, h: x[:, :, 0].transpose(0, 2, 1), lambda x, h: x.transpose(0, 2, 1)[:, :, None]
  ),
  # Conv2d [o, i, f, s] <-> kernel [s, f, i, o].
  'conv2d': Layout(lambda x, h: x.transpose(3, 2, 1, 0), lambda x, h: x.transpose(3, 2, 1, 0)),
  # Conv1D of GPT-2 [d, 3 h k] <-> kernel [d, 3, h, k]; [h k, d] <-> [h, k, d].
  'conv1d_heads_in': Layout(
    lambda x, h: x.reshape(len(x), 3, h, -1), lambda x, h: x.reshape(len(x), -1)
  ),
  'conv1d_heads_out': Layout(
    lambda x, h: x.reshape(h, -1, x.shape[-1]), lambda x, h: x.reshape(-1, x.shape[-1])
  ),
  # The same of one part, and of two: [d, h k] <-> [d, 1, h, k], [d, 2 h k] <-> [d, 2, h, k].
  'conv1d_heads': Layout(
    lambda x, h: x.reshape(len(x), 1, h, -1), lambda x, h: x.reshape(len(x), -1)
  ),
  'conv1d_heads_bias': Layout(lambda x, h: x.reshape(1, h, -1), lambda x, h: x.reshape(-1)),
  'conv1d_pair': Layout(
    lambda x, h: x.reshape(len(x), 2, h, -1), lambda x, h: x.reshape(len(x), -1)
  ),
  'conv1d_pair_bias': Layout(lambda x, h: x.reshape(2, h, -1), lambda x, h: x.reshape(-1)),
  # Conv2d [o, i, s, f] <-> kernel [s, f, i, o].
  'conv2d_in_time': Layout(
    lambda x, h: x.transpose(2, 3, 1, 0), lambda x, h: x.transpose(3, 2, 0, 1)
  ),
  # Conv2d [o, i, f, s] over two bands <-> kernel [s, f, i, o].
  'tags': Layout(lambda x, h: x.transpose(3, 2, 1, 0), lambda x, h: x.transpose(3, 2, 1, 0)),
  # Conv2d of kernel 1 [o, i, 1, 1] <-> kernel [i, o].
  'conv1x1': Layout(lambda x, h: x[:, :, 0, 0].T, lambda x, h: x.T[:, :, None, None]),
  # Conv2d [d, 1, y, x] of patches y high and x wide; y is in the place of the heads.
  'patch_of_rows': Layout(
    lambda x, h: x.reshape(len(x), -1).T, lambda x, h: x.T.reshape(x.shape[1], 1, h, -1)
  ),
  # One number, [] or [1] <-> [].
  'number': Layout(lambda x, h: x.reshape(()), lambda x, h: x),
  # A number of batches, int64 <-> int32.
  'count': Layout(lambda x, h: x.astype(np.int32), lambda x, h: x.astype(np.int64)),
  # [1, n, d] <-> [n, d].
  'table': Layout(lambda x, h: x[0], lambda x, h: x[None]),
  # Positions [1, 2 + f t, d] of two class tokens and f rows of bins <-> [2 + t f, d], t rows of
  # frames; f is in the place of the heads.
  'table_of_bins': Layout(lambda x, f: _turned(x[0], f, -1), lambda x, f: _turned(x, -1, f)[None]),
}


def vector(theirs: str, ours: str, layers: str = '') -> list[Rule]:
  """Rules of a norm: weight and bias."""
  return [
    Rule(f'{theirs}.weight', f'{ours}/scale', layers=layers),
    Rule(f'{theirs}.bias', f'{ours}/bias', layers=layers),
  ]


def linear(theirs: str, ours: str, layers: str = '') -> list[Rule]:
  """Rules of a Linear: weight and bias."""
  return [
    Rule(f'{theirs}.weight', f'{ours}/kernel', 'linear', layers),
    Rule(f'{theirs}.bias', f'{ours}/bias', layers=layers),
  ]


def blocks(theirs: str, ours: str, layers: str, heads: str) -> list[Rule]:
  """Rules of a row of timm-style transformer blocks."""
  t, o = f'{theirs}.{{i}}', f'{ours}/blocks_{{i}}'
  return [
    *vector(f'{t}.norm1', f'{o}/norm1', layers),
    Rule(f'{t}.attn.qkv.weight', f'{o}/attn/qkv/kernel', 'heads_in', layers, heads),
    Rule(f'{t}.attn.qkv.bias', f'{o}/attn/qkv/bias', 'heads_in_bias', layers, heads),
    Rule(f'{t}.attn.proj.weight', f'{o}/attn/proj/kernel', 'heads_out', layers, heads),
    Rule(f'{t}.attn.proj.bias', f'{o}/attn/proj/bias', layers=layers),
    *vector(f'{t}.norm2', f'{o}/norm2', layers),
    *linear(f'{t}.mlp.fc1', f'{o}/mlp/fc1', layers),
    *linear(f'{t}.mlp.fc2', f'{o}/mlp/fc2', layers),
  ]


# -- Applying a table --------------------------------------------------------------------------


def expand(rules: Iterable[Rule], model: nn.Module) -> list[tuple[str, str, Layout, int]]:
  """(their key, our path, layout, heads) of every tensor of a model."""
  rows, encoder = [], encoder_of(model)
  for rule in rules:
    heads = rule.heads or 0
    if isinstance(heads, str):
      heads = getattr(encoder, heads)
    for i in range(getattr(encoder, rule.layers)) if rule.layers else (0,):
      theirs, ours = rule.theirs.replace('{i}', str(i)), rule.ours.replace('{i}', str(i))
      rows.append((theirs, ours, LAYOUTS[rule.layout], heads))
  return rows


def to_ours(
  rules: Sequence[Rule],
  model: nn.Module,
  arrays: Mapping[str, np.ndarray],
  ignored: Sequence[str],
  derive: Derive = lambda model, flat: {},
) -> dict[str, Any]:
  """Original arrays -> variables of `model`; `derive`: see `Release`.

  Raises:
    InputError: a key of the table is missing, a key of the file is in no rule (nor matches a
      pattern of `ignored`), or a tensor has another shape than the model needs.
  """
  rows = expand(rules, model)
  parts = collections.Counter(_key(theirs) for theirs, *_ in rows)
  known = set(parts)
  unknown = [
    k for k in arrays if k not in known and not any(fnmatch.fnmatch(k, p) for p in ignored)
  ]
  missing = [k for k in known if k not in arrays]
  if unknown or missing:
    raise InputError(
      f'The weights do not fit {type(model).__name__}: {_listing("missing", missing)}; '
      f'{_listing("not expected", unknown)}. Check the release name and the sizes.'
    )
  flat, kinds = {}, {k: x.dtype for k, x in expected(model).items()}
  for theirs, ours, layout, heads in rows:
    whole = np.asarray(arrays[_key(theirs)])
    try:
      piece = np.split(whole, parts[_key(theirs)])[_number(theirs)] if '#' in theirs else whole
      # In its final type at once: a second copy of a large file would not fit.
      flat[ours] = np.asarray(layout.convert(piece, heads), kinds.get(_path(ours)), order='C')
    except ValueError as error:
      raise InputError(
        f'{theirs} has shape {whole.shape}, which does not divide into {heads} heads.'
      ) from error
  fused = _fuse(flat)
  fused |= derive(model, fused)
  return _as_layout(check_shapes(fused | _fixed(model, fused), model), model)


def _fuse(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Pieces 'path#0', 'path#1', … and 'path~0', … stacked to the array at 'path'; 'path@0', 'path@1'
  joined."""
  found = dict(flat)
  while pieces := [m for m in map(_PIECE.fullmatch, found) if m]:
    parts: dict[tuple[str, str], dict[int, Any]] = {}
    for path, how, number in (m.groups() for m in pieces):
      parts.setdefault((path, how), {})[int(number)] = found.pop(f'{path}{how}{number}')
    for (path, how), each in parts.items():
      rows = [each[i] for i in sorted(each)]
      axis = {'#': max(rows[0].ndim - 2, 0), '~': 0, '@': -1}[how]
      found[path] = (np.concatenate if how == '@' else np.stack)(rows, axis=axis)
  return found


# A piece of an array, see `Rule.ours`; of pieces of pieces the last.
_PIECE = re.compile(r'(.+)([#@~])(\d+)')


def _path(name: str) -> str:
  """The path of an array of which a name may be a piece."""
  return re.split(r'[#@~]', name)[0]


def _piece(flat: Mapping[str, Any], name: str) -> np.ndarray:
  """The array of a path, or the piece that a name is of it."""
  x = np.asarray(flat[_path(name)])
  for how, number in re.findall(r'([#@~])(\d+)', name):
    if how == '@':
      x = np.split(x, 2, axis=-1)[int(number)]
    else:
      x = np.asarray(np.take(x, int(number), axis=0 if how == '~' else max(x.ndim - 3, 0)))
  return x


def _fixed(model: nn.Module, taken: Container[str]) -> dict[str, np.ndarray]:
  """Counters that a release has not: they start at 0."""
  counters = {k: x for k, x in expected(model).items() if _counts(k) and k not in taken}
  return {k: np.zeros(x.shape, x.dtype) for k, x in counters.items()}


def _counts(name: str) -> bool:
  """Whether a variable is a number of updates or of batches seen."""
  return (
    name.startswith('counters/')
    or name.endswith('/updates')
    or (name.startswith('batch_stats/') and name.endswith('/count'))
  )


def to_theirs(
  rules: Sequence[Rule],
  model: nn.Module,
  variables: Mapping[str, Any],
  derive: Derive = lambda model, flat: {},
) -> Arrays:
  """Variables of `model` -> original arrays: the inverse of `to_ours`."""
  flat = flatten(unstack_blocks(nn.meta.unbox(variables)))
  rows = expand(rules, model)
  known = {_path(ours) for _, ours, *_ in rows}
  unknown = sorted(k for k in set(flat) - known if not _counts(k))
  missing = sorted(known - set(flat))
  if unknown and not missing:
    unknown = sorted(set(unknown) - set(derive(model, flat)))
  if unknown or missing:
    raise InputError(
      f'{type(model).__name__} has other variables than this release: '
      f'{_listing("missing", missing)}; {_listing("not expected", unknown)}.'
    )
  found = {
    theirs: np.asarray(layout.revert(_piece(flat, ours), heads), order='C')
    for theirs, ours, layout, heads in rows
  }
  split: dict[str, dict[int, np.ndarray]] = {}
  for theirs in [key for key in found if '#' in key]:
    split.setdefault(_key(theirs), {})[_number(theirs)] = found.pop(theirs)
  return found | {k: np.concatenate([x[i] for i in sorted(x)]) for k, x in split.items()}


def _key(theirs: str) -> str:
  """The original key, of which a rule may name a part."""
  return theirs.partition('#')[0]


def _number(theirs: str) -> int:
  return int(theirs.partition('#')[2])


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
  """Nested variables -> {'collection/module/…/name': array}."""
  return flax.traverse_util.flatten_dict(dict(variables), sep='/')


@functools.lru_cache(maxsize=64)
def _variables(model: Any) -> Any:
  """Shapes and types of the variables of a model, without computing anything."""
  return jax.eval_shape(
    lambda batch: nn.meta.unbox(model.init(jax.random.key(0), batch)), model.example()
  )


def expected(model: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
  """Every variable of a model, layers unrolled, without computing anything."""
  return flatten(jax.eval_shape(unstack_blocks, _variables(model)))


def expected_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
  """Shape of every variable of a model, layers unrolled."""
  return {k: x.shape for k, x in expected(model).items()}


def check_shapes(flat: Mapping[str, Any], model: nn.Module) -> dict[str, np.ndarray]:
  """The same arrays in the model's types; raises InputError unless they are exactly its
  variables."""
  own = expected(model)
  missing, unknown = sorted(set(own) - set(flat)), sorted(set(flat) - set(own))
  wrong = [
    f'{k} is {tuple(flat[k].shape)}, expected {tuple(own[k].shape)}'
    for k in sorted(set(own) & set(flat))
    if tuple(flat[k].shape) != tuple(own[k].shape)
  ]
  if missing or unknown or wrong:
    raise InputError(
      f'The weights do not fit {type(model).__name__}: {_listing("missing", missing)}; '
      f'{_listing("not expected", unknown)}; {_listing("wrong shapes", wrong)}.'
    )
  return {k: np.asarray(v, own[k].dtype) for k, v in flat.items()}


def _as_layout(flat: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
  tree = flax.traverse_util.unflatten_dict(dict(flat), sep='/')
  scanned = any('/blocks/' in name for name in flatten(_variables(model)))
  return stack_blocks(tree) if scanned else tree


def nest(flat: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
  """Checked flat arrays -> variables, in the layer layout of the model."""
  return _as_layout(check_shapes(flat, model), model)


def shed(model: Any, variables: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
  """Model and variables without the parts that only training needs, see `capabilities.Sheds`."""
  if not isinstance(model, Sheds):
    return model, variables
  model, flat = model.shed(flatten(variables))
  return model, flax.traverse_util.unflatten_dict(flat, sep='/')


def check_numbers(variables: Mapping[str, Any], where: str) -> None:
  """Raises InputError if a weight is not a number."""
  for name, x in flatten(variables).items():
    if jnp.issubdtype(x.dtype, jnp.floating) and np.isnan(x).any():
      raise InputError(
        f'{where}: {name} holds NaN: the file is damaged, or its training has diverged.'
      )


def _listing(what: str, names: Sequence[str], most: int = 8) -> str:
  names = sorted(names)
  rest = f' and {len(names) - most} more' if len(names) > most else ''
  return f'{what}: {", ".join(names[:most]) or "none"}{rest}'


def without_module(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Arrays by name without the prefix that torch's DataParallel puts before each."""
  return {key.removeprefix('module.'): x for key, x in arrays.items()}

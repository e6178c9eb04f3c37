"""Every setting of a run with its default, and the checks of what a config sets."""

import copy
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from research import models, objectives
from research.audio import fields
from research.capabilities import Composed
from research.errors import InputError, unknown
from research.features import augment
from research.models import settings
from research.train import optim

DATA: dict[str, Any] = dict(
  source='builtin',
  root=None,
  split='train',
  where=None,
  sample_rate=16_000,
  seconds=None,
  min_seconds=None,
  crop='random',
  buckets=None,
  fill='pad',
  fields={},
  weights=None,
  batch_size=64,
  batch_seconds=None,
  batch_multiple=1,
  shuffle=True,
  seed=0,
  epoch_size=None,
  num_threads=2,
  num_workers=0,
  prefetch=8,
  max_bad_fraction=0.05,
)

# Every key a config may have, with what it means when an experiment does not say.
DEFAULTS: dict[str, Any] = dict(
  seed=0,
  total_steps=None,
  epochs=None,
  data=DATA,
  model=dict(name=None, args={}),
  objective=dict(name=None, args={}),
  augment=(),
  optim=optim.DEFAULTS,
  mesh=dict(data=-1, fsdp=1, tensor=1),
  teacher=None,
  init=None,
  adapters=None,
  evals={},
  watch=dict(
    representation_std=dict(min=1e-3, after=50, stop=False),
    min_code_usage=dict(min=0.02, after=200, stop=False),
    discriminator_loss=dict(
      min=0.05, after=200, patience=10, says='the discriminator always wins', stop=False
    ),
  ),
  log_every=10,
  checkpoint=dict(every=500, keep=2, best=None, best_mode='min'),
  on_nan='stop',
  max_rewinds=3,
  profile=None,
)

# Groups whose keys are the business of what they describe.
FREE_FORM = (
  'args',
  'evals',
  'watch',
  'where',
  'schedule',
  'layer_decay',
  'groups',
  'source',
  'fields',
)

OPTIONAL: dict[str, dict[str, Any]] = dict(
  teacher=dict(decay=0.999, decay_end=None, decay_steps=None, forward=False),
  init=dict(path=None, include='.*', exclude=None, statistics='same', under=None, parts=None),
  adapters=dict(rank=8, alpha=16.0, targets=r'attn/(qkv|query|value)/kernel$', trained=None),
  profile=dict(start=10, steps=5),
)

EVAL: dict[str, Any] = dict(name=None, every=None, batches=None, data={}, args={})

# What may differ between a run and its resumption: nothing that changes the numbers.
FREE = ('mesh', 'log_every', 'checkpoint', 'evals', 'watch', 'on_nan', 'max_rewinds', 'profile')

FREE_DATA = ('root', 'num_threads', 'prefetch', 'max_bad_fraction')


def _merge(default: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
  """`given` over `default`; a key that `default` lacks is an error, but for free-form dicts."""
  merged = copy.deepcopy(dict(default))
  for key, value in given.items():
    path = f'{where}.{key}' if where else key
    if key not in merged:
      groups = [k for k, v in merged.items() if isinstance(v, Mapping) and key in v]
      near = [f'{g}.{key}' for g in groups] or list(merged)
      raise unknown(
        'setting', f'config.{path}', [f'config.{where + "." if where else ""}{k}' for k in near]
      )
    inner = merged[key] if merged[key] is not None else OPTIONAL.get(path)
    free = key in FREE_FORM or (where.startswith('evals') and key == 'data')
    if isinstance(inner, Mapping) and isinstance(value, Mapping) and not free:
      merged[key] = _merge(inner, value, path)
    elif isinstance(inner, Mapping) and inner and not isinstance(value, (Mapping, type(None))):
      if not free:
        raise InputError(
          f'config.{path} is {value!r}, but it is a group: set config.{path}.<name>.'
        )
      merged[key] = value
    else:
      # None stands for "no such choice" where a text is asked for.
      if not free and inner is not None and not (isinstance(inner, str) and value is None):
        _check_kind(value, (type(inner),), f'config.{path}')
      merged[key] = copy.deepcopy(value)
  return merged


# What a setting is asked to be, by its type.
KINDS = {
  bool: 'True or False', int: 'a whole number', float: 'a number', str: 'a text', tuple: 'a list',
}  # fmt: skip


def _check_kind(value: Any, kinds: Sequence[Any], name: str) -> None:
  """Raises InputError where `value` has none of these types; a float may be written as an int."""
  if not set(kinds) <= {*KINDS, type(None)}:
    return
  allowed = {*kinds, *((int,) if float in kinds else ()), *((list,) if tuple in kinds else ())}
  if type(value) not in allowed and not isinstance(value, np.generic):
    wanted = ' or '.join(KINDS[k] for k in kinds if k in KINDS)
    raise InputError(f'{name} is {value!r}; it must be {wanted}.')


def _plain(value: Any) -> Any:
  """ConfigDicts as dicts, tuples as lists: what JSON gives back."""
  if isinstance(value, ConfigDict):
    value = value.to_dict()
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  # A setting that is text takes `--config.data.split=None` as text.
  return None if value == 'None' else value


def complete(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
  """The config with every default filled in and every name and argument checked.

  Raises:
    InputError: naming what is wrong, what is known and what is nearest.
  """
  full = _merge(DEFAULTS, _plain(config), '')
  if (full['total_steps'] is None) == (full['epochs'] is None):
    raise InputError('Set one of config.total_steps and config.epochs (and not both).')
  for key in ('total_steps', 'log_every'):
    _positive(full[key], f'config.{key}', optional=key == 'total_steps')
  for key in ('batch_size', 'batch_multiple'):
    _positive(full['data'][key], f'config.data.{key}')
  if full['data']['batch_seconds'] is not None:
    _number(full['data']['batch_seconds'], 'config.data.batch_seconds')
  _positive(full['optim']['accumulate'], 'config.optim.accumulate')
  for key in ('every', 'keep'):
    _positive(full['checkpoint'][key], f'config.checkpoint.{key}')
  _positive(full['data']['sample_rate'], 'config.data.sample_rate')
  for name in ('lr', 'weight_decay', 'eps'):
    _number(full['optim'][name], f'config.optim.{name}')
  for name in ('decay', 'decay_end'):
    value = (full['teacher'] or {}).get(name)
    if value is not None:
      _number(value, f'config.teacher.{name}')
      if value > 1:
        raise InputError(f'config.teacher.{name} is {value!r}; it must be 1 at most.')
  if full['optim']['clip_norm'] is not None:
    _number(full['optim']['clip_norm'], 'config.optim.clip_norm', above=True)
  _number(full['data']['max_bad_fraction'], 'config.data.max_bad_fraction')
  if full['on_nan'] not in ('stop', 'rewind'):
    raise InputError(f"config.on_nan is {full['on_nan']!r}; it must be 'stop' or 'rewind'.")
  for key in set(full['optim']['schedule']) - set(optim.SCHEDULE_DEFAULTS):
    raise unknown('setting', f'config.optim.schedule.{key}', optim.SCHEDULE_DEFAULTS)
  full['optim']['groups'] = optim.check_groups(full['optim']['groups'])
  check_arguments('model', full['model'], model_arguments)
  _check_parts(full['model'])
  check_arguments('objective', full['objective'], objective_arguments)
  objectives.check(full['objective']['name'], full)
  full['augment'] = [{'args': {}, **a} for a in full['augment']]
  for item in full['augment']:
    check_arguments('augmentation', item, augmentation_arguments)
  _check_fields(full)
  full['evals'] = {
    name: _merge(EVAL, spec, f'evals.{name}')
    for name, spec in full['evals'].items()
    if spec is not None  # switched off
  }
  best = full['checkpoint']['best']
  if best is not None and str(best).split('/')[0] not in full['evals']:
    raise InputError(
      f'config.checkpoint.best is {best!r}; it must be a metric of an evaluation, as in '
      f"'valid/loss'. config.evals has: {', '.join(full['evals']) or 'none'}."
    )
  elif best is not None:
    _judged(full['checkpoint']['every'], full['evals'][str(best).split('/')[0]]['every'])
  return _plain(full)


def _judged(saved: int, evaluated: int | None) -> None:
  """Warns where few checkpoints are saved at a step of the evaluation that judges them."""
  if evaluated and (saved % evaluated == 0 or evaluated % saved == 0):
    return
  meet = f'every {math.lcm(saved, evaluated)} steps and ' if evaluated else ''
  logging.warning(
    'config.checkpoint.best: checkpoints are saved every %d steps and the evaluation that judges '
    'them runs %s, so that they are judged %sat the end only.',
    saved, f'every {evaluated}' if evaluated else 'at the end', meet,
  )  # fmt: skip


def _check_fields(full: Mapping[str, Any]) -> None:
  """Names and arguments of the fields, and what they and the augmentations ask of each other."""
  made = fields.make(full['data']['fields'])
  for field in made:
    field.check_config(full)
  keys = {field.key for field in made}
  for item in full['augment']:
    for key, told in augment.needs(item['name'], item['args']).items():
      if key not in keys:
        raise InputError(told)


def _positive(value: Any, name: str, optional: bool = False) -> None:
  if optional and value is None:
    return
  if not isinstance(value, int) or isinstance(value, bool) or value < 1:
    raise InputError(f'{name} is {value!r}; it must be a whole number of at least 1.')


def _number(value: Any, name: str, above: bool = False) -> None:
  good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
  if not good or value < 0 or (above and value == 0):
    raise InputError(
      f'{name} is {value!r}; it must be a number {"above" if above else "of at least"} 0.'
    )


def check_arguments(
  kind: str, spec: Mapping[str, Any], arguments: Callable[[str], 'Arguments']
) -> None:
  """Checks `spec = dict(name=…, args=dict(…))` against what the named thing takes."""
  known = arguments(spec['name'])
  if not isinstance(spec['args'], Mapping):
    raise InputError(f'config.{kind}.args is {spec["args"]!r}; set config.{kind}.args.<name>.')
  for key, value in spec['args'].items():
    if key not in known:
      raise unknown(f'argument config.{kind}.args of {spec["name"]}:', key, known)
    hint, default = known[key]
    if value is None and default is None:
      continue
    if key == 'frontend' and not isinstance(value, Mapping):
      raise InputError(
        f'config.{kind}.args.frontend is {value!r}, but it is a group: set '
        f'config.{kind}.args.frontend.name.'
      )
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    _check_kind(value, kinds, f'config.{kind}.args.{key}')


def _check_parts(spec: Mapping[str, Any]) -> None:
  """Checks the arguments of a model that describe modules, as an encoder and a head."""
  cls = models.get(spec['name'])
  for name, get in cls.PARTS.items() if isinstance(cls, Composed) else ():
    part = spec['args'].get(name)
    if part is None:
      continue
    if not isinstance(part, Mapping) or 'name' not in part or set(part) - {'name', 'args'}:
      raise InputError(
        f'config.model.args.{name} is {part!r}, but it is a group: set '
        f'config.model.args.{name}.name and config.model.args.{name}.args.'
      )
    known = lambda name, get=get: _fields(get(name))  # noqa: E731
    check_arguments(f'model.args.{name}', {'args': {}, **part}, known)


Arguments = dict[str, tuple[Any, Any]]  # name -> annotation, default


def model_arguments(name: str) -> Arguments:
  """Arguments that the model of this name takes."""
  return _fields(models.get(name))


def _fields(cls: Any) -> Arguments:
  own = settings.argument_names(cls)
  return {f.name: (f.type, f.default) for f in dataclasses.fields(cls) if f.name in own}


def _parameters(function: Callable[..., Any]) -> Arguments:
  after = list(inspect.signature(function).parameters.values())[2:]
  return {p.name: (p.annotation, p.default) for p in after}


def objective_arguments(name: str) -> Arguments:
  """Arguments that the objective of this name takes, beyond (out, batch)."""
  return _parameters(objectives.get(name))


def augmentation_arguments(name: str) -> Arguments:
  """Arguments that the augmentation of this name takes, beyond (key, batch)."""
  if name not in augment.AUGMENTATIONS:
    raise unknown('augmentation', name, augment.AUGMENTATIONS)
  return _parameters(augment.AUGMENTATIONS[name])


def _filled(old: Mapping[str, Any], default: Mapping[str, Any], where: str = '') -> dict[str, Any]:
  """`old` with the defaults of settings that are younger than it."""
  filled = dict(old)
  for key, value in default.items():
    path = f'{where}.{key}' if where else key
    inner = OPTIONAL.get(path) if value is None else value
    if key not in filled:
      filled[key] = value
    elif key not in FREE_FORM and isinstance(inner, Mapping) and isinstance(old[key], Mapping):
      filled[key] = _filled(old[key], inner, path)
  return filled


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Settings that differ between two completed configs and change the numbers, as 'path: a ->
  b'."""

  def walk(a: Any, b: Any, path: str) -> list[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
      keys = sorted(set(a) | set(b))
      return [d for k in keys for d in walk(a.get(k), b.get(k), f'{path}.{k}' if path else k)]
    return [] if a == b else [f'{path}: {a!r} -> {b!r}']

  old = _filled(old, DEFAULTS)
  free = FREE + tuple(f'data.{k}' for k in FREE_DATA)
  starts = tuple(f'{f}{end}' for f in free for end in '.:')
  return [d for d in walk(old, new, '') if not d.startswith(starts)]

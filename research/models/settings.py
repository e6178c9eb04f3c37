"""Arguments of models: figures that a size fills in, plain values, modules found by their place."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

import flax.linen as nn
from flax.core import FrozenDict

from research.capabilities import Hears
from research.errors import unknown

LINEN = ('parent', 'name')  # fields that every Flax module has


# -- Figures of a size -------------------------------------------------------------------------


def by_size() -> Any:
  """Default of an argument that takes the figure of the model's size: None until `fill`."""
  return None


def fill(model: nn.Module, figures: Mapping[str, Any]) -> None:
  """Sets the arguments of a model that were left None; figures that are no arguments are not
  looked at."""
  for name in argument_names(type(model)) & set(figures):
    if getattr(model, name) is None:
      object.__setattr__(model, name, figures[name])


def check_choices(title: str, model: nn.Module, known: Mapping[str, Collection[Any]]) -> None:
  """Raises InputError where an argument is none of its known values."""
  for name, values in known.items():
    if getattr(model, name) not in values:
      raise unknown(f'{name} of {title}', getattr(model, name), values)


# -- Plain values ------------------------------------------------------------------------------


def frozen(value: Any) -> Any:
  """Mappings as FrozenDict and lists as tuples, at any depth: hashable, and equal after JSON."""
  if isinstance(value, Mapping):
    return FrozenDict({key: frozen(x) for key, x in value.items()})
  return tuple(frozen(x) for x in value) if isinstance(value, (list, tuple)) else value


def thawed(value: Any) -> Any:
  """Mappings as dicts, at any depth."""
  if isinstance(value, Mapping):
    return {key: thawed(x) for key, x in value.items()}
  return tuple(thawed(x) for x in value) if isinstance(value, (list, tuple)) else value


def argument_names(cls: type) -> set[str]:
  """Names of the arguments of a class of modules."""
  return {f.name for f in dataclasses.fields(cls) if f.init and f.name not in LINEN}


def arguments(module: Any, defaults: bool = True) -> dict[str, Any]:
  """A module's arguments, JSON-able: all, or those that differ from its defaults; always the
  front-end, where it has one."""
  own = argument_names(type(module))
  fields = [f for f in dataclasses.fields(module) if f.name in own - {'frontend'}]
  values = {f.name: (getattr(module, f.name), f.default) for f in fields}
  args = {name: thawed(x) for name, (x, default) in values.items() if defaults or x != default}
  if 'frontend' in own and isinstance(module, Hears):
    args['frontend'] = module.frontend.to_dict()
  return args


# -- Found by place ----------------------------------------------------------------------------


def class_in(package: ModuleType, stem: str, kind: type) -> type | None:
  """The class of a module of a package that has the module's name, as AudioMAE of audio_mae.py, and
  is a `kind`; None where there is none."""
  if stem not in stems(package):
    return None
  module = importlib.import_module(f'{package.__name__}.{stem}')
  for cls in vars(module).values():
    named = isinstance(cls, type) and cls.__name__.lower() == stem.replace('_', '')
    if named and cls.__module__ == module.__name__ and issubclass(cls, kind):
      return cls
  return None


def class_name(stem: str) -> str:
  """The name that the class of a module has, as AudioMae of audio_mae; its case is free."""
  return ''.join(part.capitalize() for part in stem.split('_'))


def stems(package: ModuleType) -> list[str]:
  """Names of the modules of a package."""
  return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg)

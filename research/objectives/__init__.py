"""Objectives by name: pure functions `(out, batch, **args) -> (loss, metrics)` on arrays, public in
a module of this folder.

Beside an objective `check_<name>(config)` may stand, which raises InputError where the other
settings of a complete config do not fit it.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from research.errors import unknown


@functools.cache
def _functions() -> dict[str, Callable[..., Any]]:
  """Every public function of the folder's modules by name."""
  found: dict[str, Callable[..., Any]] = {}
  for each in pkgutil.iter_modules(__path__):
    module = importlib.import_module(f'{__name__}.{each.name}')
    own = [f for f in vars(module).values() if inspect.isfunction(f)]
    own = [f for f in own if f.__module__ == module.__name__ and not f.__name__.startswith('_')]
    found |= {f.__name__: f for f in own}
  return found


def names() -> list[str]:
  """Names of all objectives."""
  first = {name: list(inspect.signature(f).parameters)[:2] for name, f in _functions().items()}
  return sorted(name for name, parameters in first.items() if parameters == ['out', 'batch'])


def get(name: str) -> Callable[..., Any]:
  """The objective of that name; for an unknown name raises InputError with the nearest ones."""
  if name not in names():
    raise unknown('objective', name, names())
  return _functions()[name]


def check(name: str, config: Mapping[str, Any]) -> None:
  """Raises InputError where a complete config does not fit the objective that it names."""
  own = _functions().get(f'check_{name}')
  if own is not None:
    own(config)

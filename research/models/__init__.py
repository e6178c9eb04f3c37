"""Models by name: `models/<name>.py` with the class of that name, as AudioMAE of audio_mae.py.

A class is a model where it declares an example batch (`capabilities.Model`); the other files are
trunks and parts that models share.
"""

import importlib
import sys

from research import capabilities
from research.errors import InputError, unknown
from research.models import settings

# Models of other packages, name -> 'module:class': a program adds its own before it needs them.
ELSEWHERE: dict[str, str] = {}


def get(name: str) -> type:
  """The Flax module class of a model; raises InputError with the nearest names for an unknown
  one."""
  if name in ELSEWHERE:
    module, attribute = ELSEWHERE[name].split(':')
    return getattr(importlib.import_module(module), attribute)
  found = settings.class_in(sys.modules[__name__], name, capabilities.Model)
  if found is None and name in settings.stems(sys.modules[__name__]):
    raise InputError(
      f'models/{name}.py has no model: expected a class {settings.class_name(name)} that declares '
      'an example batch (`example`, see capabilities.Model).'
    )
  if found is None:
    raise unknown('model', name, names())
  return found


def names() -> list[str]:
  """Names of all models."""
  package = sys.modules[__name__]
  stems = settings.stems(package)
  own = [s for s in stems if settings.class_in(package, s, capabilities.Model)]
  return sorted({*own, *ELSEWHERE})


def name_of(cls: type) -> str:
  """The name by which `get` finds a class of models."""
  for name in names():
    if get(name) is cls:
      return name
  raise unknown('model', cls.__name__, names())

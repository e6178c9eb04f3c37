"""Heads that are put on any encoder (`models/finetuned.py`): `heads/<name>.py` with the class of
that name, as CTC of ctc.py.

A head is a Flax module that is called with

  tokens: [b, n, d] float32, what the encoder gives;
  mask: [b, n], which of them are real;
  encoded: all that the encoder gives, by name, and 'batch', what it was given: audio, targets of
    heads that need them, draws of tests;
  train: whether its dropout acts;

and returns named outputs. It declares

  PARAMETERS: names of its parameters, at the top of the tree;
  encoder_args: arguments that an encoder has under it, where the encoder knows them.
"""

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn

from research.errors import InputError, unknown
from research.models import settings


@runtime_checkable
class Head(Protocol):
  """What a head declares beside its call."""

  PARAMETERS: ClassVar[tuple[str, ...]]

  @property
  def encoder_args(self) -> Mapping[str, Any]:
    """Arguments of the encoder under this head."""
    ...


def get(name: str) -> type:
  """The Flax module class of a head; raises InputError with the nearest names for an unknown
  one."""
  found = settings.class_in(sys.modules[__name__], name, nn.Module)
  if found is None and name in settings.stems(sys.modules[__name__]):
    raise InputError(
      f'models/heads/{name}.py has no head: expected a Flax module {settings.class_name(name)}.'
    )
  if found is None:
    raise unknown('head', name, names())
  for declared in ('PARAMETERS', 'encoder_args'):
    if not hasattr(found, declared):
      raise InputError(f'Head {name} does not declare {declared}: see models/heads/__init__.py.')
  return found


def names() -> list[str]:
  """Names of all heads."""
  package = sys.modules[__name__]
  return [s for s in settings.stems(package) if settings.class_in(package, s, nn.Module)]

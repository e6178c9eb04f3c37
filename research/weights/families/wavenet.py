"""What the releases of WaveNet share."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from research.errors import InputError
from research.models.wavenet import WaveNet


def check_model(model: nn.Module, title: str, wanted: Mapping[str, Any]) -> None:
  """Raises InputError for another model, or one with settings that a release cannot have.

  Args:
    model: to be filled, or written.
    title: of the release.
    wanted: {setting: its only value}.
  """
  if not isinstance(model, WaveNet):
    raise InputError(f'{type(model).__name__} is no WaveNet, whose weights this release holds.')
  for name, value in wanted.items():
    if getattr(model, name) != value:
      raise InputError(
        f'This WaveNet has {name}={getattr(model, name)!r}, and those of {title} have '
        f'{name}={value!r}: its weights have no such layout.'
      )

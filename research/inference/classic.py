"""Classic removal of noise in the place of a trained model: baselines of enhancement."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from research.capabilities import Example, audio_example
from research.errors import unknown
from research.features import denoising
from research.features.waveform import Waveform
from research.inference.separate import Separator


class Classic(nn.Module):
  """A method of `features.denoising` as a model without parameters.

  Attributes:
    method: its name.
    sample_rate: Hz.
  """

  signals: ClassVar[int] = 1
  mask_hop: ClassVar[int] = 0

  method: str = 'wiener'
  sample_rate: int = 16_000

  def __post_init__(self):
    if self.method not in denoising.METHODS:
      raise unknown('classic method', self.method, denoising.METHODS)
    super().__post_init__()

  @property
  def frontend(self) -> Waveform:
    """Samples as they are."""
    size, hop = denoising.sizes(self.sample_rate)
    return Waveform(sample_rate=self.sample_rate, window=size, hop=hop)

  def example(self) -> Example:
    """One clip of one window."""
    return audio_example(self.frontend)

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """'estimates' [b, 1, t] of 'audio' and 'audio_mask' [b, t]."""
    del train
    mask = jnp.asarray(batch['audio_mask'])
    method = denoising.METHODS[self.method]
    return {'estimates': method(jnp.asarray(batch['audio']), mask, self.sample_rate)[:, None]}


def separator(method: str, sample_rate: int = 16_000, **args: Any) -> Separator:
  """A `Separator` by a classic method; further arguments are its own."""
  return Separator(Classic(method, sample_rate), {}, **args)

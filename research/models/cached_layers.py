"""Layers that a frozen encoder gave before, as an encoder under a head (`models/finetuned.py`).

It computes nothing: a batch holds all layers (`audio/fields/layers.py`), and the head, with the mix
of layers, learns from them as it would from the encoder itself.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.capabilities import Example
from research.errors import InputError
from research.features.waveform import Waveform


class CachedLayers(nn.Module):
  """The layers in a batch. Letters: b batch, n frames, l layers, d width.

  Attributes:
    layers: l.
    width: d.
    hop: samples between frames.
    sample_rate: Hz of the audio that they are of.
    dtype: of the layers on disk.
  """

  FINETUNING: ClassVar[Mapping[str, Any]] = {}

  layers: int
  width: int
  hop: int = 320
  sample_rate: int = 16_000
  dtype: str = 'float32'

  @property
  def frontend(self) -> Waveform:
    """Sample rate, and one frame a hop."""
    return Waveform(sample_rate=self.sample_rate, window=self.hop, hop=self.hop)

  def example(self) -> Example:
    """A clip of one frame."""
    return {
      'layers': jax.ShapeDtypeStruct((1, 1, self.layers, self.width), jnp.dtype(self.dtype)),
      'layers_mask': jax.ShapeDtypeStruct((1, 1), jnp.bool_),
    }

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """As `hidden_states`."""
    return self.hidden_states(batch, train, True)

  def hidden_states(self, batch: Mapping[str, Any], train: bool, layers: bool) -> dict[str, Any]:
    """'tokens' [b, n, d], the last layer; 'frame_mask' [b, n]; with `layers` 'layers' [l, b, n, d].

    Raises:
      InputError: the layers of the batch are of another encoder.
    """
    del train
    found = jnp.asarray(batch['layers'])
    if found.shape[2:] != (self.layers, self.width):
      raise InputError(
        f'The batch has {found.shape[2]} layers of width {found.shape[3]}, the model takes '
        f'{self.layers} of {self.width}.'
      )
    mask = jnp.asarray(batch['layers_mask'])
    found = jnp.where(mask[:, :, None, None], found, jnp.zeros((), found.dtype))
    out = {'tokens': found[:, :, -1].astype(jnp.float32), 'frame_mask': mask}
    if layers:
      out['layers'] = jnp.moveaxis(found, 2, 0)
    return out

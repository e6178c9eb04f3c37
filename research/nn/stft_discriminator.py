"""A discriminator of complex spectra at several window lengths (EnCodec, arXiv 2210.13438, §3.4;
encodec's msstftd.py).

Letters: b clips, t samples, a channels, n frames, f bins, c channels of a map.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from research.errors import InputError
from research.features.stft import hann
from research.nn.layers import uniform

# Taps and strides over (time, frequency).
TAPS, LAST = (3, 9), (3, 3)
DILATIONS = (1, 2, 4)


class Conv2d(nn.Module):
  """A convolution over time and frequency that keeps the number of frames.

  Parameters: `kernel` [time, frequency, i, o], with weight norm its direction and `gain` [o] its
  length; `bias` [o].
  """

  features: int
  taps: tuple[int, int]
  stride: int = 1
  dilation: int = 1
  weight_norm: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, 'b n f i']) -> Float[Array, 'b n g o']:
    inputs = x.shape[-1]
    start = uniform(float(inputs * math.prod(self.taps)) ** -0.5)
    kernel = self.param('kernel', start, (*self.taps, inputs, self.features))
    bias = self.param('bias', start, (self.features,))
    if self.weight_norm:
      length = jnp.sqrt(jnp.square(kernel).sum((0, 1, 2)))
      gain = self.param('gain', lambda key: length)
      kernel = kernel * (gain / length)
    side = [((taps - 1) * d // 2,) * 2 for taps, d in zip(self.taps, (self.dilation, 1))]
    y = jax.lax.conv_general_dilated(
      x, kernel, (1, self.stride), side, rhs_dilation=(self.dilation, 1),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip
    return y + bias


class StftDiscriminator(nn.Module):
  """One window length: five convolutions, whose outputs are its feature maps, and one to logits."""

  n_fft: int
  filters: int = 32
  slope: float = 0.2

  @nn.compact
  def __call__(self, audio: Float[Array, 'b t a']) -> tuple[Float[Array, 'b n f 1'], list[Array]]:
    """(logits, feature maps); raises InputError for audio shorter than the window."""
    if audio.shape[1] < self.n_fft:
      raise InputError(
        f'A discriminator with windows of {self.n_fft} samples got {audio.shape[1]}: give longer '
        'crops.'
      )
    hop = self.n_fft // 4
    count = (audio.shape[1] - self.n_fft) // hop + 1
    # As torchaudio's normalized spectra.
    window = hann(self.n_fft)
    window = window / np.float32(np.sqrt(np.square(window).sum()))
    at = hop * np.arange(count)[:, None] + np.arange(self.n_fft)
    framed = jnp.moveaxis(audio.astype(jnp.float32), 2, 1)[..., at] * window
    spectra = jnp.fft.rfft(framed)
    x = jnp.moveaxis(jnp.concatenate([spectra.real, spectra.imag], axis=1), 1, 3)

    maps = []
    rows: list[dict[str, Any]] = [dict(taps=TAPS, weight_norm=False)]
    rows += [dict(taps=TAPS, stride=2, dilation=d) for d in DILATIONS]
    for i, how in enumerate([*rows, dict(taps=LAST)]):
      x = jax.nn.leaky_relu(Conv2d(self.filters, name=f'conv_{i}', **how)(x), self.slope)
      maps.append(x)
    return Conv2d(1, LAST, name='logits')(x), maps


class MultiScaleDiscriminator(nn.Module):
  """Discriminators of several window lengths: lists of their logits and feature maps."""

  n_ffts: tuple[int, ...] = (1024, 2048, 512)
  filters: int = 32
  slope: float = 0.2

  @nn.compact
  def __call__(self, audio: Float[Array, 'b t a']) -> tuple[list[Array], list[list[Array]]]:
    found = [
      StftDiscriminator(size, self.filters, self.slope, name=f'scale_{i}')(audio)
      for i, size in enumerate(self.n_ffts)
    ]
    return [logits for logits, _ in found], [maps for _, maps in found]

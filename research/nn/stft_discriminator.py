"""A discriminator of complex spectra at several window lengths (EnCodec, arXiv 2210.13438, §3.4;
encodec's msstftd.py).

Letters: b clips, t samples, a channels, n frames, f bins, c channels of a map.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.errors import InputError, unknown
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


def frames_of(lengths: Int[Array, ' b'], n_fft: int) -> Int[Array, ' b']:
  """Frames that lie within clips: 0 of a clip that is shorter than the window."""
  return jnp.maximum((lengths - n_fft) // (n_fft // 4) + 1, 0)


class StftDiscriminator(nn.Module):
  """One window length: five convolutions, whose outputs are its feature maps, and one to logits."""

  n_fft: int
  filters: int = 32
  slope: float = 0.2

  @nn.compact
  def __call__(
    self, audio: Float[Array, 'b t a'], lengths: Int[Array, ' b'] | None = None
  ) -> tuple[Float[Array, 'b n f 1'], list[Array]]:
    """(logits, feature maps).

    Args:
      audio: clips, 0 behind their ends.
      lengths: samples of clips, whose frames then are those of each clip alone, 0 behind them; None
        where all are t.

    Raises:
      InputError: audio without lengths that is shorter than the window.
    """
    if audio.shape[1] < self.n_fft and lengths is None:
      raise InputError(
        f'A discriminator with windows of {self.n_fft} samples got {audio.shape[1]}: give longer '
        'crops.'
      )
    audio = jnp.pad(audio, ((0, 0), (0, max(self.n_fft - audio.shape[1], 0)), (0, 0)))
    hop = self.n_fft // 4
    count = (audio.shape[1] - self.n_fft) // hop + 1
    real = None if lengths is None else jnp.arange(count) < frames_of(lengths, self.n_fft)[:, None]

    def keep(x: Array) -> Array:
      return x if real is None else jnp.where(real[:, :, None, None], x, 0.0)

    # As torchaudio's normalized spectra.
    window = hann(self.n_fft)
    window = window / np.float32(np.sqrt(np.square(window).sum()))
    at = hop * np.arange(count)[:, None] + np.arange(self.n_fft)
    framed = jnp.moveaxis(audio.astype(jnp.float32), 2, 1)[..., at] * window
    spectra = jnp.fft.rfft(framed)
    x = keep(jnp.moveaxis(jnp.concatenate([spectra.real, spectra.imag], axis=1), 1, 3))

    maps = []
    rows: list[dict[str, Any]] = [dict(taps=TAPS, weight_norm=False)]
    rows += [dict(taps=TAPS, stride=2, dilation=d) for d in DILATIONS]
    for i, how in enumerate([*rows, dict(taps=LAST)]):
      x = Conv2d(self.filters, name=f'conv_{i}', **how)(x)
      x = keep(jax.nn.leaky_relu(x, self.slope))
      maps.append(x)
    return keep(Conv2d(1, LAST, name='logits')(x)), maps


Judged = tuple[list[Array], list[list[Array]]]  # logits, feature maps


class MultiScaleDiscriminator(nn.Module):
  """Discriminators of several window lengths: lists of their logits and feature maps.

  Attributes:
    n_ffts: samples of windows.
    filters: channels of the convolutions.
    slope: of the leaky ReLU.
    separate: every channel of a clip is judged by itself, as a row of its own.
  """

  n_ffts: tuple[int, ...] = (1024, 2048, 512)
  filters: int = 32
  slope: float = 0.2
  separate: bool = False

  @nn.compact
  def __call__(
    self, audio: Float[Array, 'b t *a'], lengths: Int[Array, ' b'] | None = None
  ) -> Judged:
    """(logits [r, n, f, 1], feature maps [r, n, f, c]) of every window length; r = b, or b a where
    channels are separate."""
    audio = audio[..., None] if audio.ndim == 2 else audio
    b, t, a = audio.shape
    if self.separate:
      audio = jnp.moveaxis(audio, 2, 1).reshape(b * a, t, 1)
      lengths = None if lengths is None else jnp.repeat(lengths, a)
    found = [
      StftDiscriminator(size, self.filters, self.slope, name=f'scale_{i}')(audio, lengths)
      for i, size in enumerate(self.n_ffts)
    ]
    return [logits for logits, _ in found], [maps for _, maps in found]

  def frames(self, lengths: Int[Array, ' b'], t: int, a: int) -> list[Array]:
    """Which frames of clips of a channels in a batch of t samples are real, bool [r, n] of every
    window length."""
    if self.separate:
      lengths = jnp.repeat(lengths, a)
    return [
      jnp.arange((max(t, n) - n) // (n // 4) + 1) < frames_of(lengths, n)[:, None]
      for n in self.n_ffts
    ]


@flax.struct.dataclass
class Judge:
  """A discriminator that does not learn, as a function of audio.

  Attributes:
    params: its parameters; no gradient reaches them.
    lengths: int [b], samples of the clips that it is given.
    model: the `MultiScaleDiscriminator`, unbound.
  """

  # Fields are Any: under `eval_shape` the leaves are no arrays.
  params: Any
  lengths: Any
  model: Any = flax.struct.field(pytree_node=False)

  def __call__(self, audio: Float[Array, 'b t *a']) -> Judged:
    """(logits, feature maps), see `MultiScaleDiscriminator`."""
    variables = {'params': jax.lax.stop_gradient(self.params)}
    found: Any = self.model.apply(variables, audio, self.lengths)
    return found


def complete(given: Any) -> dict[str, Any]:
  """All arguments of a `MultiScaleDiscriminator`.

  Raises:
    InputError: no mapping, an unknown argument, or windows that cannot be.
  """
  known = dict(n_ffts=(1024, 2048, 512), filters=32, slope=0.2, separate=False)
  if not isinstance(given, Mapping):
    raise InputError(
      f'discriminator is {given!r}; expected its arguments, as dict(filters=32), or None.'
    )
  for name in given:
    if name not in known:
      raise unknown('argument of a discriminator', name, known)
  found = {**known, **given}
  sizes = found['n_ffts']
  if not isinstance(sizes, list | tuple) or not sizes or any(n < 4 or n % 4 for n in sizes):
    raise InputError(f'discriminator got n_ffts={sizes!r}: give multiples of 4.')
  return {**found, 'n_ffts': tuple(sizes)}

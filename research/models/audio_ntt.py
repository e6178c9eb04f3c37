"""The encoder of BYOL-A: AudioNTT2020 and AudioNTT2022 (nttcslab/byol-a), and its layers."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.features.spectral import Array as AnyArray
from research.nn import layers
from research.nn.batch_norm import BatchNorm
from research.nn.kernels import add_bias
from research.nn.kernels.convolutions import conv3x3, max_pool2

DROPOUT = 0.3


def _torch_uniform(fan_in: int):
  """PyTorch's default of linear and convolutional layers, kernels and biases alike."""
  return layers.uniform(fan_in**-0.5)


class Conv3x3(nn.Module):
  """Convolution 3 x 3 with a bias, one zero around."""

  channels: int
  dtype: Any
  draw: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'b s f c']) -> Float[Array, 'b s f e']:
    shape = (3, 3, x.shape[-1], self.channels)
    kernel = self.param('kernel', self.draw, shape)
    bias = self.param('bias', self.draw, (self.channels,))
    return add_bias(conv3x3(x.astype(self.dtype), kernel.astype(self.dtype)), bias)


class ConvBlock(nn.Module):
  """Convolution 3 x 3, batch norm, ReLU, maximum over 2 x 2."""

  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b s f c'], real: Bool[Array, 'b s'] | None, train: bool
  ) -> tuple[Float[Array, 'b s2 f2 e'], Bool[Array, 'b s2'] | None]:
    if real is not None:
      # As if the clip ended here: the convolution puts zeros around it.
      x = jnp.where(real[:, :, None, None], x, 0.0)
    draw = _torch_uniform(9 * x.shape[-1])
    y = Conv3x3(self.channels, self.dtype, draw, name='conv')(x)
    y = nn.relu(BatchNorm(dtype=self.dtype, name='norm')(y, train))
    y = max_pool2(y)
    if real is not None:
      # A frame that has no partner is dropped, unless it is the only one.
      pairs = real[:, : 2 * y.shape[1]].reshape(len(real), -1, 2)
      real = pairs.all(axis=2) | (pairs[:, :, 0] & (jnp.arange(y.shape[1]) == 0))
    return y, real


class AudioNTT(nn.Module):
  """AudioNTT2020 and AudioNTT2022: convolutions, then two layers on each time.

  Attributes:
    blocks, hidden, width, stack: see `Size`; width is that of the second layer.
    channels: of the convolutions.
    dtype: of the computation.
  """

  blocks: int
  hidden: int
  width: int
  stack: bool
  channels: int = 64
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b s f'],
    real: Bool[Array, 'b s'] | None = None,
    train: bool = False,
    keep: Float[AnyArray, 'b n h'] | None = None,
    levels: list | None = None,
  ) -> tuple[Float[Array, 'b n d'], Bool[Array, 'b n'] | None]:
    """Tokens, one for 2^blocks frames, and which of them are real.

    Args:
      x: normalised log-mel.
      real: which frames are; None for all.
      train: whether batch norm takes the statistics of the batch, and dropout acts.
      keep: what dropout keeps (1 or 0); drawn from rng 'dropout' if None.
      levels: is given the (features, real) of every block and layer but the last.
    """
    y, levels = x[..., None], [] if levels is None else levels
    for i in range(self.blocks):
      y, real = ConvBlock(self.channels, self.dtype, name=f'block{i}')(y, real, train)
      # Here bins are fastest, upstream too.
      levels.append((jnp.swapaxes(y, 2, 3).reshape(*y.shape[:2], -1), real))
    # Channels are fastest: index = bin * channels + channel.
    y = y.reshape(*y.shape[:2], -1)
    hidden = nn.relu(linear(self.hidden, y, self.dtype, 'fc1'))
    levels.append((hidden, real))
    if keep is not None:
      hidden = hidden * jnp.asarray(keep, hidden.dtype) / (1.0 - DROPOUT)
    else:
      hidden = nn.Dropout(DROPOUT, deterministic=not train)(hidden)
    out = nn.relu(linear(self.width, hidden, self.dtype, 'fc2'))
    if self.stack:
      out = jnp.concatenate([y, out], axis=-1)
    return out.astype(jnp.float32), real


def linear(features: int, x: Array, dtype: Any, name: str) -> Array:
  """A linear layer drawn as PyTorch draws it."""
  draw = _torch_uniform(x.shape[-1])
  return layers.Dense(features, dtype, kernel_init=draw, bias_init=draw, name=name)(x)


def pooled(tokens: Float[Array, 'b n d']) -> Float[Array, 'b d']:
  """Maximum plus mean over time."""
  return tokens.max(axis=1) + tokens.mean(axis=1)


# -- Layers side by side -----------------------------------------------------------------------


def halve(
  x: Float[Array, 'b s d'], real: Bool[Array, 'b s']
) -> tuple[Float[Array, 'b s2 d'], Bool[Array, 'b s2']]:
  """Means of neighbouring frames; where a clip has an odd number, its last two count as one.

  As `reshape_conv_feature` of AudioNTT2020Task6X (nttcslab/byol-a, byol_a/models.py), for clips of
  any length in one batch. The only frame of a clip stays.

  Args:
    x: frames; what is not real does not count.
    real: which are, the first ones of each clip.
  """
  x = jnp.where(real[:, :, None], x, 0.0)
  length = real.sum(axis=1)[:, None]
  place = jnp.arange(x.shape[1])[None]
  following = jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0)))
  joined = (place == length - 2) & (length % 2 == 1)
  x = jnp.where(joined[:, :, None], (x + following) / 2, x)
  pairs = x[:, : x.shape[1] // 2 * 2].reshape(len(x), -1, 2, x.shape[2])
  out = jnp.where((length == 1)[:, :, None], pairs[:, :, 0], pairs.mean(axis=2))
  kept = jnp.arange(out.shape[1])[None] < jnp.maximum(length // 2, 1)
  return jnp.where(kept[:, :, None], out, 0.0), kept


def side_by_side(
  levels: list[tuple[Float[Array, 'b _ _'], Bool[Array, 'b _']]], frames: int, width: int
) -> Float[Array, 'l b n d']:
  """Levels as layers of one shape: halved to `frames` in time, filled up to `width` with zeros."""
  found = []
  for x, real in levels:
    while x.shape[1] > frames:
      x, real = halve(x, real)
    x = jnp.where(real[:, :, None], x, 0.0).astype(jnp.float32)
    found.append(jnp.pad(x, ((0, 0), (0, 0), (0, width - x.shape[2]))))
  return jnp.stack(found)

"""Convolutions of clips that keep to their real frames, and residual stacks of dilated ones.

What a clip gives does not depend on what is behind it: before every convolution that sees several
frames those that are not real are set to 0, which is what stands beyond the ends of a clip alone.
Shapes and residual blocks are those of Jukebox (arXiv 2005.00341; openai/jukebox, vqvae/resnet.py
and encdec.py).

Letters: b batch, n frames in, m frames out, i channels in, o channels out, c channels, p taps.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.errors import InputError
from research.nn.kernels import Dtype, add_bias
from research.nn.layers import uniform

Real = Bool[Array, 'b n'] | None


def only_real(x: Float[Array, 'b n c'], real: Real) -> Float[Array, 'b n c']:
  """Frames, 0 where they are not real; None: all are."""
  return x if real is None else jnp.where(real[:, :, None], x, jnp.zeros((), x.dtype))


def convolution(
  x: Float[Array, 'b n i'],
  kernel: Float[Array, 'p i o'],
  dtype: Dtype,
  stride: int = 1,
  dilation: int = 1,
  padding: int = 0,
) -> Float[Array, 'b m o']:
  """With zeros at both ends; XLA's own, which traces in half the time of `kernels.conv1d`: a model
  of these has hundreds."""
  return jax.lax.conv_general_dilated(
    x.astype(dtype),
    kernel.astype(dtype),
    (stride,),
    [(padding, padding)],
    rhs_dilation=(dilation,),
    dimension_numbers=('NWC', 'WIO', 'NWC'),
  )


class Conv(nn.Module):
  """A convolution with zeros at both ends: kernel [p, i, o], bias [o].

  Attributes:
    features: o.
    taps: p.
    stride, dilation: one of them is 1.
    padding: zeros at each end.
    zero: kernel and bias start at 0; else as PyTorch's, uniform in +- (p i)^-0.5.
    he: the kernel starts from N(0, 2 / (p i)) and the bias at 0, so that rows of these with ReLUs
      keep the scale of what they are given. Under PyTorch's start it falls to a third in each, and
      biases are what is left.
  """

  features: int
  taps: int
  stride: int = 1
  dilation: int = 1
  padding: int = 0
  zero: bool = False
  dtype: Dtype = jnp.float32
  he: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, 'b n i'], real: Real = None) -> Float[Array, 'b m o']:
    inputs = x.shape[-1]
    zeros: Any = nn.initializers.zeros_init()
    start = zeros if self.zero else uniform(float(self.taps * inputs) ** -0.5)
    first = nn.initializers.he_normal() if self.he else start
    kernel = self.param('kernel', first, (self.taps, inputs, self.features))
    bias = self.param('bias', zeros if self.he else start, (self.features,))
    if self.taps > 1:
      x = only_real(x, real)
    y = convolution(x, kernel, self.dtype, self.stride, self.dilation, self.padding)
    return add_bias(y, bias)


class ConvTranspose(nn.Module):
  """A transposed convolution of 2 s taps and stride s that makes n s of n frames: kernel [p, i, o]
  (PyTorch's, taps first), bias [o]."""

  features: int
  stride: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n i'], real: Real = None) -> Float[Array, 'b m o']:
    taps, inputs = 2 * self.stride, x.shape[-1]
    start = uniform(float(taps * self.features) ** -0.5)
    kernel = self.param('kernel', start, (taps, inputs, self.features))
    bias = self.param('bias', start, (self.features,))
    side = taps - 1 - self.stride // 2
    y = jax.lax.conv_general_dilated(
      only_real(x, real).astype(self.dtype),
      kernel[::-1].astype(self.dtype),
      (1,),
      [(side, side)],
      lhs_dilation=(self.stride,),
      dimension_numbers=('NWC', 'WIO', 'NWC'),
    )
    return add_bias(y, bias)


def check_stride(stride: int) -> None:
  """Raises InputError for strides whose convolutions of 2 s taps do not divide lengths exactly."""
  if stride < 2 or stride % 2:
    raise InputError(f'A stride of {stride} was given: give an even number of at least 2.')


def stack_dilations(
  depth: int, growth: int, cycle: int | None = None, reverse: bool = False
) -> tuple[int, ...]:
  """Dilations growth^0, growth^1, … of the blocks of a stack, beginning anew after `cycle`."""
  found = [growth ** (i if cycle is None else i % cycle) for i in range(depth)]
  return tuple(found[::-1] if reverse else found)


class ResidualStack(nn.Module):
  """x + scale conv1(relu(conv3(relu(x)))) for every dilation: parameters `blocks_j`, in order.

  Attributes:
    dilations: of the blocks, in the order in which they run, see `stack_dilations`.
    hidden: channels inside of a block.
    scale: of the branches.
    zero: the second convolution of every block starts at 0.
    remat: the backward pass computes each block anew instead of keeping what it made.
  """

  dilations: tuple[int, ...]
  hidden: int
  scale: float = 1.0
  zero: bool = False
  dtype: Dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, 'b n c'], real: Real = None) -> Float[Array, 'b n c']:
    block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
    for j, dilation in enumerate(self.dilations):
      how = dilation, self.hidden, self.scale, self.zero, self.dtype
      x = block(*how, name=f'blocks_{j}')(x, real)
    return x


class ResidualBlock(nn.Module):
  """One block of `ResidualStack`."""

  dilation: int
  hidden: int
  scale: float
  zero: bool
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, 'b n c'], real: Real = None) -> Float[Array, 'b n c']:
    d = self.dilation
    y = Conv(self.hidden, 3, 1, d, d, dtype=self.dtype, name='conv3')(nn.relu(x), real)
    y = Conv(x.shape[-1], 1, zero=self.zero, dtype=self.dtype, name='conv1')(nn.relu(y))
    return x + (y if self.scale == 1.0 else y * jnp.asarray(self.scale, y.dtype))


def inverse_root(count: int) -> float:
  """1 / sqrt(count): the scale of branches of a stack of that many blocks."""
  return 1.0 / math.sqrt(count)

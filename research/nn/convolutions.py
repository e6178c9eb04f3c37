"""Lengths of strided convolutions, and convolutions that see only the past.

Letters: b batch, n frames in, m frames out, i channels in, o channels out, p kernel taps.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from research.errors import InputError
from research.nn.kernels import Dtype, add_bias
from research.nn.kernels.convolutions import conv1d
from research.nn.layers import uniform

# -- Lengths -----------------------------------------------------------------------------------


def frames_after(
  count: Int[Array, '*b'] | int, layers: tuple[tuple[int, int, int], ...]
) -> Int[Array, '*b'] | int:
  """Frames that (channels, kernel, stride) layers without padding make of `count` samples.

  Only real samples count: a frame is real where its whole receptive field is. Never below 0.
  """
  for _, kernel, stride in layers:
    count = (count - kernel) // stride + 1
  return jnp.maximum(count, 0) if isinstance(count, jax.Array) else max(count, 0)


def receptive_field(layers: tuple[tuple[int, int, int], ...]) -> tuple[int, int]:
  """(samples that one frame sees, samples from frame to frame) of (channels, kernel, stride)
  layers."""
  window, hop = 1, 1
  for _, kernel, stride in layers:
    window += (kernel - 1) * hop
    hop *= stride
  return window, hop


# -- Causal convolutions -----------------------------------------------------------------------


class CausalConv1d(nn.Module):
  """Convolution whose output t sees inputs up to (t + 1) stride - 1, silence before the first.

  Parameters: `kernel` [p, i / groups, o], `bias` [o]. In a stream it takes and returns the last
  inputs, so that chunks give what the whole does; each is a multiple of `stride` frames.

  Attributes:
    features: o.
    taps: p.
    stride, dilation, groups: of the convolution.
    use_bias: whether there is a bias.
  """

  features: int
  taps: int
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  use_bias: bool = True
  dtype: Dtype = jnp.float32
  kernel_init: Callable[..., Array] | None = None

  def __post_init__(self):
    if self.context < 0:
      raise InputError(
        f'A causal convolution of stride {self.stride} skips samples with {self.taps} taps of '
        f'dilation {self.dilation}: give at least {self.stride} taps.'
      )
    super().__post_init__()

  @property
  def context(self) -> int:
    """Inputs before a chunk that its outputs see."""
    return (self.taps - 1) * self.dilation + 1 - self.stride

  def initial_state(self, batch: int, channels: int) -> Float[Array, 'b p i']:
    """The state before the first chunk: silence."""
    return jnp.zeros((batch, self.context, channels), self.dtype)

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n i'], state: Float[Array, 'b p i'] | None = None
  ) -> tuple[Float[Array, 'b m o'], Float[Array, 'b p i']]:
    """(outputs m = n / stride, the state for the next chunk); no state is the initial one.

    Raises:
      InputError: a chunk that is no multiple of the stride.
    """
    _check_chunk(x.shape[1], self.stride)
    inputs = x.shape[-1] // self.groups
    start = self.kernel_init or uniform(float(inputs * self.taps) ** -0.5)
    kernel = self.param('kernel', start, (self.taps, inputs, self.features))
    state = self.initial_state(len(x), x.shape[-1]) if state is None else state
    x = jnp.concatenate([state, x.astype(self.dtype)], axis=1)
    if self.groups == 1 and self.dilation == 1:
      y = conv1d(x, kernel, self.stride, self.dtype)
    else:
      y = jax.lax.conv_general_dilated(
        x,
        kernel.astype(self.dtype),
        (self.stride,),
        'VALID',
        rhs_dilation=(self.dilation,),
        dimension_numbers=('NWC', 'WIO', 'NWC'),
        feature_group_count=self.groups,
      )
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
      y = add_bias(y, bias)
    return y, x[:, x.shape[1] - self.context :]


class CausalConvTranspose1d(nn.Module):
  """Transposed convolution whose outputs n stride to (n + 1) stride - 1 see inputs up to n.

  Parameters: `kernel` [p, i, o], `bias` [o]. What the taps beyond `stride` add to the outputs of
  the next chunk is the state; at the end it is left out (EnCodec's trim_right_ratio 1).
  """

  features: int
  taps: int
  stride: int
  use_bias: bool = True
  dtype: Dtype = jnp.float32
  kernel_init: Callable[..., Array] | None = None

  def __post_init__(self):
    if self.taps < self.stride:
      raise InputError(
        f'A transposed convolution of {self.taps} taps and stride {self.stride} leaves gaps: give '
        f'at least {self.stride} taps.'
      )
    super().__post_init__()

  def initial_state(self, batch: int) -> Float[Array, 'b p o']:
    """The state before the first chunk: nothing to add."""
    return jnp.zeros((batch, self.taps - self.stride, self.features), self.dtype)

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n i'], state: Float[Array, 'b p o'] | None = None
  ) -> tuple[Float[Array, 'b m o'], Float[Array, 'b p o']]:
    """(outputs m = n stride, the state for the next chunk); no state is the initial one."""
    inputs = x.shape[-1]
    start = self.kernel_init or uniform(float(inputs * self.taps) ** -0.5)
    kernel = self.param('kernel', start, (self.taps, inputs, self.features))
    state = self.initial_state(len(x)) if state is None else state
    y = jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      kernel[::-1].astype(self.dtype),
      (1,),
      [(self.taps - 1, self.taps - 1)],
      lhs_dilation=(self.stride,),
      dimension_numbers=('NWC', 'WIO', 'NWC'),
    )
    y = jnp.concatenate([y[:, : state.shape[1]] + state, y[:, state.shape[1] :]], axis=1)
    y, rest = y[:, : x.shape[1] * self.stride], y[:, x.shape[1] * self.stride :]
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
      y = add_bias(y, bias)
    return y, rest


def _check_chunk(frames: int, stride: int) -> None:
  if frames % stride:
    raise InputError(
      f'A chunk of {frames} frames is no multiple of the stride {stride} of a causal convolution: '
      'pad the last one.'
    )

"""SEANet: convolutions that make few frames of many samples, and samples of frames (arXiv
2009.02095; as in encodec's modules/seanet.py and modules/conv.py).

Every convolution pads a row at its own end, so that a row in a batch is the row alone. The causal
form takes a clip in chunks as well: each layer gives what the next chunk needs of it.
Letters: b rows, n frames in, m frames out, i channels in, o channels out, p taps.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from research.errors import InputError
from research.nn import recurrent
from research.nn.kernels import add_bias
from research.nn.kernels.convolutions import conv1d, time_norm
from research.nn.layers import uniform

EPSILON = 1e-5
NORMS = ('none', 'weight_norm', 'time_group_norm')
PADDINGS = ('reflect', 'constant')

Lengths = Int[Array, ' b'] | None
# What a layer keeps between chunks; None before the first.
State = Any


@dataclasses.dataclass(frozen=True)
class Seanet:
  """Settings of the two networks, under the names of encodec's modules/seanet.py.

  Attributes:
    channels: of the audio.
    dimension: of a frame.
    n_filters: channels behind the first convolution; twice as many after each stride.
    ratios: strides of the decoder, in order; the encoder has them in reverse.
    n_residual_layers: residual units before each stride, the j-th of dilation dilation_base^j.
    causal: no output sees later inputs.
    norm: of NORMS: 'weight_norm' of kernels, or 'time_group_norm', over time and channels behind
      every convolution.
    kernel_size, last_kernel_size, residual_kernel_size: taps.
    compress: by which residual units are narrower.
    lstm: layers, 0 for none.
    true_skip: residual units add their input as it is, not through a convolution of kernel 1.
    pad_mode: of PADDINGS.
    trim_right_ratio: which part of a causal transposed convolution's surplus is cut at its end.
  """

  channels: int = 1
  dimension: int = 128
  n_filters: int = 32
  ratios: tuple[int, ...] = (8, 5, 4, 2)
  n_residual_layers: int = 1
  causal: bool = True
  norm: str = 'weight_norm'
  kernel_size: int = 7
  last_kernel_size: int = 7
  residual_kernel_size: int = 3
  dilation_base: int = 2
  compress: int = 2
  lstm: int = 2
  true_skip: bool = False
  pad_mode: str = 'reflect'
  trim_right_ratio: float = 1.0
  dtype: Any = jnp.float32

  @property
  def hop(self) -> int:
    """Samples of a frame."""
    return math.prod(self.ratios)


# -- Padding -----------------------------------------------------------------------------------


def after(lengths: Int[Array, ' b'], stride: int) -> Int[Array, ' b']:
  """Frames of rows behind a convolution of that stride: none is lost at the end."""
  return -(-lengths // stride)


def keep(x: Float[Array, 'b n c'], lengths: Lengths) -> Float[Array, 'b n c']:
  """Zeros behind the ends of rows, whatever was there."""
  if lengths is None:
    return x
  return jnp.where(jnp.arange(x.shape[1])[None, :, None] < lengths[:, None, None], x, 0.0)


def pad_rows(
  x: Float[Array, 'b n c'], lengths: Lengths, left: int, right: int, stride: int, reflect: bool
) -> Float[Array, 'b m c']:
  """Rows padded on the left, and behind their own ends until the last window is full.

  A row that is not longer than its padding is first continued by zeros until it is, and these are
  cut off at the end (encodec's pad1d).

  Args:
    x: rows, 0 behind their ends.
    lengths: of rows; None: all are n.
    left, right: frames of padding.
    stride: of the convolution that follows; up to `stride` - 1 more are added on the right.
    reflect: mirrors the row, otherwise zeros.
  """
  n = x.shape[1]
  end = -(-n // stride) * stride + right
  if not reflect:
    return jnp.pad(x, ((0, 0), (left, end - n), (0, 0)))
  if lengths is None:
    longest = max(n, left + 1, end - n + 1)
    wide = jnp.pad(x, ((0, 0), (0, longest - n), (0, 0)))
    body = wide[:, :end]
    if end > longest:
      body = jnp.concatenate([body, wide[:, 2 * longest - 1 - end : longest - 1][:, ::-1]], axis=1)
  else:
    wide = jnp.pad(x, ((0, 0), (0, max(left + 1, end) - n), (0, 0)))
    more = right + -lengths % stride
    body = _mirror_ends(wide[:, :end], lengths, left, more, right + stride - 1)
  return jnp.concatenate([wide[:, 1 : left + 1][:, ::-1], body], axis=1)


def _mirror_ends(x, lengths, left, more, room):
  """Rows whose next `more` places behind their own ends, at most `room`, hold what lies before
  these, mirrored."""
  if not room:
    return x
  longest = jnp.maximum(lengths, jnp.maximum(left, more) + 1)[:, None]
  offsets = jnp.arange(room)
  places = lengths[:, None] + offsets
  source = jnp.where(places < longest, places, 2 * (longest - 1) - places)
  real = (source >= 0) & (source < lengths[:, None])
  values = jnp.take_along_axis(x, jnp.clip(source, 0, x.shape[1] - 1)[..., None], axis=1)
  values = jnp.where(real[..., None], values, 0.0)
  places = jnp.where(offsets < more[:, None], places, x.shape[1])
  rows = jnp.arange(len(x))[:, None]
  return x.at[rows, places].set(values, mode='drop')


# -- Convolutions ------------------------------------------------------------------------------


class Convolution(nn.Module):
  """What `Conv` and `ConvTranspose` share: kernel, weight norm, bias and norm over time.

  Parameters: `kernel` [p, i, o], with weight norm its direction, and `gain` its length, one of each
  output channel, or of each input channel where it is transposed; `bias` [o]; with the norm over
  time `norm_scale` and `norm_bias` [o].
  """

  inputs: int
  features: int
  taps: int
  how: Seanet
  stride: int = 1
  dilation: int = 1

  axes = (0, 1)  # over which weight norm measures a kernel

  def setup(self):
    start = uniform(self._fan_in() ** -0.5)
    self.kernel = self.param('kernel', start, (self.taps, self.inputs, self.features))
    self.bias = self.param('bias', start, (self.features,))
    if self.how.norm == 'weight_norm':
      # A kernel begins as it is drawn.
      self.gain = self.param('gain', lambda key: jnp.sqrt(jnp.square(self.kernel).sum(self.axes)))
    if self.how.norm == 'time_group_norm':
      self.norm_scale = self.param('norm_scale', nn.initializers.ones_init(), (self.features,))
      self.norm_bias = self.param('norm_bias', nn.initializers.zeros_init(), (self.features,))

  def _fan_in(self) -> float:
    """Of PyTorch's initialisation: kernel [o, i, p], transposed [i, o, p]."""
    return float((self.inputs if self.axes == (0, 1) else self.features) * self.taps)

  def weights(self) -> Float[Array, 'p i o']:
    """The kernel in effect."""
    if self.how.norm != 'weight_norm':
      return self.kernel
    length = jnp.sqrt(jnp.square(self.kernel).sum(self.axes, keepdims=True))
    gain = jnp.expand_dims(self.gain, self.axes)
    return self.kernel * (gain / length)

  def normed(self, y: Float[Array, 'b m o'], lengths: Lengths) -> Float[Array, 'b m o']:
    """Bias and norm over time."""
    y = add_bias(y, self.bias)
    if self.how.norm != 'time_group_norm':
      return y
    shape = y.shape[:2]
    ends = jnp.full(shape[0], shape[1]) if lengths is None else lengths
    real = jnp.arange(shape[1]) < ends[:, None]
    y = time_norm(y, self.norm_scale, self.norm_bias, real, EPSILON, 1)
    return y.astype(self.how.dtype)


class Conv(Convolution):
  """A convolution that pads rows and loses none of their ends: m = ceil(n / stride)."""

  def __post_init__(self):
    if self.stride > 1 and self.dilation > 1:
      raise InputError(
        f'A convolution of SEANet got stride={self.stride} and dilation={self.dilation}: one of '
        'them has to be 1.'
      )
    super().__post_init__()

  @property
  def context(self) -> int:
    """Frames of padding, or of the chunk before."""
    return (self.taps - 1) * self.dilation + 1 - self.stride

  def __call__(
    self, x: Float[Array, 'b n i'], lengths: Lengths = None
  ) -> tuple[Float[Array, 'b m o'], Lengths]:
    """(outputs, 0 behind the ends of rows; their lengths)."""
    right = 0 if self.how.causal else self.context // 2
    reflect = self.how.pad_mode == 'reflect'
    x = pad_rows(x, lengths, self.context - right, right, self.stride, reflect)
    if lengths is not None:
      lengths = after(lengths, self.stride)
    return keep(self.normed(self._convolve(x), lengths), lengths), lengths

  def _convolve(self, x):
    kernel, dtype = self.weights(), self.how.dtype
    if self.dilation == 1:
      return conv1d(x, kernel, self.stride, dtype)
    return jax.lax.conv_general_dilated(
      x.astype(dtype), kernel.astype(dtype), (1,), 'VALID', rhs_dilation=(self.dilation,),
      dimension_numbers=('NWC', 'WIO', 'NWC'),
    )  # fmt: skip

  def chunk(
    self, x: Float[Array, 'b n i'], state: State, last: bool, lengths: Lengths = None
  ) -> tuple[Float[Array, 'b m o'], State]:
    """(outputs of a chunk, what the next one needs); chunks but the last are whole strides. The
    last one may be longer than its rows are: outputs behind the ends of these are of no use."""
    left, n = self.context, x.shape[1]
    reflect = self.how.pad_mode == 'reflect'
    if state is None:
      if last:
        return self(x if lengths is None else keep(x, lengths), lengths)[0], None
      if reflect and n <= left:
        raise InputError(
          f'The first chunk of a stream has {n} frames where a convolution needs {left + 1}: give '
          'a longer one.'
        )
      before = x[:, 1 : left + 1][:, ::-1] if reflect else jnp.zeros_like(x[:, :1]).repeat(left, 1)
    else:
      before = state
    x = jnp.concatenate([before, x], axis=1)
    kept = x[:, x.shape[1] - left :]
    more = -n % self.stride
    if more and not last:
      raise InputError(f'A chunk of {n} frames is no multiple of the stride {self.stride}.')
    if last and self.stride > 1:
      ends = jnp.full(len(x), n) if lengths is None else lengths
      x = keep(jnp.pad(x, ((0, 0), (0, more), (0, 0))), left + ends)
      if reflect:
        x = _mirror_ends(x, left + ends, 0, -ends % self.stride, self.stride - 1)
    return self.normed(self._convolve(x), None), kept


class ConvTranspose(Convolution):
  """A transposed convolution: m = n stride. What its kernel reaches beyond that is cut, at the end
  where it is causal, otherwise half on each side; the norm over time is before the cut."""

  axes = (0, 2)

  @property
  def surplus(self) -> int:
    """Frames that are cut."""
    return self.taps - self.stride

  def _spread(self, x):
    """Everything that x contributes to, without bias."""
    dtype = self.how.dtype
    return jax.lax.conv_general_dilated(
      x.astype(dtype), self.weights()[::-1].astype(dtype), (1,), [(self.taps - 1, self.taps - 1)],
      lhs_dilation=(self.stride,), dimension_numbers=('NWC', 'WIO', 'NWC'),
    )  # fmt: skip

  def __call__(
    self, x: Float[Array, 'b n i'], lengths: Lengths = None
  ) -> tuple[Float[Array, 'b m o'], Lengths]:
    """(outputs, 0 behind the ends of rows; their lengths)."""
    n = x.shape[1]
    whole = None
    if lengths is not None:
      whole = jnp.where(lengths > 0, (lengths - 1) * self.stride + self.taps, 0)
      lengths = lengths * self.stride
    y = self.normed(self._spread(x), whole)
    if self.how.causal:
      right = math.ceil(self.surplus * self.how.trim_right_ratio)
    else:
      right = self.surplus // 2
    left = self.surplus - right
    return keep(y[:, left : left + n * self.stride], lengths), lengths

  def chunk(
    self, x: Float[Array, 'b n i'], state: State, last: bool, lengths: Lengths = None
  ) -> tuple[Float[Array, 'b m o'], State]:
    """(outputs of a chunk, what it adds to the next one)."""
    y, end = self._spread(x), x.shape[1] * self.stride
    if state is not None:
      y = jnp.concatenate([y[:, : self.surplus] + state, y[:, self.surplus :]], axis=1)
    return self.normed(y[:, :end], None), y[:, end:]


class Residual(nn.Module):
  """shortcut(x) + conv1(elu(conv_p(elu(x)))), half as wide inside."""

  width: int
  dilation: int
  how: Seanet

  def setup(self):
    how, hidden = self.how, self.width // self.how.compress
    taps = how.residual_kernel_size
    self.first = Conv(self.width, hidden, taps, how, dilation=self.dilation)
    self.second = Conv(hidden, self.width, 1, how)
    if not how.true_skip:
      self.shortcut = Conv(self.width, self.width, 1, how)

  def __call__(self, x: Float[Array, 'b n c'], lengths: Lengths = None) -> Any:
    y, _ = self.first(jax.nn.elu(x), lengths)
    y, _ = self.second(jax.nn.elu(y), lengths)
    return (x if self.how.true_skip else self.shortcut(x, lengths)[0]) + y, lengths

  def chunk(
    self, x: Float[Array, 'b n c'], state: State, last: bool, lengths: Lengths = None
  ) -> Any:
    y, kept = self.first.chunk(jax.nn.elu(x), state, last, lengths)
    y, _ = self.second(jax.nn.elu(y))
    return (x if self.how.true_skip else self.shortcut(x)[0]) + y, kept


class Recurrence(nn.Module):
  """Layers of LSTM, and their input added to what they give."""

  width: int
  depth: int

  def setup(self):
    self.layers = [recurrent.LSTM(self.width) for _ in range(self.depth)]

  def __call__(self, x: Float[Array, 'b n c'], lengths: Lengths = None) -> Any:
    n = x.shape[1]
    ends = jnp.full(len(x), n) if lengths is None else lengths
    mask = jnp.arange(n) < ends[:, None]
    y = x
    for layer in self.layers:
      y, _ = layer(y, mask)
    return y.astype(x.dtype) + x, lengths

  def chunk(
    self, x: Float[Array, 'b n c'], state: State, last: bool, lengths: Lengths = None
  ) -> Any:
    y, mask, states = x, jnp.ones(x.shape[:2], bool), []
    for i, layer in enumerate(self.layers):
      y, kept = layer(y, mask, None if state is None else state[i])
      states.append(kept)
    return y.astype(x.dtype) + x, tuple(states)


# -- Networks ----------------------------------------------------------------------------------


def elu(x: Float[Array, 'b n c']) -> Float[Array, 'b n c']:
  """The activation, as a layer of a row."""
  return jax.nn.elu(x)


Layers = list[nn.Module | Callable[[Any], Any]]


def encoder_layers(how: Seanet) -> Layers:
  """Layers of the encoder; their places are those of encodec's state dict."""
  width = how.n_filters
  row: Layers = [Conv(how.channels, width, how.kernel_size, how)]
  for ratio in reversed(how.ratios):
    row += [Residual(width, how.dilation_base**j, how) for j in range(how.n_residual_layers)]
    row += [elu, Conv(width, 2 * width, 2 * ratio, how, ratio)]
    width *= 2
  row += [Recurrence(width, how.lstm)] if how.lstm else []
  return [*row, elu, Conv(width, how.dimension, how.last_kernel_size, how)]


def decoder_layers(how: Seanet) -> Layers:
  """Layers of the decoder; their places are those of encodec's state dict."""
  width = how.n_filters * 2 ** len(how.ratios)
  row: Layers = [Conv(how.dimension, width, how.kernel_size, how)]
  row += [Recurrence(width, how.lstm)] if how.lstm else []
  for ratio in how.ratios:
    row += [elu, ConvTranspose(width, width // 2, 2 * ratio, how, ratio)]
    width //= 2
    row += [Residual(width, how.dilation_base**j, how) for j in range(how.n_residual_layers)]
  return [*row, elu, Conv(width, how.channels, how.last_kernel_size, how)]


class Network(nn.Module):
  """An encoder, or a decoder.

  Attributes:
    how: settings.
    decodes: which of the two.
  """

  how: Seanet
  decodes: bool = False

  def setup(self):
    self.layers = decoder_layers(self.how) if self.decodes else encoder_layers(self.how)

  def __call__(
    self, x: Float[Array, 'b n i'], lengths: Lengths = None, stages: bool = False
  ) -> Any:
    """Rows that are 0 behind their ends -> (rows, lengths), with `stages` the output of every
    layer too. None as lengths: all rows are full."""
    x = x.astype(self.how.dtype)
    found = []
    for layer in self.layers:
      x, lengths = layer(x, lengths) if isinstance(layer, nn.Module) else (layer(x), lengths)
      found.append(x)
    return (x, lengths, found) if stages else (x, lengths)

  def chunk(
    self,
    x: Float[Array, 'b n i'],
    states: tuple[State, ...] | None,
    last: bool = False,
    lengths: Lengths = None,
  ) -> tuple[Float[Array, 'b m o'], tuple[State, ...]]:
    """The next part of a clip -> (its outputs, the states for the part after it).

    Args:
      x: whole hops, except in the last chunk. The first has at least `first_frames` frames.
      states: None before the first chunk.
      last: nothing follows.
      lengths: of rows, in the last chunk of an encoder; None: all are full.

    Raises:
      InputError: the network is not causal, or the chunk is of a wrong length.
    """
    if not self.how.causal or self.how.norm == 'time_group_norm' or self.how.trim_right_ratio < 1:
      raise InputError(
        'This codec sees what comes later (it is not causal): it takes whole segments, no chunks.'
      )
    x = x.astype(self.how.dtype)
    found = []
    for i, layer in enumerate(self.layers):
      state = None if states is None else states[i]
      if not isinstance(layer, nn.Module):
        x = layer(x)
      else:
        x, state = layer.chunk(x, state, last, lengths)  # type: ignore[attr-defined]
      if lengths is not None and isinstance(layer, Conv):
        lengths = after(lengths, layer.stride)
      found.append(state)
    return x, tuple(found)


def first_frames(how: Seanet) -> int:
  """Frames that the first chunk of a stream has at least: what the widest convolution mirrors."""
  return max(how.kernel_size, how.last_kernel_size)

"""The trunk of raw-waveform models: strided convolutions, projection, positional convolution and a
transformer. wav2vec 2.0 (arXiv 2006.11477), HuBERT (2106.07447) and WavLM (2110.13900) share it,
wav2vec (1904.05862) its convolutions; figures are those of fairseq's models/wav2vec.

Padding changes nothing: frames are real where their whole receptive field is, norms over time count
real frames only, padded frames are zeroed before the positional convolution and never attended to.
`padding='published'` lets those norms run over padded time too, as the official code does; a clip
without padding comes out alike.
Letters: b batch, t samples, n frames, c channels, d width, h heads, l layers.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError
from research.nn import kernels, layers
from research.nn.attention import Bias, Drop, attend
from research.nn.convolutions import frames_after
from research.nn.kernels.convolutions import conv1d, grouped_conv1d, time_norm
from research.nn.meshes import gather
from research.nn.relative_bias import Gate, RelativeBias

Dtype = Any
Stem = tuple[tuple[int, int, int], ...]  # (channels, kernel, stride) of every layer
EPSILON = 1e-5
# The longest clip that is embedded in one piece: at 512 channels the first convolution's output of
# 300 s takes 2 GB, and attention has 225 million pairs a head.
MAX_SECONDS = 300.0
NORMS = ('group', 'layer')
PADDINGS = ('masked', 'published')
# PyTorch's kaiming_normal_: variance 2 / fan_in.
kaiming = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
bert = nn.initializers.normal(0.02)
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {'gelu': kernels.gelu, 'relu': nn.relu}


def stem_layers(channels: int = 512) -> Stem:
  """The seven convolutions of wav2vec 2.0: 400 samples of context, a frame every 320."""
  shapes = ((10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2)
  return tuple((channels, kernel, stride) for kernel, stride in shapes)


def torch_linear(fan_in: int) -> Callable[..., Array]:
  """PyTorch's default for weights and biases of Linear and Conv: uniform up to fan_in^-0.5."""
  return layers.uniform(float(fan_in) ** -0.5)


class Dropout(NamedTuple):
  """Rates of a transformer: of residual branches, attention weights, activations, whole layers."""

  residual: float = 0.0
  attention: float = 0.0
  activation: float = 0.0
  layer: float = 0.0


def draw_key(module: nn.Module, name: str) -> Array:
  """A key of rng `name`; raises InputError where the caller gave none."""
  if module.is_initializing():
    return jax.random.key(0)
  if not module.has_rng(name):
    raise InputError(
      f'{type(module).__name__} draws from rng {name!r}, which was not given: pass '
      f'rngs={{{name!r}: key}}, or the draws in the batch.'
    )
  return module.make_rng(name)


def draw_others(
  module: nn.Module, batch: Mapping[str, Any], used: Bool[Array, 'b m'], count: int
) -> Int[Array, 'b m k']:
  """For every place `count` other used ones of the same clip, uniform with replacement: by the
  batch's 'negative_draws' (below the number of others), or by rng 'mask'. Used places come first.
  A clip's only one has no others: it gets the place after it, which is not used, or not there."""
  b, m = used.shape
  draws = batch.get('negative_draws')
  if draws is None:
    others = jnp.maximum(used.sum(axis=1) - 1, 1)[:, None, None]
    key = draw_key(module, 'mask') if count else jax.random.key(0)
    draws = jax.random.randint(key, (b, m, count), 0, others)
  draws = draws[:, :m]
  return draws + (draws >= jnp.arange(m)[None, :, None]).astype(draws.dtype)


def mean_frames(x: Float[Array, 'b n d'], real: Bool[Array, 'b n']) -> Float[Array, 'b d']:
  """Mean of the real frames of every clip, in float32; 0 where there are none."""
  weight = real.astype(jnp.float32)
  total = jnp.einsum('bnd,bn->bd', jnp.where(real[:, :, None], x.astype(jnp.float32), 0.0), weight)
  return total / jnp.maximum(weight.sum(axis=1, keepdims=True), 1.0)


def drop(module: nn.Module, x: Array, rate: float, train: bool) -> Array:
  """Inverted dropout with draws from rng 'dropout'."""
  if not train or rate == 0.0:
    return x
  return Drop(module.make_rng('dropout'), rate)(x)


# -- Stem --------------------------------------------------------------------------------------


class ConvLayer(nn.Module):
  """A convolution without padding: kernel `[p, i, o]`, dropout, its norm, the activation."""

  shape: tuple[int, int, int]
  norm: str | None
  use_bias: bool
  dtype: Dtype = jnp.float32
  activation: str = 'gelu'
  kernel_init: Callable[..., Array] = kaiming
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n i'], real: Bool[Array, 'b m'], train: bool = False
  ) -> Float[Array, 'b m o']:
    channels, width, stride = self.shape
    inputs = x.shape[-1]
    kernel = self.param('kernel', self.kernel_init, (width, inputs, channels))
    x = conv1d(x, kernel, stride, self.dtype)
    if self.use_bias:
      bias = self.param('bias', torch_linear(width * inputs), (channels,))
      x = kernels.add_bias(x, bias)
    x = drop(self, x, self.dropout, train)
    if self.norm in ('group', 'clip'):
      groups = 1 if self.norm == 'clip' else None
      scale = self.param('norm_scale', nn.initializers.ones_init(), (channels,))
      bias = self.param('norm_bias', nn.initializers.zeros_init(), (channels,))
      x = time_norm(x, scale, bias, real, EPSILON, groups).astype(self.dtype)
    elif self.norm == 'layer':
      x = layers.LayerNorm(EPSILON, self.dtype, name='norm')(x)
    return ACTIVATIONS[self.activation](x)


class FeatureExtractor(nn.Module):
  """Waveform to frames.

  Attributes:
    shapes: (channels, kernel, stride) of every layer.
    norm: 'group' norms the first layer over time, 'layer' every layer over channels, 'clip' every
      layer over time and channels jointly.
    use_bias: whether convolutions have a bias.
    padding: 'masked' or 'published', see the module's docstring.
    feature_grad_mult: multiplies the gradient that enters from above; 0 stops it.
    activation: a key of ACTIVATIONS.
    torch_init: kernels start as PyTorch's Conv1d does, not as Kaiming's normal.
  """

  shapes: Stem
  norm: str = 'group'
  use_bias: bool = False
  padding: str = 'masked'
  feature_grad_mult: float = 1.0
  dtype: Dtype = jnp.float32
  activation: str = 'gelu'
  torch_init: bool = False

  @nn.compact
  def __call__(
    self, audio: Float[Array, 'b t'], audio_mask: Bool[Array, 'b t']
  ) -> tuple[Float[Array, 'b n c'], Bool[Array, 'b n']]:
    """Frames, and which of them are real; samples behind the mask count as silence."""
    count = audio_mask.sum(axis=1)
    x = jnp.where(audio_mask, audio, 0.0)[:, :, None]
    for i, shape in enumerate(self.shapes):
      count = jnp.asarray(frames_after(count, (shape,)))
      real = jnp.arange(frames_after(x.shape[1], (shape,))) < count[:, None]
      norm = self.norm if self.norm != 'group' or i == 0 else None
      counted = jnp.ones_like(real) if self.padding == 'published' else real
      start = torch_linear(shape[1] * x.shape[-1]) if self.torch_init else kaiming
      how = shape, norm, self.use_bias, self.dtype, self.activation, start
      x = ConvLayer(*how, name=f'conv_{i}')(x, counted)
    if self.feature_grad_mult == 0.0:
      x = jax.lax.stop_gradient(x)
    elif self.feature_grad_mult != 1.0:
      x = kernels.scale_gradient(x, self.feature_grad_mult)
    return x, real


# -- Positions ---------------------------------------------------------------------------------


class PositionalConv(nn.Module):
  """Grouped convolution over frames with weight norm, then exact GELU: relative positions.

  The norm is one scale a tap (over channels in and out of a tap): `kernel_scale` [p], direction
  `kernel` [p, d / groups, d]. An even kernel drops the last frame of the symmetric padding.
  """

  taps: int = 128
  groups: int = 16
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    d = x.shape[-1]
    normal = nn.initializers.normal(float(np.sqrt(4.0 / (self.taps * d))))
    direction = self.param('kernel', normal, (self.taps, d // self.groups, d))
    norm = jnp.sqrt(jnp.square(direction).sum(axis=(1, 2)))

    def at_start(key, shape):  # So that the kernel starts as it was drawn.
      del key, shape
      return norm

    scale = self.param('kernel_scale', at_start, (self.taps,))
    bias = self.param('bias', nn.initializers.zeros_init(), (d,))
    kernel = gather(direction * (scale / norm)[:, None, None])
    edges = (self.taps // 2, self.taps - 1 - self.taps // 2)
    y = grouped_conv1d(x.astype(self.dtype), kernel.astype(self.dtype), self.groups, edges)
    return kernels.gelu(kernels.add_bias(y, bias))


# -- Transformer -------------------------------------------------------------------------------


class SelfAttention(nn.Module):
  """Multi-head self-attention with biases and, in training, dropout of its weights; with `table`
  [h, n, n] a gated relative position bias."""

  heads: int
  dropout: float = 0.0
  dtype: Dtype = jnp.float32
  implementation: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    real: Bool[Array, 'b n'],
    train: bool,
    table: Float[Array, 'h n n'] | None = None,
  ) -> Float[Array, 'b n d']:
    q, k, v = layers.HeadsIn(self.heads, self.dtype, bert, name='qkv')(x)
    bias = None if table is None else Bias(Gate(self.heads, name='gate')(x), table)
    weights = None
    if train and self.dropout > 0.0:
      weights = Drop(self.make_rng('dropout'), self.dropout)
    y = attend(q, k, v, real, self.implementation, bias, drop=weights)
    return layers.HeadsOut(self.dtype, bert, name='proj')(y)


class TransformerLayer(nn.Module):
  """Post-norm (`pre_norm` False) or pre-norm layer, dropped as a whole where `kept` is False."""

  heads: int
  hidden: int
  pre_norm: bool
  dropout: Dropout = Dropout()
  dtype: Dtype = jnp.float32
  attention: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    real: Bool[Array, 'b n'],
    kept: Bool[Array, ''],
    train: bool = False,
    table: Float[Array, 'h n n'] | None = None,
  ) -> Float[Array, 'b n d']:
    rates = self.dropout
    norm1 = layers.LayerNorm(EPSILON, self.dtype, name='norm1')
    norm2 = layers.LayerNorm(EPSILON, self.dtype, name='norm2')
    args = self.heads, rates.attention, self.dtype, self.attention
    attention = SelfAttention(*args, name='attn')
    fc1 = layers.Dense(self.hidden, self.dtype, bert, name='fc1')
    fc2 = layers.Dense(x.shape[-1], self.dtype, bert, name='fc2')

    def mlp(y):
      y = drop(self, kernels.gelu(fc1(y)), rates.activation, train)
      return drop(self, fc2(y), rates.residual, train)

    def attended(y):
      return drop(self, attention(y, real, train, table), rates.residual, train)

    if self.pre_norm:
      y = x + attended(norm1(x))
      y = y + mlp(norm2(y))
    else:
      y = norm1(x + attended(x))
      y = norm2(y + mlp(y))
    return jnp.where(kept, y, x)


class Encoder(nn.Module):
  """Projected frames [b, n, d] to context: positions, then transformer layers.

  Attributes:
    depth, heads, hidden: layers, attention heads, width of the MLP.
    pre_norm: pre-norm layers and a norm at the end; else post-norm layers and a norm before them.
    dropout: rates; they act in training.
    conv_pos, conv_pos_groups: kernel and groups of the positional convolution.
    buckets, max_distance: of the gated relative position bias; 0 buckets: none.
    scan_layers, remat, attention: see `layers.run_blocks` and `attention.attend`.
  """

  depth: int
  heads: int
  hidden: int
  pre_norm: bool = False
  dropout: Dropout = Dropout()
  conv_pos: int = 128
  conv_pos_groups: int = 16
  buckets: int = 0
  max_distance: int = 800
  dtype: Dtype = jnp.float32
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n d'], real: Bool[Array, 'b n'], train: bool = False
  ) -> dict[str, Array]:
    """'tokens' [b, n, d]: what the encoder gives. 'layers' [1 + l, b, n, d]: input of the first
    layer, then every layer's output before the norm at the end. 'positions' [b, n, d]."""
    x = jnp.where(real[:, :, None], x, jnp.zeros((), x.dtype))
    positions = PositionalConv(self.conv_pos, self.conv_pos_groups, self.dtype, name='positions')(x)
    x = x + positions
    norm = layers.LayerNorm(EPSILON, self.dtype, name='norm')
    if not self.pre_norm:
      x = norm(x)
    x = drop(self, x, self.dropout.residual, train)
    table = None
    if self.buckets:
      shape = self.heads, self.buckets, self.max_distance
      table = RelativeBias(*shape, name='relative_bias')(x.shape[1])
    states = run_transformer(self, x, real, train, table)
    return {
      'tokens': norm(states[-1]) if self.pre_norm else states[-1],
      'layers': states,
      'positions': positions,
    }


def run_transformer(
  module: Any,
  x: Float[Array, 'b n d'],
  real: Bool[Array, 'b n'],
  train: bool,
  table: Float[Array, 'h n n'] | None = None,
) -> Float[Array, 'l b n d']:
  """x and the output of every transformer layer, inside the compact method of a module with the
  attributes of `Encoder` (but for those of its positions); `table`: of relative biases."""

  def make(name: str, index: int | None) -> nn.Module:
    del index
    shape = module.heads, module.hidden, module.pre_norm, module.dropout, module.dtype
    return TransformerLayer(*shape, module.attention, name=name)

  def call(block: nn.Module, x: Array, kept: Array) -> Array:
    return block(x, real, kept, train=train, table=table)

  kept = jnp.ones((module.depth,), bool)
  if train and module.dropout.layer > 0.0:
    kept = jax.random.uniform(module.make_rng('dropout'), (module.depth,)) > module.dropout.layer
  _, outputs, _ = layers.run_blocks(
    make, call, x, kept, scan=module.scan_layers, remat=module.remat, collect=True
  )
  assert outputs is not None
  return jnp.concatenate([x[None], outputs])

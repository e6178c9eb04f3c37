"""Conv-TasNet (Luo and Mesgarani, arXiv 1809.07454): signals of a mixture by masks of a learned
transform of its waveform; of several speakers, or of one signal without its noise.

An encoder makes frames of overlapping pieces of samples, dilated convolutions say which part of
each frame belongs to which signal, a decoder adds the frames of every signal up. Letters: b batch,
t samples, n frames, k signals, c channels; those of the paper are N (width), L (window), B
(bottleneck), H (hidden), Sc (skip), P (taps), X (blocks), R (repeats).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.capabilities import Example, audio_example
from research.errors import InputError, unknown
from research.features.waveform import Waveform
from research.models.settings import by_size, check_choices, fill
from research.nn import layers
from research.nn.residual_convolutions import only_real

MASKS = {'sigmoid': jax.nn.sigmoid, 'relu': jax.nn.relu}  # the paper's, asteroid's
EPSILON = 1e-8  # of the norms, as the paper's code


class Size(NamedTuple):
  """Figures of a model; see `ConvTasnet` for what they are."""

  width: int
  window: int
  bottleneck: int
  hidden: int
  skip: int
  taps: int
  blocks: int
  repeats: int


SIZES = {
  # Table II, the best rows: 2 ms at 8 kHz, 5.1M parameters for two speakers, SI-SNRi 15.3 dB of
  # WSJ0-2mix with `causal=False` and 10.6 dB with `causal=True`.
  'paper': Size(512, 16, 128, 512, 128, 3, 8, 3),
  # The same at 16 kHz.
  'paper_16khz': Size(512, 32, 128, 512, 128, 3, 8, 3),
  # Ours.
  'laptop': Size(128, 32, 64, 128, 64, 3, 6, 2),
  'tiny': Size(12, 16, 8, 16, 8, 3, 2, 1),
}


class Norm(nn.Module):
  """Layer norm with a scale and a bias for each channel: over all channels and frames (gLN), or
  over those up to each frame (cLN), in float32."""

  causal: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'b n c'], real: Bool[Array, 'b n']) -> Float[Array, 'b n c']:
    c = x.shape[-1]
    scale = self.param('scale', nn.initializers.ones_init(), (c,))
    bias = self.param('bias', nn.initializers.zeros_init(), (c,))
    y = only_real(x.astype(jnp.float32), real)
    if self.causal:
      count = (c * (1.0 + jnp.arange(y.shape[1], dtype=jnp.float32)))[:, None]
      mean = jnp.cumsum(y.sum(axis=-1, keepdims=True), axis=1) / count
      power = jnp.cumsum(jnp.square(y).sum(axis=-1, keepdims=True), axis=1) / count
      variance = jnp.maximum(power - jnp.square(mean), 0.0)
    else:
      count = (c * jnp.maximum(real.sum(axis=1), 1)).astype(jnp.float32)[:, None, None]
      mean = y.sum(axis=(1, 2), keepdims=True) / count
      variance = only_real(jnp.square(y - mean), real).sum(axis=(1, 2), keepdims=True) / count
    return ((y - mean) * jax.lax.rsqrt(variance + EPSILON) * scale + bias).astype(self.dtype)


class Prelu(nn.Module):
  """max(x, 0) + slope min(x, 0), one slope for all channels."""

  @nn.compact
  def __call__(self, x: Float[Array, 'b n c']) -> Float[Array, 'b n c']:
    slope = self.param('slope', nn.initializers.constant(0.25), (1,))
    return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


class Depthwise(nn.Module):
  """A dilated convolution of every channel by itself, as many frames as there are."""

  taps: int
  dilation: int
  causal: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'b n c'], real: Bool[Array, 'b n']) -> Float[Array, 'b n c']:
    n, c = x.shape[1:]
    start = layers.uniform(self.taps**-0.5)
    kernel = self.param('kernel', start, (self.taps, c)).astype(x.dtype)
    bias = self.param('bias', start, (c,)).astype(x.dtype)
    reach = (self.taps - 1) * self.dilation
    left = reach if self.causal else reach // 2
    x = jnp.pad(only_real(x, real), ((0, 0), (left, reach - left), (0, 0)))
    # Shifted copies: XLA's grouped convolutions are slow on a CPU.
    each = [x[:, p * self.dilation :][:, :n] * kernel[p] for p in range(self.taps)]
    return jnp.asarray(sum(each)) + bias


def point(features: int, inputs: int, dtype: Any, name: str) -> layers.Dense:
  """A convolution of one tap, with torch's start."""
  start = layers.uniform(inputs**-0.5)
  return layers.Dense(features, dtype, kernel_init=start, bias_init=start, name=name)


class Block(nn.Module):
  """One block of the separator (fig. 1C): what it adds to its input, and to the sum of skips."""

  bottleneck: int
  hidden: int
  skip: int
  taps: int
  dilation: int
  causal: bool
  last: bool
  dtype: Any

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n c'], real: Bool[Array, 'b n']
  ) -> tuple[Float[Array, 'b n c'] | None, Float[Array, 'b n s']]:
    y = point(self.hidden, self.bottleneck, self.dtype, 'in')(x)
    y = Norm(self.causal, self.dtype, name='norm_in')(Prelu(name='prelu_in')(y), real)
    y = Depthwise(self.taps, self.dilation, self.causal, name='depthwise')(y, real)
    y = Norm(self.causal, self.dtype, name='norm_out')(Prelu(name='prelu_out')(y), real)
    skip = point(self.skip, self.hidden, self.dtype, 'skip')(y)
    if self.last:
      return None, skip
    return point(self.bottleneck, self.hidden, self.dtype, 'out')(y), skip


class ConvTasnet(nn.Module):
  """The model.

  The residual convolution of the last block, which nothing reads, is left out; the paper's number
  of parameters counts it.

  Attributes:
    size: a key of SIZES; the attributes that are None take its figures.
    frontend: the sample rate, as dict(sample_rate=…).
    signals: of a mixture: speakers, or 1 for speech without noise.
    causal: frames see none behind them, by cumulative norms (cLN).
    mask: a key of MASKS.
    width, window: channels and samples of a frame; frames follow each other by half a window.
    bottleneck, hidden, skip: channels within the separator.
    taps, blocks, repeats: of its convolutions; dilations are 1, 2, … 2^(blocks - 1), repeated.
    dtype: of the products.
  """

  TRAINING: ClassVar[tuple[str, ...]] = ()
  mask_hop: ClassVar[int] = 0

  size: str = 'paper'
  frontend: Any = None
  signals: int = 2
  causal: bool = False
  mask: str = 'sigmoid'
  width: int = by_size()
  window: int = by_size()
  bottleneck: int = by_size()
  hidden: int = by_size()
  skip: int = by_size()
  taps: int = by_size()
  blocks: int = by_size()
  repeats: int = by_size()
  dtype: str = 'float32'

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of conv_tasnet', self.size, SIZES)
    fill(self, SIZES[self.size]._asdict())
    check_choices('conv_tasnet', self, dict(mask=MASKS, dtype=layers.DTYPES))
    low = min(getattr(self, name) for name in (*Size._fields, 'signals'))
    if low < 1 or self.window % 2 or not self.taps % 2:
      raise InputError(
        f'conv_tasnet got window={self.window}, taps={self.taps}, signals={self.signals} and a '
        f'least figure of {low}: give numbers of 1 or more, an even window and odd taps.'
      )
    if not isinstance(self.frontend, Waveform):
      given = Waveform.of_stem(self.frontend, self.window, self.window // 2)
      object.__setattr__(self, 'frontend', given)
    super().__post_init__()

  def example(self) -> Example:
    """One clip of one window."""
    return audio_example(self.frontend)

  @nn.compact
  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Separates mixtures.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t].
      train: makes no difference.

    Returns:
      'estimates' float32 [b, k, t], the signals in any order, 0 where 'estimates_mask' [b, k, t] is
      False; 'masks' [b, k, n, N] of the frames, and 'mask_frames' [b, n], which are real.

    Raises:
      InputError: clips below one window.
    """
    del train
    audio_mask = jnp.asarray(batch['audio_mask'])
    x = self.frontend(jnp.asarray(batch['audio']), audio_mask, batch.get('clip_stats'))
    dtype, hop, t = jnp.dtype(self.dtype), self.window // 2, x.shape[1]
    # Every sample is in two frames: one begins half a window before the clip.
    n = -(-t // hop) + 1
    size = audio_mask.sum(axis=1)
    count = jnp.where(size > 0, -(-size // hop) + 1, 0)
    real = jnp.arange(n) < count[:, None]
    blocks = jnp.pad(x, ((0, 0), (hop, n * hop - t))).reshape(len(x), n + 1, hop)
    frames = jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=-1)

    start = layers.uniform(self.window**-0.5)
    encoder = self.param('encoder', start, (self.window, self.width))
    decoder = self.param('decoder', layers.uniform(self.width**-0.5), (self.width, self.window))
    w = layers.product(frames, encoder, 1, dtype)
    masks = self._masks(w, real, dtype)
    y = layers.product(masks * w[:, None], decoder, 1, jnp.float32)
    ends = [(0, 0)] * (y.ndim - 2)
    whole = jnp.pad(y[..., :hop], [*ends, (0, 1), (0, 0)])
    whole += jnp.pad(y[..., hop:], [*ends, (1, 0), (0, 0)])
    whole = whole.reshape(*whole.shape[:2], -1)[..., hop : hop + t]
    heard = jnp.broadcast_to(audio_mask[:, None], whole.shape)
    found = {'estimates': jnp.where(heard, whole, 0.0), 'estimates_mask': heard}
    return found | {'masks': masks, 'mask_frames': real}

  def _masks(self, w: Array, real: Array, dtype: Any) -> Float[Array, 'b k n c']:
    x = Norm(self.causal, dtype, name='norm')(w, real)
    x = point(self.bottleneck, self.width, dtype, 'bottleneck_in')(x)
    total: Any = 0.0
    number = self.blocks * self.repeats
    for i in range(number):
      block = Block(
        self.bottleneck, self.hidden, self.skip, self.taps, 2 ** (i % self.blocks), self.causal,
        i == number - 1, dtype, name=f'blocks_{i}',
      )  # fmt: skip
      more, skip = block(x, real)
      total = total + skip
      x = x if more is None else x + more
    y = Prelu(name='prelu')(total)
    y = point(self.width * self.signals, self.skip, dtype, 'masks')(y)
    y = MASKS[self.mask](y.reshape(*y.shape[:2], self.signals, self.width))
    return jnp.where(real[:, None, :, None], y.swapaxes(1, 2), np.zeros((), y.dtype))

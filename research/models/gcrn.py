"""GCRN (Tan and Wang, "Learning Complex Spectral Mapping With Gated Convolutional Recurrent
Networks for Monaural Speech Enhancement", IEEE/ACM TASLP 28, 2020; JupiterEthan/GCRN-complex,
scripts/utils/networks.py): signals of a mixture by its complex spectrogram.

Gated convolutions halve the frequencies, LSTMs run over frames, two decoders give real and
imaginary parts: of the spectrum of a signal (mapping, as published), or of a mask of the mixture's.
Letters: b batch, t samples, n frames, f bins, k signals, c channels.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.capabilities import Example, audio_example
from research.errors import InputError, unknown
from research.features.stft import istft, stft, stft_frames
from research.features.waveform import Waveform
from research.models.settings import by_size, check_choices, fill
from research.nn import layers
from research.nn.batch_norm import BatchNorm
from research.nn.recurrent import LSTM

OUTPUTS = ('map', 'mask')
TAPS, STRIDE = 3, 2  # of the convolutions, along frequency


class Size(NamedTuple):
  """Figures of a model; see `Gcrn` for what they are."""

  n_fft: int
  hop: int
  channels: tuple[int, ...]
  groups: int


SIZES = {
  # 20 ms and 10 ms at 16 kHz; figures of the published code, 9.77M parameters.
  'paper': Size(320, 160, (16, 32, 64, 128, 256), 2),
  # Ours: 32 ms and 16 ms.
  'laptop': Size(512, 256, (16, 24, 32, 48, 64), 2),
  'tiny': Size(64, 32, (4, 8), 2),
}


class GatedConv(nn.Module):
  """x * k sigmoid(x * g) of three taps along frequency, every second bin: [b, n, f, i] to [b, n,
  (f - 1) // 2, o]; or the transposed one, to [b, n, 2 f + 1, o] and `extra` bins more."""

  features: int
  dtype: Any
  transposed: bool = False
  extra: int = 0

  @nn.compact
  def __call__(self, x: Float[Array, 'b n f i']) -> Float[Array, 'b n g o']:
    inputs, f = x.shape[-1], x.shape[-2]
    # torch's start: the fan of a transposed convolution is that of its outputs.
    start = layers.uniform(float(TAPS * (self.features if self.transposed else inputs)) ** -0.5)
    kernel = self.param('kernel', start, (TAPS, inputs, 2 * self.features))
    bias = self.param('bias', start, (2 * self.features,)).astype(self.dtype)
    if self.transposed:
      y = layers.product(x, kernel.swapaxes(0, 1).reshape(inputs, -1), 1, self.dtype)
      first, middle, last = jnp.split(y, TAPS, axis=-1)
      lead = [(0, 0), (0, 0)]
      even = jnp.pad(first, [*lead, (0, 1), (0, 0)]) + jnp.pad(last, [*lead, (1, 0), (0, 0)])
      odd = jnp.pad(middle, [*lead, (0, 1), (0, 0)])
      y = jnp.stack([even, odd], axis=-2).reshape(*y.shape[:2], 2 * f + 2, -1)
      y = y[..., : 2 * f + 1 + self.extra, :] + bias
    else:
      m = (f - TAPS) // STRIDE + 1
      taps = [x[..., p : p + STRIDE * (m - 1) + 1 : STRIDE, :] for p in range(TAPS)]
      flat = kernel.reshape(TAPS * inputs, -1)
      y = layers.product(jnp.concatenate(taps, axis=-1), flat, 1, self.dtype) + bias
    value, gate = jnp.split(y, 2, axis=-1)
    return value * jax.nn.sigmoid(gate)


class GroupedLstm(nn.Module):
  """Two layers of LSTMs, each of groups of channels that see only their own; between the layers
  the groups are interleaved, behind both are layer norms."""

  groups: int
  bidirectional: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d'], real: Bool[Array, 'b n']) -> Float[Array, 'b n d']:
    d = x.shape[-1]
    features = d // self.groups // (2 if self.bidirectional else 1)
    for layer in range(2):
      parts = [
        LSTM(features, self.bidirectional, name=f'rnn_{layer}_{g}')(part, real)[0]
        for g, part in enumerate(jnp.split(x, self.groups, axis=-1))
      ]
      x = jnp.concatenate(parts, axis=-1) if layer else jnp.stack(parts, axis=-1)
      x = layers.LayerNorm(1e-5, name=f'norm_{layer}')(x.reshape(*x.shape[:2], d))
    return x


class Gcrn(nn.Module):
  """The model.

  Attributes:
    size: a key of SIZES; the attributes that are None take its figures.
    frontend: the sample rate, as dict(sample_rate=…).
    signals: of a mixture: 1 for speech without noise, or speakers.
    output: 'map', spectra of the signals; or 'mask', complex masks M of the mixture's spectrum,
      whose magnitudes are tanh |M| (DCCRN-E, arXiv 2008.00264).
    bidirectional: LSTMs run in both directions, each with half the units; without it, a frame
      depends on no later one.
    normalise: every clip has a root mean square of 1 inside, and what comes out its own level. The
      published network takes levels as they are.
    n_fft, hop: samples of a window (Hann) and from one to the next.
    channels: of the convolutions of the encoder.
    groups: of the channels of LSTMs.
    dtype: of the convolutions.
  """

  TRAINING: ClassVar[tuple[str, ...]] = ()
  MIXES_ROWS: ClassVar[bool] = True  # batch norm
  mask_hop: ClassVar[int] = 0

  size: str = 'paper'
  frontend: Any = None
  signals: int = 1
  output: str = 'map'
  bidirectional: bool = False
  normalise: bool = False
  n_fft: int = by_size()
  hop: int = by_size()
  channels: Any = by_size()
  groups: int = by_size()
  dtype: str = 'float32'

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of gcrn', self.size, SIZES)
    fill(self, SIZES[self.size]._asdict())
    object.__setattr__(self, 'channels', tuple(self.channels))
    check_choices('gcrn', self, dict(output=OUTPUTS, dtype=layers.DTYPES))
    low = min((*self.channels, self.hop, self.groups, self.signals), default=0)
    bins = self.bins() if low > 0 else [0]
    each = self.groups * (2 if self.bidirectional else 1)
    if bins[-1] < 1 or self.n_fft % (2 * self.hop) or (self.channels[-1] * bins[-1]) % each:
      raise InputError(
        f'gcrn got n_fft={self.n_fft}, hop={self.hop}, channels={self.channels}, '
        f'groups={self.groups} and signals={self.signals}: numbers of 1 or more are expected, '
        'windows of an even number of hops, a bin or more behind the last convolution, and groups '
        '(twice as many if bidirectional) that divide its channels times bins.'
      )
    if not isinstance(self.frontend, Waveform):
      given = Waveform.of_stem(self.frontend, self.n_fft, self.hop)
      object.__setattr__(self, 'frontend', given)
    super().__post_init__()

  def bins(self) -> list[int]:
    """Bins of the spectrum and behind every convolution."""
    found = [self.n_fft // 2 + 1]
    for _ in self.channels:
      found.append((found[-1] - TAPS) // STRIDE + 1)
    return found

  def example(self) -> Example:
    """One clip of one window."""
    return audio_example(self.frontend)

  @nn.compact
  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Enhances or separates mixtures.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t].
      train: batch norm takes the statistics of the batch.

    Returns:
      'estimates' float32 [b, k, t], 0 where 'estimates_mask' [b, k, t] is False; 'spectra' float32
      [b, k, n, f, 2] of them, real and imaginary parts, and 'mask_frames' [b, n], which are real.

    Raises:
      InputError: clips below one window.
    """
    audio_mask = jnp.asarray(batch['audio_mask'])
    x = self.frontend(jnp.asarray(batch['audio']), audio_mask, batch.get('clip_stats'))
    size = audio_mask.sum(axis=1)
    level = jnp.ones((len(x), 1), jnp.float32)
    if self.normalise:
      power = jnp.square(x).sum(axis=1) / jnp.maximum(size, 1).astype(jnp.float32)
      level = jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1.0)), 1.0)[:, None]
    # A hop more than the clip: the last sample too is far from the edge of one window.
    longer = jnp.pad(x / level, ((0, 0), (0, self.hop)))
    spectrum = stft(longer, n_fft=self.n_fft, hop=self.hop)
    count = jnp.where(size > 0, stft_frames(size + self.hop, self.hop), 0)
    real = jnp.arange(spectrum.shape[1]) < count[:, None]
    mixture = jnp.stack([spectrum.real, spectrum.imag], axis=-1)
    mixture = jnp.where(real[..., None, None], mixture, 0.0)
    found = self._network(mixture, real, train)
    if self.output == 'mask':
      found = masked(found, mixture[:, None])
    found = jnp.where(real[:, None, :, None, None], found * level[:, None, None, None], 0.0)
    spectra = jax.lax.complex(found[..., 0], found[..., 1])
    whole = istft(spectra, x.shape[1], hop=self.hop, real=real[:, None])
    heard = jnp.broadcast_to(audio_mask[:, None], whole.shape)
    estimates = {'estimates': jnp.where(heard, whole, 0.0), 'estimates_mask': heard}
    return estimates | {'spectra': found, 'mask_frames': real}

  def _network(self, x: Array, real: Array, train: bool) -> Float[Array, 'b k n f 2']:
    dtype, bins = jnp.dtype(self.dtype), self.bins()

    def norm(y: Array, name: str) -> Array:
      mask = jnp.broadcast_to(real[:, :, None], y.shape[:-1])
      return BatchNorm(dtype=dtype, name=name)(y, train, mask)

    x, kept = x.astype(dtype), []
    for i, channels in enumerate(self.channels):
      x = GatedConv(channels, dtype, name=f'down_{i}')(x)
      x = nn.elu(norm(x, f'down_norm_{i}'))
      kept.append(x)
    flat = x.swapaxes(2, 3).reshape(*x.shape[:2], -1)
    flat = GroupedLstm(self.groups, self.bidirectional, name='lstm')(flat, real)
    inner = flat.reshape(*x.shape[:2], x.shape[3], x.shape[2]).swapaxes(2, 3).astype(dtype)
    parts = []
    for part in ('real', 'imag'):
      y = jnp.concatenate([inner, kept[-1]], axis=-1)
      for i in reversed(range(len(self.channels))):
        features = self.channels[i - 1] if i else self.signals
        extra = bins[i] - 2 * bins[i + 1] - 1
        y = GatedConv(features, dtype, True, extra, name=f'{part}_up_{i}')(y)
        y = norm(y, f'{part}_norm_{i}')
        y = nn.elu(jnp.concatenate([y, kept[i - 1]], axis=-1) if i else y)
      heads = [
        layers.Linear(bins[0], name=f'{part}_out_{k}')(y[..., k]) for k in range(self.signals)
      ]
      parts.append(jnp.stack(heads, axis=1))
    return jnp.stack(parts, axis=-1)


def masked(mask: Float[Array, 'b k n f 2'], mixture: Float[Array, 'b 1 n f 2']) -> Array:
  """The product of complex masks, of which |M| becomes tanh |M|, and a spectrum."""
  power = jnp.square(mask).sum(axis=-1, keepdims=True)
  size = jnp.sqrt(power + 1e-12)
  m = mask * (jnp.tanh(size) / size)
  re, im = m[..., 0], m[..., 1]
  y, z = mixture[..., 0], mixture[..., 1]
  return jnp.stack([re * y - im * z, re * z + im * y], axis=-1)

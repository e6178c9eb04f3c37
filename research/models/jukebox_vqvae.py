"""Jukebox's VQ-VAE (arXiv 2005.00341, §3): codes of music at several rates.

Every level is an autoencoder of the waveform by itself: strided convolutions and residual stacks of
dilated ones, a codebook that follows the running averages of its frames, and the mirror image. It
decodes from its own codes alone. Figures and names of arguments are those of openai/jukebox
(hparams.py, vqvae/); losses are in `objectives.jukebox`.
Letters: b batch, t samples, n frames, d width of codes, k codes, l levels, the lowest first.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Embedding, Example, audio_example
from research.errors import InputError, unknown
from research.features.stft import magnitudes
from research.features.waveform import Waveform
from research.models import waveform
from research.models.settings import by_size, check_choices, fill
from research.nn import codebooks, layers
from research.nn.residual_convolutions import (
  Conv,
  ConvTranspose,
  ResidualStack,
  check_stride,
  only_real,
  stack_dilations,
)
from research.nn.vector_quantizers import EmaQuantizer

AnyArray = jax.Array | np.ndarray


class Size(NamedTuple):
  """A set of hparams.py."""

  sample_rate: int
  downs_t: tuple[int, ...]  # strided convolutions of each block
  strides_t: tuple[int, ...]
  emb_width: int
  l_bins: int
  multipliers: tuple[int, ...]  # hvqvae_multipliers: of width and depth of each level
  width: int
  depth: int


SIZES = {
  # 'vqvae': hops of 8, 32 and 128 samples.
  'jukebox': Size(
    sample_rate=44_100,
    downs_t=(3, 2, 2),
    strides_t=(2, 2, 2),
    emb_width=64,
    l_bins=2048,
    multipliers=(2, 1, 1),
    width=32,
    depth=4,
  ),
  # 'small_vqvae', of the README's training demo: hops of 32 and 256 samples.
  'small': Size(
    sample_rate=22_050,
    downs_t=(5, 3),
    strides_t=(2, 2),
    emb_width=64,
    l_bins=1024,
    multipliers=(1, 1),
    width=32,
    depth=4,
  ),
  'tiny': Size(  # ours
    sample_rate=16_000,
    downs_t=(3, 2),
    strides_t=(2, 2),
    emb_width=32,
    l_bins=128,
    multipliers=(1, 1),
    width=32,
    depth=3,
  ),
}
# (n_fft, hop, window) of the spectra of the loss; of `spectral` alone, by which bandwidths are
# measured too.
SCALES = ((2048, 240, 1200), (1024, 120, 600), (512, 50, 240))
DEFAULT_SCALE = (2048, 256, 1536)


class Coder(NamedTuple):
  """Convolutions of one level.

  Attributes:
    downs, strides: of its blocks, the one at the waveform first.
    width, hidden: channels between and inside of residual blocks.
    dilations: of the encoder's residual stacks; the decoder has them reversed.
  """

  downs: tuple[int, ...]
  strides: tuple[int, ...]
  width: int
  hidden: int
  dilations: tuple[int, ...]
  decoder_dilations: tuple[int, ...]

  @property
  def hop(self) -> int:
    """Samples of a code."""
    return math.prod(s**d for s, d in zip(self.strides, self.downs))


class Encoder(nn.Module):
  """Samples [b, t] to frames [b, t / hop, d]; parameters of block i: `down_i_j`, `stack_i_j`,
  `out_i`."""

  shape: Coder
  features: int
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, 'b t'], frames: Int[Array, ' b']) -> Float[Array, 'b n d']:
    """`frames`: how many of them are real in each clip."""
    left, y = self.shape.hop, x[:, :, None].astype(self.dtype)
    for i, (down, stride) in enumerate(zip(self.shape.downs, self.shape.strides)):
      for j in range(down):
        conv = Conv(self.shape.width, 2 * stride, stride, 1, stride // 2, dtype=self.dtype,
                    name=f'down_{i}_{j}')  # fmt: skip
        y = conv(y, _first(y, frames * left))
        left //= stride
        y = self._stack(f'stack_{i}_{j}')(y, _first(y, frames * left))
      out = Conv(self.features, 3, padding=1, dtype=self.dtype, name=f'out_{i}')
      y = out(y, _first(y, frames * left))
    return y

  def _stack(self, name: str) -> ResidualStack:
    how = self.shape.dilations, self.shape.hidden
    return ResidualStack(*how, dtype=self.dtype, remat=self.remat, name=name)


class Decoder(nn.Module):
  """Frames [b, n, d] to samples [b, n hop]; parameters of block i: `in_i`, `stack_i_j`, `up_i_j`,
  and `out`."""

  shape: Coder
  features: int
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d'], frames: Int[Array, ' b']) -> Float[Array, 'b t']:
    made, y = 1, x.astype(self.dtype)
    for i in reversed(range(len(self.shape.downs))):
      down, stride = self.shape.downs[i], self.shape.strides[i]
      enter = Conv(self.shape.width, 3, padding=1, dtype=self.dtype, name=f'in_{i}')
      y = enter(y, _first(y, frames * made))
      for j in range(down):
        real = _first(y, frames * made)
        how = self.shape.decoder_dilations, self.shape.hidden
        stack = ResidualStack(*how, dtype=self.dtype, remat=self.remat, name=f'stack_{i}_{j}')
        features = self.features if j == down - 1 else self.shape.width
        up = ConvTranspose(features, stride, self.dtype, name=f'up_{i}_{j}')
        y = up(stack(y, real), real)
        made *= stride
    out = Conv(1, 3, padding=1, dtype=self.dtype, name='out')
    return out(y, _first(y, frames * made))[:, :, 0].astype(jnp.float32)


def _first(x: Float[Array, 'b n c'], count: Int[Array, ' b']) -> Bool[Array, 'b n']:
  return jnp.arange(x.shape[1]) < count[:, None]


class JukeboxVQVAE(nn.Module):
  """The VQ-VAE.

  Attributes:
    size: a key of SIZES; the attributes that are None take its figures.
    frontend: `features.Waveform` or its settings; its hop is that of `level`.
    downs_t, strides_t: of every level's blocks: strided convolutions and their stride.
    emb_width, l_bins: width and number of the codes of a level.
    multipliers: hvqvae_multipliers, by which a level has `width` and `depth`.
    width, depth: channels, and blocks of a residual stack.
    m_conv: channels inside of a residual block / `width`.
    dilation_growth_rate, dilation_cycle: block i of a stack has dilation rate^(i mod cycle).
    vqvae_reverse_decoder_dilation: the decoder's stacks begin with the largest.
    level: whose codes `encode` gives and whose frames `embed`; -1 is the top level.
    l_mu, revival_threshold: of the codebooks: decay, and the running number of frames below which
      a code is replaced by a frame of the batch.
    restored_samples: for weights of releases, which hold no running numbers: codes then count as
      used as if every update had this much audio (sample_length x GPUs).
    bandwidth_seconds: the first audio of training by which the bandwidths of the loss are measured.
    remat: the backward pass computes residual blocks anew.
  """

  TRAINING: ClassVar[tuple[str, ...]] = (
    'l_mu', 'revival_threshold', 'restored_samples', 'bandwidth_seconds', 'remat',
  )  # fmt: skip
  EMBEDDING: ClassVar[Embedding] = Embedding(max_seconds=30.0)

  size: str = 'jukebox'
  frontend: Any = None
  downs_t: tuple | list = by_size()
  strides_t: tuple | list = by_size()
  emb_width: int = by_size()
  l_bins: int = by_size()
  multipliers: tuple | list = by_size()
  width: int = by_size()
  depth: int = by_size()
  m_conv: float = 1.0
  dilation_growth_rate: int = 3
  dilation_cycle: int | None = None
  vqvae_reverse_decoder_dilation: bool = True
  level: int = -1
  l_mu: float = 0.99
  revival_threshold: float = 1.0
  restored_samples: int = 393_216
  bandwidth_seconds: float = 600.0
  dtype: str = 'float32'
  remat: bool = False

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of jukebox_vqvae', self.size, SIZES)
    size = SIZES[self.size]
    fill(self, size._asdict())
    for name in ('downs_t', 'strides_t', 'multipliers'):
      # JSON has lists; a module's attributes are hashable.
      object.__setattr__(self, name, tuple(getattr(self, name)))
    check_choices('jukebox_vqvae', self, dict(dtype=layers.DTYPES))
    counts = {len(self.downs_t), len(self.strides_t), len(self.multipliers)}
    if len(counts) > 1 or not self.downs_t or min(self.downs_t) < 1:
      raise InputError(
        f'jukebox_vqvae got downs_t={self.downs_t}, strides_t={self.strides_t} and multipliers='
        f'{self.multipliers}: give as many of each as there are levels, downs_t of at least 1.'
      )
    for stride in self.strides_t:
      check_stride(stride)
    if not -self.levels <= self.level < self.levels:
      raise InputError(f'jukebox_vqvae has levels 0 to {self.levels - 1}, not {self.level}.')
    hop = self.hops[self.level]
    frontend = Waveform.of_stem(self.frontend, hop, hop, sample_rate=size.sample_rate)
    object.__setattr__(self, 'frontend', frontend)
    super().__post_init__()

  @property
  def levels(self) -> int:
    """Number of levels; level 0 has the most codes."""
    return len(self.downs_t)

  @property
  def hops(self) -> tuple[int, ...]:
    """Samples of a code of every level."""
    return tuple(coder.hop for coder in self.coders)

  @property
  def coders(self) -> tuple[Coder, ...]:
    """Convolutions of every level."""
    found = []
    for i, times in enumerate(self.multipliers):
      growth = self.depth * times, self.dilation_growth_rate, self.dilation_cycle
      reverse = self.vqvae_reverse_decoder_dilation
      width = self.width * times
      found.append(
        Coder(
          tuple(self.downs_t[: i + 1]), tuple(self.strides_t[: i + 1]), width,
          int(self.m_conv * width), stack_dilations(*growth), stack_dilations(*growth, reverse),
        )
      )  # fmt: skip
    return tuple(found)

  @property
  def code_sizes(self) -> tuple[int, ...]:
    """One codebook."""
    return (self.l_bins,)

  def example(self) -> Example:
    """A clip of one code of the level."""
    return audio_example(self.frontend)

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    how = self.emb_width, dtype, self.remat
    self.encoders = [Encoder(coder, *how) for coder in self.coders]
    self.decoders = [Decoder(coder, *how) for coder in self.coders]
    ema = codebooks.Ema(
      decay=self.l_mu, threshold=self.revival_threshold, dead='restart', start='rows'
    )
    self.codebooks = [EmaQuantizer(self.l_bins, self.emb_width, ema) for _ in self.coders]
    self.bandwidth = Bandwidth(self.frontend.sample_rate, self.bandwidth_seconds)

  # -- Training --------------------------------------------------------------------------------

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Codes and reconstructions of every level.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t]. Only whole codes of the top level are compared.
        Draws for the codebooks may be given, 'restarts' and 'starts', a sequence of
        `codebooks.Draws` [1, k] a level; else they come from rng 'noise'.
      train: codebooks learn.

    Returns:
      what `objectives.jukebox.jukebox_vqvae` takes: 'target' [b, t], 'sample_mask' [b, t],
      'reconstructions' [l, b, t], 'commit_losses' [l], 'spectral_norms' [b] of the target,
      'spectral_residuals', 'multispectral_residuals' [l, b], 'bandwidth_l1', 'bandwidth_l2',
      'bandwidth_spec'; and of level i 'encoded_i' [b, n, d], 'codes_i' int [b, n], 'code_mask_i'
      [b, n]; means and minima over levels of the health of codebooks; 'embedding' [b, d], the mean
      of the frames of `level`.
    """
    top = self.hops[-1]
    audio, mask = jnp.asarray(batch['audio']), jnp.asarray(batch['audio_mask'])
    whole = -(-audio.shape[1] // top) * top
    edges = ((0, 0), (0, whole - audio.shape[1]))
    x, lengths = self.frontend(audio, mask), mask.sum(axis=1)
    x = jnp.pad(x, edges)
    counted = jnp.arange(whole) < (lengths // top * top)[:, None]
    target = jnp.where(counted, x, 0.0)
    out: dict[str, Any] = {'target': target, 'sample_mask': counted}

    made, commits, health = [], [], []
    for i in range(self.levels):
      encoded, frames, found = self._quantise(x, lengths, i, train, batch)
      real = _first(encoded, frames)
      decoded = self.decoders[i](found.vectors, frames)
      made.append(jnp.where(counted, decoded, 0.0))
      commits.append(found.loss)
      health.append(found)
      out |= {f'encoded_{i}': encoded, f'codes_{i}': found.codes[..., 0], f'code_mask_{i}': real}
      if i == self.level % self.levels:
        out['embedding'] = waveform.mean_frames(encoded, real)
    for name, join in (('', jnp.mean), ('min_', jnp.min)):
      for kind in ('code_perplexity', 'code_usage'):
        each = [getattr(found, f'{name}{kind}') for found in health]
        out[f'{name}{kind}'] = join(jnp.stack(each))

    # Spectra, without those for which a clip is too short.
    reconstructions = jnp.stack(made)
    spectra, norms = self._residuals(target, reconstructions, DEFAULT_SCALE)
    several = [self._residuals(target, reconstructions, scale)[0] for scale in SCALES]
    bandwidth = self.bandwidth(target, counted, norms, train)
    return out | {
      'reconstructions': reconstructions,
      'commit_losses': jnp.stack(commits),
      'spectral_norms': norms,
      'spectral_residuals': spectra,
      'multispectral_residuals': sum(several) / len(SCALES),
      **{f'bandwidth_{name}': value for name, value in bandwidth.items()},
    }

  def _residuals(self, target, reconstructions, scale):
    """Norms over all bins of a clip: [l, b] of the difference of magnitudes, [b] of the target's.
    Clips of half a frame or less are mirrored with silence behind them."""
    short = max(0, scale[0] // 2 + 1 - target.shape[1])
    pad = ((0, 0), (0, short))
    wanted = magnitudes(jnp.pad(target, pad), *scale)
    found = magnitudes(jnp.pad(reconstructions, ((0, 0), *pad)), *scale)
    return _norm(found - wanted), _norm(wanted)

  def _quantise(self, x, lengths, level: int, train: bool, batch: Mapping[str, Any] | None = None):
    """(frames [b, n, d], how many are real [b], `Quantized`)."""
    batch = batch or {}
    frames = lengths // self.hops[level]
    encoded = self.encoders[level](x, frames)
    real = _first(encoded, frames)
    draws = (batch[name][level] if name in batch else None for name in ('starts', 'restarts'))
    start, dead = draws
    found = self.codebooks[level](encoded, real, train, start=start, dead=dead)
    return only_real(encoded.astype(jnp.float32), real), frames, found

  # -- Other views -----------------------------------------------------------------------------

  def encode(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Int[Array, 'b n 1'], Bool[Array, 'b n']]:
    """Codes of `level` and which of them are real: those of a whole hop. Raises InputError below
    one code."""
    codes, real = self.encode_level(audio, audio_mask, self.level)
    return codes[:, :, None], real

  def encode_level(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t'], level: int
  ) -> tuple[Int[Array, 'b n'], Bool[Array, 'b n']]:
    """Codes of any level, and which of them are real."""
    _, real, found = self._frames(audio, audio_mask, level)
    return found.codes[..., 0], real

  def _frames(self, audio, audio_mask, level: int):
    level, audio, mask = level % self.levels, jnp.asarray(audio), jnp.asarray(audio_mask)
    hop = self.hops[level]
    x = self.frontend(audio, mask)[:, : audio.shape[1] // hop * hop]
    encoded, frames, found = self._quantise(x, mask.sum(axis=1), level, False)
    return encoded, _first(encoded, frames), found

  def decode(
    self, codes: Int[AnyArray, 'b n'], level: int = -1, real: Bool[AnyArray, 'b n'] | None = None
  ) -> Float[Array, 'b t']:
    """Audio of the codes of a level, t = n hop; `real`: those that are, in front of the others."""
    codes = jnp.asarray(codes)
    count = jnp.full(len(codes), codes.shape[1]) if real is None else jnp.asarray(real).sum(axis=1)
    vectors = self.codebooks[level % self.levels].lookup(codes[:, :, None])
    return self.decoders[level % self.levels](vectors, count)

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Frames of `level`: l = 0 before the codebook, l = 1 the vectors of their codes. Raises
    InputError below one frame."""
    encoded, real, found = self._frames(audio, audio_mask, self.level)
    vectors = only_real(found.vectors, real)
    return jnp.stack([encoded, vectors]), real


def _norm(x: Float[Array, '*lead n f']) -> Float[Array, '*lead']:
  """The Frobenius norm, with gradient 0 at 0."""
  power = jnp.square(x).sum(axis=(-2, -1))
  return jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1.0)), 0.0)


class Bandwidth(nn.Module):
  """What losses are divided by: mean |x|, variance and mean norm of the spectra of clips, of the
  first audio of training.

  Jukebox measures them on 600 s before training; here sums over the first batches are kept until
  they have as much, in the collection 'counters', and 1 stands where there is none yet.
  """

  sample_rate: int
  seconds: float

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b t'],
    counted: Bool[Array, 'b t'],
    norms: Float[Array, ' b'],
    train: bool,
  ) -> dict[str, Float[Array, '']]:
    """'l1', 'l2' and 'spec'."""
    sums = self.variable('counters', 'sums', lambda: jnp.zeros(6))
    clips = counted.any(axis=1)
    batch = [
      counted.sum(), jnp.abs(x).sum(), x.sum(), jnp.square(x).sum(), clips.sum(),
      jnp.where(clips, norms, 0.0).sum(),
    ]  # fmt: skip
    total = jnp.asarray(sums.value)
    if train and not self.is_initializing() and self.is_mutable_collection('counters'):
      added = total + jnp.stack([jnp.asarray(each, jnp.float32) for each in batch])
      full = total[0] >= self.seconds * self.sample_rate
      total = jax.lax.stop_gradient(jnp.where(full, total, added))
      sums.value = total
    seen, heard = jnp.maximum(total[0], 1.0), total[0] > 0
    variance = total[3] / seen - jnp.square(total[2] / seen)
    found = {'l1': total[1] / seen, 'l2': variance, 'spec': total[5] / jnp.maximum(total[4], 1.0)}
    return {name: jnp.where(heard & (x > 0), x, 1.0) for name, x in found.items()}

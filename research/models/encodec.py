"""EnCodec (arXiv 2210.13438): audio as a few codes a frame, and back.

A SEANet makes frames of 320 samples, a row of codebooks gives each of them one code after the
other, each of what those before left, and a second SEANet makes audio of the sum of their vectors.
Figures are those of encodec's model.py.
Letters: b clips, t samples, a channels, n frames, d width, q codebooks, s segments, k codes.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Embedding, Example, audio_example
from research.errors import InputError, unknown
from research.features.waveform import Waveform
from research.models import codec
from research.models.settings import by_size, check_choices, fill, frozen
from research.nn import codebooks, layers, segments, stft_discriminator
from research.nn.vector_quantizers import EmaQuantizer


class Size(NamedTuple):
  """A published size; channels, frames and convolutions are those of `codec.Seanet`."""

  sample_rate: int
  channels: int
  causal: bool
  norm: str
  normalize: bool  # loudness
  segment: float | None  # seconds
  bandwidths: tuple[float, ...]  # kbit/s
  quantizers: int
  dimension: int = 128
  n_filters: int = 32
  codebook_size: int = 1024


SIZES = {
  '24khz': Size(
    sample_rate=24_000, channels=1, causal=True, norm='weight_norm', normalize=False, segment=None,
    bandwidths=(1.5, 3.0, 6.0, 12.0, 24.0), quantizers=32,
  ),
  '48khz': Size(
    sample_rate=48_000, channels=2, causal=False, norm='time_group_norm', normalize=True,
    segment=1.0, bandwidths=(3.0, 6.0, 12.0, 24.0), quantizers=16,
  ),
  # Ours, for a laptop.
  'small': Size(
    sample_rate=16_000, channels=1, causal=True, norm='weight_norm', normalize=False, segment=None,
    bandwidths=(1.0, 2.0, 4.0), quantizers=8, dimension=64, n_filters=16,
  ),
}  # fmt: skip
# How codebooks learn: with dead codes that live again, or as the released code has it.
LEARNING = {'reset': codebooks.ENCODEC, 'published': codebooks.ENCODEC_PUBLISHED}

BALANCER = 'balancer'  # collection of the running norms of gradients
SIGNALS = ('code_usage', 'min_code_usage', 'code_perplexity', 'min_code_perplexity')


class Codes(NamedTuple):
  """A batch of clips as codes.

  Attributes:
    codes: int32 [b, n, q], 0 where there is no frame.
    mask: [b, n], which frames are there. Segments follow one another, `segment_frames` each.
    scales: [b, s], loudness of each segment; None for a codec that keeps it.
  """

  codes: Int[Array, 'b n q']
  mask: Bool[Array, 'b n']
  scales: Float[Array, 'b s'] | None


class Encodec(nn.Module):
  """EnCodec.

  Attributes:
    size: a key of SIZES; the attributes that are None take its figures.
    frontend: `features.Waveform` or its settings; its sample rate is the codec's.
    channels: 1 or 2. Mono audio is both sides of stereo; of stereo audio a mono codec takes the
      mean.
    causal, norm, dimension, n_filters, ratios, n_residual_layers, kernel_size, last_kernel_size,
      residual_kernel_size, dilation_base, compress, lstm, true_skip, pad_mode, trim_right_ratio:
      of the networks, see `codec.Seanet`.
    normalize: divides each segment by its loudness.
    segment: seconds of the segments in which a clip is coded; None: it is coded as a whole.
    overlap: fraction of a segment by which the next one overlaps it.
    bandwidths: kbit/s that can be chosen, and from which training draws.
    quantizers: codebooks that there are.
    codebook_size: k, a power of 2.
    bandwidth: kbit/s of codes; None: all codebooks.
    learning: a key of LEARNING.
    commit_all: see `EmaQuantizer`.
    discriminator: None, or arguments of `MultiScaleDiscriminator`: the model that the codec learns
      against, parameters `critic`, which only training needs; see `shed`.
  """

  TRAINING: ClassVar[tuple[str, ...]] = ('learning', 'commit_all', 'discriminator')
  EMBEDDING: ClassVar[Embedding] = Embedding(max_seconds=60.0)
  FINETUNING: ClassVar[Mapping[str, Any]] = {}

  size: str = '24khz'
  frontend: Any = None
  channels: int = by_size()
  causal: bool = by_size()
  norm: str = by_size()
  dimension: int = by_size()
  n_filters: int = by_size()
  ratios: tuple | list = (8, 5, 4, 2)
  n_residual_layers: int = 1
  kernel_size: int = 7
  last_kernel_size: int = 7
  residual_kernel_size: int = 3
  dilation_base: int = 2
  compress: int = 2
  lstm: int = 2
  true_skip: bool = False
  pad_mode: str = 'reflect'
  trim_right_ratio: float = 1.0
  normalize: bool = by_size()
  segment: float | None = by_size()
  overlap: float = 0.01
  bandwidths: tuple | list = by_size()
  quantizers: int = by_size()
  codebook_size: int = by_size()
  bandwidth: float | None = None
  learning: str = 'reset'
  commit_all: bool = False
  discriminator: Any = None
  dtype: str = 'float32'

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of encodec', self.size, SIZES)
    fill(self, SIZES[self.size]._asdict())
    for name in ('ratios', 'bandwidths'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    choices = dict(
      norm=codec.NORMS, pad_mode=codec.PADDINGS, learning=LEARNING, dtype=layers.DTYPES,
      channels=(1, 2),
    )  # fmt: skip
    check_choices('encodec', self, choices)
    rate = SIZES[self.size].sample_rate
    frontend = Waveform.of_stem(self.frontend, 1, self.hop, sample_rate=rate)
    object.__setattr__(self, 'frontend', frontend)
    self._check()
    super().__post_init__()

  def _check(self) -> None:
    """Raises InputError for arguments that do not go together."""
    if self.segment == 0:  # JSON and flags: no segments
      object.__setattr__(self, 'segment', None)
    if self.codebook_size < 2 or self.codebook_size & (self.codebook_size - 1):
      raise InputError(f'encodec got codebook_size={self.codebook_size}: give a power of 2.')
    if self.causal and self.norm == 'time_group_norm':
      raise InputError(
        "encodec got causal=True and norm='time_group_norm', a norm over all time: take "
        "'weight_norm'."
      )
    if self.bandwidth is not None:
      self.codebooks_for(self.bandwidth)
    if self.discriminator is not None:
      complete = stft_discriminator.complete(self.discriminator)
      object.__setattr__(self, 'discriminator', frozen(complete))

  # -- Figures ---------------------------------------------------------------------------------

  @property
  def hop(self) -> int:
    """Samples of a frame."""
    return math.prod(self.ratios)

  @property
  def frame_rate(self) -> int:
    """Frames a second, as bandwidths count them."""
    return -(-self.frontend.sample_rate // self.hop)

  @property
  def code_bits(self) -> int:
    """Bits of a code."""
    return int(math.log2(self.codebook_size))

  @property
  def segment_samples(self) -> int | None:
    """Samples of a segment; None where a clip is one."""
    return None if self.segment is None else int(self.segment * self.frontend.sample_rate)

  @property
  def segment_stride(self) -> int | None:
    """Samples from a segment to the next."""
    whole = self.segment_samples
    return None if whole is None else max(1, int((1 - self.overlap) * whole))

  @property
  def segment_frames(self) -> int | None:
    """Frames of a segment."""
    whole = self.segment_samples
    return None if whole is None else -(-whole // self.hop)

  def codebooks_for(self, bandwidth: float | None) -> int:
    """Codebooks of a bandwidth in kbit/s.

    Raises:
      InputError: it is none of `bandwidths`.
    """
    if bandwidth is None:
      return self.quantizers
    if bandwidth not in self.bandwidths:
      raise InputError(
        f'bandwidth={bandwidth:g} kbit/s: this codec has '
        f'{", ".join(f"{each:g}" for each in self.bandwidths)}.'
      )
    # What is a whole number but for rounding is one: 9.6 kbit/s of codebooks of 3.2.
    count = math.floor(bandwidth / (self.code_bits * self.frame_rate / 1000) + 1e-9)
    return min(max(1, count), self.quantizers)

  @property
  def code_sizes(self) -> tuple[int, ...]:
    """Codes of every codebook in use."""
    return (self.codebook_size,) * self.codebooks_for(self.bandwidth)

  def example(self) -> Example:
    """A clip of one frame."""
    return audio_example(self.frontend)

  @property
  def seanet(self) -> codec.Seanet:
    """Settings of the networks."""
    names = (
      'channels', 'dimension', 'n_filters', 'ratios', 'n_residual_layers', 'causal', 'norm',
      'kernel_size', 'last_kernel_size', 'residual_kernel_size', 'dilation_base', 'compress',
      'lstm', 'true_skip', 'pad_mode', 'trim_right_ratio',
    )  # fmt: skip
    return codec.Seanet(**{n: getattr(self, n) for n in names}, dtype=jnp.dtype(self.dtype))

  def setup(self):
    self.encoder = codec.Network(self.seanet)
    self.decoder = codec.Network(self.seanet, decodes=True)
    depths = tuple(sorted({self.codebooks_for(each) for each in self.bandwidths}))
    self.quantizer = EmaQuantizer(
      self.codebook_size, self.dimension, LEARNING[self.learning], self.quantizers, depths,
      commit_all=self.commit_all,
    )  # fmt: skip
    if self.discriminator is not None:
      self.critic = stft_discriminator.MultiScaleDiscriminator(**self.discriminator)
      # Of the gradients of four losses, see `objectives.adversarial_codec`.
      self.totals = self.variable(BALANCER, 'totals', jnp.zeros, (4,))
      self.weight = self.variable(BALANCER, 'weight', jnp.zeros, ())

  # -- Training --------------------------------------------------------------------------------

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Audio, coded and decoded.

    Args:
      batch: 'audio' [b, t] or [b, t, a], 'audio_mask' [b, t].
      train: codebooks learn, and a number of them is drawn for the batch; a clip is one segment.

    Returns:
      'reconstruction' [b, t] or [b, t, a] like the codec's channels, 0 behind the mask; 'target',
      what it should be, in the same shape; 'sample_mask' [b, t], the mask; 'latents' [b, n, d],
      'frame_mask' [b, n], 'codes' [b, n, q], 'embedding' [b, d]: mean of the real frames;
      'quantiser_loss', the commitment; 'code_usage', 'min_code_usage', 'code_perplexity',
      'min_code_perplexity'. With a discriminator also what `objectives.adversarial_codec` reads.
    """
    audio, mask = self._audio(batch['audio'], jnp.asarray(batch['audio_mask']))
    parts, ends, scales = self._parts(audio, mask, whole=train)
    b, s = parts.shape[:2]
    latents, frames = self._frames(parts, ends)
    real = jnp.arange(latents.shape[1]) < frames[:, None]
    n_q = None if train else self.codebooks_for(self.bandwidth)
    found = self.quantizer(latents, real, train, n_q)
    decoded = self._samples(found.vectors, frames, scales)
    ends = (frames * self.hop).reshape(b, s)
    rejoined = segments.join(decoded, ends, self.segment_stride)[:, : audio.shape[1]]
    latents, real = latents.reshape(b, -1, self.dimension), real.reshape(b, -1)
    count = jnp.maximum(real.sum(axis=1, keepdims=True), 1).astype(jnp.float32)
    reconstruction = jnp.where(mask[..., None], rejoined, 0.0).astype(jnp.float32)
    return {
      'reconstruction': self._squeezed(reconstruction),
      'target': self._squeezed(audio),
      'sample_mask': mask,
      'latents': latents,
      'frame_mask': real,
      'codes': found.codes.reshape(b, real.shape[1], -1),
      'embedding': jnp.where(real[..., None], latents, 0.0).sum(axis=1) / count,
      'quantiser_loss': found.loss,
      **{name: getattr(found, name) for name in SIGNALS},
      **self._judged(audio, reconstruction, mask),
    }

  def _judged(
    self, real: Float[Array, 'b t a'], fake: Float[Array, 'b t a'], mask: Bool[Array, 'b t']
  ) -> dict[str, Any]:
    """What the discriminator says of audio and its reconstruction."""
    if self.discriminator is None:
      return {}
    lengths = mask.sum(axis=1)
    judged = self.critic(real, lengths), self.critic(jax.lax.stop_gradient(fake), lengths)
    alone = stft_discriminator.MultiScaleDiscriminator(**self.discriminator, parent=None)
    return {
      'judged_real': judged[0],
      'judged_fake': judged[1],
      'judged_frames': alone.frames(lengths, *real.shape[1:]),
      'judge': stft_discriminator.Judge(self.variables['params']['critic'], lengths, alone),
      'balancer': {'totals': self.totals.value, 'weight': self.weight.value},
    }

  def shed(self, flat: Mapping[str, Any]) -> tuple['Encodec', dict[str, Any]]:
    """The codec alone, and of its variables by path those that it has: without discriminator."""
    only = ('params/critic/', f'{BALANCER}/')
    own = {name: x for name, x in flat.items() if not name.startswith(only)}
    return self.clone(discriminator=None), own

  # -- Codes -----------------------------------------------------------------------------------

  def embed(
    self, audio: Any, audio_mask: Any
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Frames before the codebooks, as the only layer; of a codec with segments their frames one
    segment after the other."""
    audio, mask = self._audio(audio, jnp.asarray(audio_mask))
    parts, ends, _ = self._parts(audio, mask)
    latents, frames = self._frames(parts, ends)
    real = jnp.arange(latents.shape[1]) < frames[:, None]
    shape = len(audio), -1
    return latents.reshape(*shape, self.dimension)[None], real.reshape(shape)

  def encode(self, audio: Any, audio_mask: Any) -> tuple[Int[Array, 'b n q'], Bool[Array, 'b n']]:
    """Codes at the model's bandwidth, and which frames are there; see `coded`."""
    found = self.coded(audio, audio_mask)
    return found.codes, found.mask

  def coded(
    self, audio: Any, audio_mask: Any, n_q: int | None = None, whole: bool = False
  ) -> Codes:
    """All that `decode` needs.

    Args:
      audio: [b, t] or [b, t, a].
      audio_mask: [b, t]; real samples come first.
      n_q: codebooks; None: those of the model's bandwidth.
      whole: each row is one segment at most.
    """
    audio, mask = self._audio(audio, jnp.asarray(audio_mask))
    parts, ends, scales = self._parts(audio, mask, whole)
    latents, frames = self._frames(parts, ends)
    real = jnp.arange(latents.shape[1]) < frames[:, None]
    found = self.quantizer(latents, real, n_q=n_q or self.codebooks_for(self.bandwidth))
    codes = found.codes.reshape(len(audio), -1, found.codes.shape[-1]).astype(jnp.int32)
    return Codes(codes, real.reshape(len(audio), -1), scales)

  def decode(
    self, codes: Any, mask: Any = None, scales: Any = None
  ) -> tuple[Float[Array, 'b t *a'], Bool[Array, 'b t']]:
    """Audio of codes, whole frames of it: the end of a clip may have to be cut.

    Args:
      codes: int [b, n, q] with any number of codebooks, each from the first, -1 for none; of a
        codec with segments n is a multiple of `segment_frames`.
      mask: [b, n] as `coded` gives it; None for all.
      scales: [b, s], loudness of segments: needed by a codec that takes it away.

    Returns:
      audio [b, t], or [b, t, 2] of a codec for stereo, 0 behind its mask [b, t].

    Raises:
      InputError: scales are missing or not asked for, or codes are of a wrong shape.
    """
    codes = jnp.asarray(codes)
    mask = jnp.ones(codes.shape[:2], bool) if mask is None else jnp.asarray(mask)
    b, n, q = codes.shape
    size = self.segment_frames or n
    if n % size or not 1 <= q <= self.quantizers:
      raise InputError(
        f'Codes of shape {codes.shape}: expected [clips, frames, codebooks], with a multiple of '
        f'{size} frames and 1 to {self.quantizers} codebooks.'
      )
    if (scales is not None) != self.normalize:
      text = 'needs the loudness of every segment (scales)' if self.normalize else 'takes no scales'
      raise InputError(f'This codec {text}.')
    s = n // size
    frames = mask.reshape(b * s, size).sum(axis=1)
    vectors = self.quantizer.lookup(codes.reshape(b * s, size, q))
    scales = None if scales is None else jnp.asarray(scales).reshape(b, s)
    decoded = self._samples(vectors, frames, scales)
    ends = (frames * self.hop).reshape(b, s)
    audio = segments.join(decoded, ends, self.segment_stride)
    stride = self.segment_stride or 0
    length = jnp.where(ends > 0, jnp.arange(s) * stride + ends, 0).max(axis=1)
    there = jnp.arange(audio.shape[1]) < length[:, None]
    return self._squeezed(jnp.where(there[..., None], audio, 0.0).astype(jnp.float32)), there

  # -- Streams ---------------------------------------------------------------------------------

  def encode_chunk(
    self,
    audio: Float[Array, 'b t'],
    states: Any,
    last: bool = False,
    n_q: int | None = None,
    lengths: Int[Array, ' b'] | None = None,
  ) -> tuple[Int[Array, 'b n q'], Any]:
    """The next samples of a clip -> (their codes, the states for those after them).

    Args:
      audio: whole frames, but in the last chunk any number of samples. The first chunk has at
        least `codec.first_frames` frames, unless it is the last one too.
      states: None at first.
      last: nothing follows.
      n_q: codebooks; None: those of the model's bandwidth.
      lengths: real samples of rows in the last chunk; None for all. Codes of what lies behind them
        are of no use.
    """
    self._check_streams()
    latents, states = self.encoder.chunk(audio[..., None], states, last, lengths)
    real = jnp.ones(latents.shape[:2], bool)
    found = self.quantizer(latents, real, n_q=n_q or self.codebooks_for(self.bandwidth))
    return found.codes.astype(jnp.int32), states

  def decode_chunk(
    self, codes: Int[Array, 'b n q'], states: Any, last: bool = False
  ) -> tuple[Float[Array, 'b t'], Any]:
    """The next codes of a clip -> (their samples, the states for those after them)."""
    self._check_streams()
    audio, states = self.decoder.chunk(self.quantizer.lookup(codes), states, last)
    return audio[..., 0].astype(jnp.float32), states

  def _check_streams(self) -> None:
    if not self.causal or self.segment is not None or self.channels > 1 or self.normalize:
      raise InputError(
        'This codec works on whole segments: it cannot take a clip in chunks of any length.'
      )

  # -- Parts -----------------------------------------------------------------------------------

  def _audio(
    self, audio: Any, mask: Bool[Array, 'b t']
  ) -> tuple[Float[Array, 'b t a'], Bool[Array, 'b t']]:
    """Audio in the codec's channels, 0 behind the mask."""
    audio = jnp.asarray(audio)
    self.frontend.check(audio.shape[1])
    audio = audio[..., None] if audio.ndim == 2 else audio
    audio = jnp.where(mask[..., None], audio, 0.0)
    if audio.shape[-1] == self.channels:
      return audio, mask
    if self.channels == 1:
      return audio.mean(axis=-1, keepdims=True), mask
    return jnp.broadcast_to(audio, (*mask.shape, self.channels)), mask

  def _squeezed(self, audio: Float[Array, 'b t a']) -> Float[Array, 'b t *a']:
    return audio[..., 0] if self.channels == 1 else audio

  def _parts(
    self, audio: Float[Array, 'b t a'], mask: Bool[Array, 'b t'], whole: bool = False
  ) -> tuple[Float[Array, 'b s m a'], Int[Array, 'b s'], Float[Array, 'b s'] | None]:
    """(segments, at unit loudness where that is taken away; their samples; their loudness)."""
    t, lengths = audio.shape[1], mask.sum(axis=1)
    if self.segment is None or whole:
      parts, ends = audio[:, None], lengths[:, None]
    else:
      size, stride = self.segment_samples, self.segment_stride
      assert size is not None and stride is not None
      starts = jnp.arange(-(-t // stride)) * stride
      width = min(size, t)
      room = int((len(starts) - 1) * stride + width)
      padded = jnp.pad(audio, ((0, 0), (0, max(room - t, 0)), (0, 0)))
      parts = padded[:, starts[:, None] + jnp.arange(width)]
      ends = jnp.clip(lengths[:, None] - starts, 0, size)
    if not self.normalize:
      return parts, ends, None
    power = jnp.square(parts.mean(axis=-1)).sum(axis=-1) / jnp.maximum(ends, 1).astype(jnp.float32)
    scales = 1e-8 + jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1.0)), 0.0)
    return parts / scales[..., None, None], ends, scales

  def _frames(
    self, parts: Float[Array, 'b s m a'], ends: Int[Array, 'b s']
  ) -> tuple[Float[Array, 'r n d'], Int[Array, ' r']]:
    """Frames of every segment, and how many there are."""
    rows = parts.reshape(-1, *parts.shape[2:])
    latents, frames = self.encoder(rows, ends.reshape(-1))
    size = self.segment_frames
    if size is not None and latents.shape[1] < size:
      latents = jnp.pad(latents, ((0, 0), (0, size - latents.shape[1]), (0, 0)))
    return latents.astype(jnp.float32), frames

  def _samples(
    self,
    vectors: Float[Array, 'r n d'],
    frames: Int[Array, ' r'],
    scales: Float[Array, 'b s'] | None,
  ) -> Float[Array, 'r t a']:
    """Audio of every segment, at its loudness."""
    audio, _ = self.decoder(codec.keep(vectors, frames), frames)
    return audio if scales is None else audio.astype(jnp.float32) * scales.reshape(-1, 1, 1)

"""VQ-VAE: audio as a row of discrete codes, and audio of them (van den Oord et al. 2017, arXiv
1711.00937, §4.2).

Of a waveform, strided convolutions make frames, a codebook replaces each by its nearest vector, and
a WaveNet says every sample from those before it, the vectors and the speaker. Of a log-mel
spectrogram the same encoder ends in residual blocks, and its mirror image gives the mean of every
bin, as the paper has it for images. The loss is in `objectives.waveform.vq_vae`.
Letters: b batch, t samples, s spectrogram frames, f mel bins, n codes, d their width, c channels.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Embedding, Example, Generation, audio_example
from research.errors import InputError, unknown
from research.features.frontend import Frontend
from research.features.waveform import Waveform
from research.models import waveform
from research.models.settings import by_size, check_choices, fill, frozen, thawed

# The paper's decoder is a WaveNet (§4.2), so the file of the one imports that of the other.
from research.models.wavenet import WaveNet
from research.nn import codebooks, layers
from research.nn.residual_convolutions import Conv, ConvTranspose, ResidualStack, only_real
from research.nn.vector_quantizers import EmaQuantizer, GradientQuantizer

AnyArray = jax.Array | np.ndarray
INPUTS = ('waveform', 'log_mel')
# How codebooks learn: by gradients (§3.2, the paper's results); by running averages (its appendix,
# with haiku's and sonnet's details); by those, beginning at frames and replacing dead codes.
AVERAGES = {'ema': codebooks.HAIKU, 'ema_restarts': codebooks.ENCODEC}
CODEBOOKS = ('gradient', *AVERAGES)


class Size(NamedTuple):
  """Figures of a model; see `VqVae` for what they are."""

  input: str
  strides: tuple[int, ...]
  codebook_size: int
  latent_dim: int
  width: int
  residual_blocks: int = 0
  decoder: Any = None


# The paper gives strides, taps and the number of codes, of images also width and blocks. It does
# not give widths of the audio models, the width of codes, or the layers of the WaveNet: ours.
_WAVENET: dict[str, Any] = dict(
  size='ibab', layers=30, stacks=3, residual_channels=128, gate_channels=256, skip_channels=256
)
_SMALL: dict[str, Any] = dict(
  size='ibab', layers=16, stacks=2, residual_channels=32, gate_channels=64, skip_channels=64
)
SIZES = {
  # 109 speakers of VCTK: 64 samples a code.
  'vctk': Size('waveform', (2,) * 6, 512, 64, 256, decoder=_WAVENET),
  # 460 speakers: 128 samples a code.
  'speakers': Size('waveform', (2,) * 7, 512, 64, 256, decoder=_WAVENET),
  # Codes against phonemes: 640 samples at 16 kHz, 25 a second. How 640 is divided is not said.
  'phonemes': Size('waveform', (2,) * 7 + (5,), 128, 64, 256, decoder=_WAVENET),
  # The figures of images: four frames a code.
  'log_mel': Size('log_mel', (2, 2), 512, 64, 256, residual_blocks=2),
  # Ours.
  'laptop': Size('waveform', (2,) * 6, 128, 32, 64, decoder=_SMALL),
  'tiny': Size(
    'waveform', (2, 2, 2), 16, 8, 8,
    decoder=dict(size='tiny', layers=2, stacks=1, residual_channels=8, gate_channels=16,
                 skip_channels=8),
  ),
}  # fmt: skip
# Of log-mel frames where no front-end is given: 80 bins, normalised by figures of read English
# (61 clips of LibriSpeech).
LOG_MEL = dict(name='log_mel', mean=-5.0, std=3.9)


class Encoder(nn.Module):
  """Frames [b, m, c] to frames [b, m / hop, d]; parameters `down_i`, `stack`, `out`.

  A convolution of stride s has s + 2 (s // 2) taps: 4 at a stride of 2.
  """

  strides: tuple[int, ...]
  width: int
  features: int
  residual_blocks: int
  dtype: Any

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b m c'], count: Int[Array, ' b']
  ) -> tuple[Float[Array, 'b n d'], Bool[Array, 'b n']]:
    """`count`: how many frames of each clip are real. A code is real if one of its frames is."""
    y = x.astype(self.dtype)
    for i, s in enumerate(self.strides):
      side = s // 2
      how: Any = dict(dtype=self.dtype, he=True, name=f'down_{i}')
      conv = Conv(self.width, s + 2 * side, s, 1, side, **how)
      y, count = nn.relu(conv(y, _first(y, count))), -(-count // s)
    real = _first(y, count)
    if self.residual_blocks:
      sizes = (1,) * self.residual_blocks, self.width
      y = nn.relu(ResidualStack(*sizes, dtype=self.dtype, name='stack')(y, real))
    return Conv(self.features, 1, dtype=self.dtype, he=True, name='out')(y, real), real


class MelDecoder(nn.Module):
  """Frames [b, n, d] to means of bins [b, s, f]; parameters `in`, `stack`, `up_i`."""

  strides: tuple[int, ...]
  width: int
  bins: int
  residual_blocks: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d'], real: Bool[Array, 'b n']) -> Float[Array, 'b s f']:
    count = real.sum(axis=1)
    y = Conv(self.width, 3, padding=1, dtype=self.dtype, name='in')(x.astype(self.dtype), real)
    if self.residual_blocks:
      how = (1,) * self.residual_blocks, self.width
      y = ResidualStack(*how, dtype=self.dtype, name='stack')(y, real)
    for i, s in reversed(list(enumerate(self.strides))):
      features = self.width if i else self.bins
      up = ConvTranspose(features, s, self.dtype, name=f'up_{i}')
      y, count = up(nn.relu(y), _first(y, count)), count * s
    return y.astype(jnp.float32)


def _first(x: Float[Array, 'b m c'], count: Int[Array, ' b']) -> Bool[Array, 'b m']:
  return jnp.arange(x.shape[1]) < count[:, None]


class VqVae(nn.Module):
  """The model.

  Attributes:
    size: a key of SIZES; the attributes that are None take its figures.
    frontend: of `waveform` the sample rate, as dict(sample_rate=…); of `log_mel` a spectrogram.
    input: 'waveform', or 'log_mel'.
    strides: of the encoder's convolutions; their product is the samples, or frames, of a code.
    width: channels of the convolutions.
    residual_blocks: behind them, and of `log_mel` in the decoder.
    codebook_size, latent_dim: number and width of codes.
    codebook: how it learns, of CODEBOOKS.
    commitment: beta, the weight of |z - sg(e)|^2.
    decoder: arguments of the WaveNet that differ from those of the size; for 'waveform' alone.
    speakers: rows of the WaveNet's table of speakers; 0 for none.
    speaker_names: in the order of the table; empty where they are not known.
    dtype: of the products.
  """

  TRAINING: ClassVar[tuple[str, ...]] = ('commitment',)
  EMBEDDING: ClassVar[Embedding] = Embedding()
  GENERATOR: ClassVar[str] = 'from_codes'

  size: str = 'vctk'
  frontend: Any = None
  input: str = by_size()
  strides: Any = by_size()
  width: int = by_size()
  residual_blocks: int = by_size()
  codebook_size: int = by_size()
  latent_dim: int = by_size()
  codebook: str = 'gradient'
  commitment: float = 0.25
  decoder: Any = None
  speakers: int = 0
  speaker_names: Any = ()
  dtype: str = 'float32'

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of vq_vae', self.size, SIZES)
    figures = SIZES[self.size]
    fill(self, {k: v for k, v in figures._asdict().items() if k != 'decoder'})
    whole = {**(figures.decoder or {}), **(self.decoder or {})}
    object.__setattr__(self, 'decoder', frozen(whole if self.input == 'waveform' else {}))
    for name in ('strides', 'speaker_names'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    check_choices('vq_vae', self, dict(input=INPUTS, codebook=CODEBOOKS, dtype=layers.DTYPES))
    self._check()
    if self.input == 'waveform' and not isinstance(self.frontend, Waveform):
      object.__setattr__(self, 'frontend', Waveform.of_stem(self.frontend, self.hop, self.hop))
    if self.input == 'log_mel' and not isinstance(self.frontend, Frontend):
      given = {**LOG_MEL, **dict(self.frontend or {})}
      object.__setattr__(self, 'frontend', Frontend.from_dict(given))
    super().__post_init__()
    if self.input == 'waveform':
      self.wavenet()  # Refuses what cannot be.

  def _check(self) -> None:
    low = min((*self.strides, self.width, self.codebook_size, self.latent_dim), default=0)
    if low < 1 or not self.strides or max(self.strides) < 2 or self.residual_blocks < 0:
      raise InputError(
        f'vq_vae got strides={self.strides}, width={self.width}, codebook_size='
        f'{self.codebook_size}, latent_dim={self.latent_dim} and residual_blocks='
        f'{self.residual_blocks}: give at least one stride of 2 or more, and sizes of at least 1.'
      )
    if self.input == 'log_mel' and any(s % 2 for s in self.strides):
      raise InputError(
        f"vq_vae got strides={self.strides} and input='log_mel', whose decoder mirrors them: give "
        'even ones.'
      )
    if self.input == 'log_mel' and self.speakers:
      raise InputError(
        f"vq_vae got speakers={self.speakers} and input='log_mel': only the WaveNet of a waveform "
        'hears the speaker.'
      )

  # -- What it is ------------------------------------------------------------------------------

  @property
  def hop(self) -> int:
    """Samples of a code, of 'log_mel' frames."""
    return math.prod(self.strides)

  @property
  def label_rate(self) -> float:
    """Codes a second."""
    step = self.hop * (1 if self.input == 'waveform' else self.frontend.hop_samples)
    return self.frontend.sample_rate / step

  @property
  def code_sizes(self) -> tuple[int, ...]:
    """One codebook."""
    return (self.codebook_size,)

  @property
  def label_counts(self) -> Mapping[str, int]:
    """Speakers that have a row."""
    return {'speaker': self.speakers} if self.speakers else {}

  @property
  def generation(self) -> Generation:
    """A recording or codes, and who says it."""
    labels = {'speaker': self.speaker_names or self.speakers} if self.speakers else {}
    return Generation(prompt=False, source='codes', labels=labels)

  @property
  def NEEDS(self) -> dict[str, str]:
    """Fields that a batch must hold."""
    if not self.speakers:
      return {}
    return {
      'speaker': f'vq_vae has speakers={self.speakers} and the config no field of them: set '
      "config.data.fields.speaker={'name': 'label', 'args': {'column': 'speaker'}}."
    }

  def example(self) -> Example:
    """One clip of one code."""
    found = audio_example(self.frontend)
    return found | {name: jax.ShapeDtypeStruct((1,), jnp.int32) for name in self.label_counts}

  def wavenet(self) -> WaveNet:
    """The decoder of a waveform, by itself. It predicts sample t from those before it, so that the
    vector of a code stands beside its own samples."""
    return WaveNet(parent=None, **self._wavenet_args())

  def _wavenet_args(self) -> dict[str, Any]:
    # Vectors come in the place of mel frames, as they are.
    own = dict(
      frontend=dict(sample_rate=self.frontend.sample_rate), local='mel', upsample='repeat',
      local_channels=self.latent_dim, local_pad=0, scales=(self.hop,), shift=True,
      full_context=False, speakers=self.speakers, speaker_names=self.speaker_names,
      dtype=self.dtype,
    )  # fmt: skip
    return {**thawed(self.decoder), **own}

  # -- Parameters ------------------------------------------------------------------------------

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    self.encoder = Encoder(self.strides, self.width, self.latent_dim, self.residual_blocks, dtype)
    sizes = self.codebook_size, self.latent_dim
    self.quantiser: Any
    if self.codebook == 'gradient':
      self.quantiser = GradientQuantizer(*sizes, self.commitment)
    else:
      how = AVERAGES[self.codebook]
      self.quantiser = EmaQuantizer(*sizes, how, commitment=self.commitment)
    if self.input == 'waveform':
      self.wavenet_decoder = WaveNet(**self._wavenet_args())
    else:
      bins = self.frontend.num_features
      self.mel_decoder = MelDecoder(self.strides, self.width, bins, self.residual_blocks, dtype)

  def _features(
    self, audio: Any, audio_mask: Any
  ) -> tuple[Float[Array, 'b m c'], Int[Array, ' b']]:
    """(what the encoder takes, whole codes of it; how much of each clip is real)."""
    audio, mask = jnp.asarray(audio), jnp.asarray(audio_mask)
    if self.input == 'waveform':
      x = self.frontend(audio, mask)[:, : audio.shape[1] // self.hop * self.hop, None]
      return x, mask.sum(axis=1) // self.hop * self.hop
    x, real = self.frontend(audio, mask)
    x = jnp.where(real[:, :, None], x, 0.0)
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % self.hop), (0, 0))), real.sum(axis=1)

  def _quantise(self, x: Array, count: Array, train: bool) -> tuple[Array, Array, Any]:
    """(frames [b, n, d], which are real, `Quantized`)."""
    encoded, real = self.encoder(x, count)
    encoded = encoded.astype(jnp.float32)
    given = () if self.codebook == 'gradient' else (train,)
    return only_real(encoded, real), real, self.quantiser(encoded, real, *given)

  # -- Training --------------------------------------------------------------------------------

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Codes, and what they say of the clip.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t]; 'speaker' int [b] where there are speakers. Of a
        waveform, whole codes count.
      train: codebooks that follow averages learn; their draws are of rng 'noise'.

    Returns:
      'encoded' [b, n, d], 'vectors' [b, n, d], 'codes' int [b, n], 'code_mask' [b, n],
      'quantiser_loss', 'commitment_loss', health of the codebook, 'embedding' [b, d], the mean of
      the vectors; and of a waveform what `WaveNet` gives ('logits' or 'logistics' …), of a
      spectrogram 'mel_mean' and 'mel' [b, s, f] with 'mel_mask' [b, s].
    """
    x, count = self._features(batch['audio'], batch['audio_mask'])
    encoded, real, found = self._quantise(x, count, train)
    vectors = only_real(found.vectors, real)
    out: dict[str, Any] = {
      'encoded': encoded,
      'vectors': vectors,
      'codes': found.codes[..., 0],
      'code_mask': real,
      'quantiser_loss': found.loss,
      'commitment_loss': found.commitments[0],
    }
    for name in ('code_perplexity', 'min_code_perplexity', 'code_usage', 'min_code_usage'):
      out[name] = getattr(found, name)
    if self.input == 'waveform':
      given = {name: batch[name] for name in self.label_counts if name in batch}
      given |= {'audio': x[:, :, 0], 'audio_mask': _first(x, count)}
      out = self.wavenet_decoder({**given, 'mel': vectors, 'mel_mask': real}, train) | out
    else:
      mean, mask = self.mel_decoder(vectors, real), _first(x, count)
      out |= {'mel_mean': only_real(mean, mask), 'mel': only_real(x, mask), 'mel_mask': mask}
    return out | {'embedding': waveform.mean_frames(vectors, real)}

  # -- Other views -----------------------------------------------------------------------------

  def encode(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Int[Array, 'b n 1'], Bool[Array, 'b n']]:
    """Codes and which of them are real. Raises InputError below one code."""
    _, real, found = self._quantise(*self._features(audio, audio_mask), False)
    return found.codes, real

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Frames: l = 0 before the codebook, l = 1 the vectors of their codes. Raises InputError below
    one code."""
    encoded, real, found = self._quantise(*self._features(audio, audio_mask), False)
    return jnp.stack([encoded, only_real(found.vectors, real)]), real

  def vectors_of(self, codes: Int[AnyArray, 'b n']) -> Float[Array, 'b n d']:
    """Vectors of codes, which the decoder takes."""
    return self.quantiser.lookup(jnp.asarray(codes)[:, :, None])

  def spectrogram_of(self, codes: Int[AnyArray, 'b n']) -> Float[Array, 'b s f']:
    """The normalised spectrogram of codes, of a model of 'log_mel'."""
    vectors = self.vectors_of(codes)
    return self.mel_decoder(vectors, jnp.ones(vectors.shape[:2], bool))

  def picture(self, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Panels [b, s, f]: the spectrogram, and what its codes say of it.

    Raises:
      InputError: the model is of waveforms.
    """
    if self.input == 'waveform':
      raise InputError(
        "vq_vae with input='waveform' draws no spectrograms: leave pictures out of config.evals, "
        'and listen to what launch.generate makes.'
      )
    out = self(batch)
    return {name: self.frontend.denormalise(out[key]) for name, key in PANELS.items()}


# Panels of `VqVae.picture`.
PANELS = {'spectrogram': 'mel', 'of its codes': 'mel_mean'}

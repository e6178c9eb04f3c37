"""What models of raw speech share: sizes, waveform to context, span masks, `embed`.

Pre-training and fine-tuning of wav2vec 2.0 (arXiv 2006.11477), HuBERT (2106.07447) and WavLM
(2110.13900) are `SpeechEncoder` with heads.
Letters: b batch, t samples, n frames, m masked places, c channels, d width, l layers.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Embedding, Example, audio_example
from research.errors import InputError, unknown
from research.features.span_masks import max_masked, span_mask
from research.features.waveform import Waveform
from research.models import waveform
from research.models.settings import by_size, check_choices, fill
from research.nn import layers
from research.nn.convolutions import receptive_field

AnyArray = jax.Array | np.ndarray


class Size(NamedTuple):
  """A published size, with its rates in pre-training."""

  width: int
  depth: int
  heads: int
  hidden: int
  final_dim: int
  norm: str = 'group'
  conv_bias: bool = False
  pre_norm: bool = False
  normalise: bool = False
  dropout: float = 0.1  # of branches, attention weights and inputs
  layerdrop: float = 0.0
  feature_grad_mult: float = 0.1
  temperature_end: float | None = None  # of models with a Gumbel quantiser


# What the large models of Libri-Light have: layer norms everywhere, clips normalised, no dropout.
LAYERED: dict[str, Any] = dict(
  norm='layer', pre_norm=True, normalise=True, dropout=0.0, feature_grad_mult=1.0
)


def take(x: Float[Array, 'b n d'], places: Int[Array, 'b m']) -> Float[Array, 'b m d']:
  """Frames at places of their clip."""
  return jnp.take_along_axis(x, places[:, :, None], axis=1)


def block_frames(audio_mask: Bool[Array, 'b t'], n: int) -> Bool[Array, 'b n']:
  """Which of n frames HuBERT and WavLM take for real: those whose block of t // n samples has a
  real one (fairseq's forward_padding_mask), up to two more than have a whole receptive field."""
  size = audio_mask.shape[1] // n
  return audio_mask[:, : n * size].reshape(len(audio_mask), n, size).any(axis=2)


class SpeechEncoder(nn.Module):
  """Convolutions, projection and transformer of a size; heads are those of the subclass.

  Attributes:
    size: a key of the class's SIZES; the attributes that are None take its figures.
    frontend: `features.Waveform` or its settings; `normalise` follows the size.
    channels: of the convolutions.
    norm: 'group' (first convolution, over time) or 'layer' (every convolution, over channels).
    pre_norm: transformer with norms before the branches.
    conv_pos, conv_pos_groups: of the positional convolution.
    buckets, max_distance: of WavLM's relative position bias, see `relative_bias.bucket`; 0 buckets:
      none.
    mask_prob, mask_length, min_masks, mask_overlap, mask_space: of the masks over frames, see
      `features.span_mask`.
    mask_seconds: consecutive clips of N seconds in all, padding included, get equal numbers of
      masked frames and channels. fairseq does so with the clips of a GPU (max_tokens). None masks
      every clip by itself, which suits batches of many lengths.
    mask_embedding: whether there is a vector for masked frames. Models that were configured without
      masks over frames have none: then `mask_prob` is 0, and no such mask may be given.
    mask_channel_prob, mask_channel_length: of the masks over the channels of the transformer's
      input.
    feature_grad_mult: factor of the gradient that enters the convolutions; 0 freezes them.
    dropout, attention_dropout, activation_dropout, input_dropout, layerdrop: in training.
    padding: 'masked' or 'published', see `models/waveform.py`. HuBERT and WavLM have a rule of
      their own for which frames are real when 'published', see `block_frames`; 'transformers' is
      that library's: published norms, and frames by the length of the convolutions.
  """

  SIZES: ClassVar[Mapping[str, Size]] = {}
  TITLE: ClassVar[str] = ''
  BLOCKS: ClassVar[bool] = False  # whether published padding goes by blocks
  EMBEDDING: ClassVar[Embedding] = Embedding(max_seconds=waveform.MAX_SECONDS)
  # fairseq's configs for fine-tuning (examples/wav2vec/config/finetuning, hubert/config/finetune):
  # masks and dropped layers, no other dropout but of activations, frozen convolutions.
  FINETUNING: ClassVar[Mapping[str, Any]] = dict(
    mask_prob=0.65, dropout=0.0, attention_dropout=0.0, input_dropout=0.0, activation_dropout=0.1,
    layerdrop=0.1, feature_grad_mult=0.0,
  )  # fmt: skip
  # What training alone depends on.
  TRAINING: ClassVar[tuple[str, ...]] = (
    'mask_prob', 'mask_length', 'min_masks', 'mask_overlap', 'mask_space', 'mask_seconds',
    'mask_channel_prob', 'mask_channel_length', 'feature_grad_mult', 'dropout', 'attention_dropout',
    'activation_dropout', 'input_dropout', 'layerdrop',
  )  # fmt: skip

  size: str = 'base'
  frontend: Any = None
  channels: int = 512
  width: int = by_size()
  depth: int = by_size()
  heads: int = by_size()
  hidden: int = by_size()
  norm: str = by_size()
  conv_bias: bool = by_size()
  pre_norm: bool = by_size()
  conv_pos: int = 128
  conv_pos_groups: int = 16
  buckets: int = 0
  max_distance: int = 800
  mask_prob: float = 0.65
  mask_length: int = 10
  min_masks: int = 2
  mask_overlap: bool = True
  mask_space: int = 1
  mask_seconds: float | None = None
  mask_embedding: bool = True
  mask_channel_prob: float = 0.0
  mask_channel_length: int = 64
  feature_grad_mult: float = by_size()
  dropout: float = by_size()
  attention_dropout: float = by_size()
  activation_dropout: float = 0.0
  input_dropout: float = by_size()
  layerdrop: float = by_size()
  padding: str = 'masked'
  dtype: str = 'float32'
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None

  # -- Settings --------------------------------------------------------------------------------

  def __post_init__(self):
    if self.size not in self.SIZES:
      raise unknown(f'size of {self.TITLE}', self.size, self.SIZES)
    table = self.SIZES[self.size]._asdict()
    normalise = table['normalise']
    fill(self, self._figures(table))
    sees = receptive_field(waveform.stem_layers())
    frontend = Waveform.of_stem(self.frontend, *sees, normalise=normalise)
    object.__setattr__(self, 'frontend', frontend)
    paddings = (*waveform.PADDINGS, *(('transformers',) if self.BLOCKS else ()))
    known = dict(norm=waveform.NORMS, padding=paddings, dtype=layers.DTYPES)
    check_choices(self.TITLE, self, known)
    if self.mask_prob and not self.mask_embedding:
      raise InputError(
        f'{self.TITLE} got mask_prob={self.mask_prob} without mask_embedding: nothing can stand '
        'for masked frames. Give mask_prob=0.0.'
      )
    if self.mask_seconds is not None and not self.mask_seconds > 0:
      raise InputError(
        f'{self.TITLE} got mask_seconds={self.mask_seconds!r}; give more than 0, or None.'
      )
    self._check_multiple('width', 'heads')
    self._check_multiple('width', 'conv_pos_groups')
    if self.buckets and (self.buckets < 4 or self.max_distance <= self.buckets // 4):
      raise InputError(
        f'{self.TITLE} got buckets={self.buckets} and max_distance={self.max_distance}: a quarter '
        'of the buckets stands for single frames, so there must be four, and distances beyond.'
      )
    self._check()
    super().__post_init__()

  def _check(self) -> None:
    """Checks of a subclass: its figures are all there, and it is in no scope yet, where the call of
    a method would make its parts."""

  def _figures(self, table: dict[str, Any]) -> dict[str, Any]:
    """What attributes that are None take, by the size's row."""
    return table | dict(attention_dropout=table['dropout'], input_dropout=table['dropout'])

  def _check_multiple(self, name: str, parts: str) -> None:
    if getattr(self, name) % getattr(self, parts):
      raise InputError(
        f'{self.TITLE} got {name}={getattr(self, name)} and {parts}={getattr(self, parts)}; '
        f'{name} must be a multiple of {parts}.'
      )

  @property
  def borrowed(self) -> dict[str, dict[str, Any]]:
    """What weights for a part must have been trained with: see `train/warm_start.py`."""
    relative = ('buckets', 'max_distance') if self.buckets else ('buckets',)
    parts = {
      'feature_extractor': ('norm', 'conv_bias'),
      'encoder': ('pre_norm', 'heads', *relative),
    }
    return {
      f'params/{part}': {name: getattr(self, name) for name in names}
      for part, names in parts.items()
    }

  @property
  def frozen(self) -> tuple[str, ...]:
    """Patterns of the parameters that never learn."""
    return ('^feature_extractor/',) if self.feature_grad_mult == 0.0 else ()

  def example(self) -> Example:
    """A clip of one frame."""
    return audio_example(self.frontend)

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    self.feature_extractor = waveform.FeatureExtractor(
      waveform.stem_layers(self.channels), self.norm, self.conv_bias,
      'masked' if self.padding == 'masked' else 'published', self.feature_grad_mult, dtype,
    )  # fmt: skip
    # Compared with targets in float32, so normed in float32.
    self.feature_norm = layers.LayerNorm(waveform.EPSILON)
    torch = waveform.torch_linear(self.channels)
    self.project = layers.Dense(self.width, dtype, torch, torch)
    if self.mask_embedding:
      self.mask_token = self.param('mask_token', layers.unit, (self.width,))
    rates = waveform.Dropout(
      self.dropout, self.attention_dropout, self.activation_dropout, self.layerdrop
    )
    self.encoder = waveform.Encoder(
      self.depth, self.heads, self.hidden, self.pre_norm, rates, self.conv_pos,
      self.conv_pos_groups, self.buckets, self.max_distance, dtype, self.scan_layers, self.remat,
      self.attention,
    )  # fmt: skip

  # -- Parts -----------------------------------------------------------------------------------

  def _frames(
    self,
    audio: Float[AnyArray, 'b t'],
    audio_mask: Bool[AnyArray, 'b t'],
    most: int | None = None,
    clip_stats: Float[AnyArray, 'b 2'] | None = None,
  ):
    """Convolutional features (the first `most` of them), which are real, and the features normed;
    `clip_stats` of the clips that the audio is cropped from."""
    audio, audio_mask = jnp.asarray(audio), jnp.asarray(audio_mask)
    features, real = self.feature_extractor(
      self.frontend(audio, audio_mask, clip_stats), audio_mask
    )
    features, real = features[:, :most], real[:, :most]
    if self.BLOCKS and self.padding == 'published':
      real = block_frames(audio_mask, features.shape[1])
    return features, real, self.feature_norm(features)

  def _penalty(self, features: Float[Array, 'b n c'], real: Bool[Array, 'b n']) -> Float[Array, '']:
    """Mean square of the features: of real frames, or of all where padding is as published."""
    weight = jnp.ones_like(real) if self.padding == 'published' else real
    weight = weight.astype(jnp.float32)
    squares = jnp.square(features.astype(jnp.float32)).mean(axis=-1)
    return (squares * weight).sum() / jnp.maximum(weight.sum(), 1.0)

  def _encode(
    self,
    normed: Array,
    real: Array,
    mask: Array | None,
    train: bool,
    channel_mask: Array | None = None,
  ):
    """Masked frames become the mask token, then masked channels 0 in every frame."""
    x = waveform.drop(self, self.project(normed), self.input_dropout, train)
    if mask is not None and self.mask_embedding:
      x = jnp.where(mask[:, :, None], self.mask_token.astype(x.dtype), x)
    elif mask is not None and not self.is_initializing():
      raise InputError(f'{self.TITLE} has no mask_embedding: these weights know no masked frames.')
    if channel_mask is not None:
      x = jnp.where(channel_mask[:, None, :], jnp.zeros((), x.dtype), x)
    return {'projected': x, **self.encoder(x, real, train)}

  def _equal_rows(self, batch: Mapping[str, Any]) -> int:
    """How many clips in a row get equal numbers of masked frames."""
    if self.mask_seconds is None:
      return 1
    rows, samples = batch['audio'].shape
    most = min(self.mask_seconds * self.frontend.sample_rate, rows * samples)
    return max(1, round(most) // samples)

  def _spans(self, batch: Mapping[str, Any], real: Bool[Array, 'b n']) -> Bool[Array, 'b n']:
    """Which frames are hidden: those of batch['span_mask'], or drawn."""
    if 'span_mask' in batch:
      given = batch['span_mask'].astype(bool)[:, : real.shape[1]]
      return jnp.pad(given, ((0, 0), (0, real.shape[1] - given.shape[1]))) & real
    return span_mask(
      waveform.draw_key(self, 'mask'),
      real,
      prob=self.mask_prob,
      length=self.mask_length,
      min_masks=self.min_masks,
      overlap=self.mask_overlap,
      space=self.mask_space,
      equal_rows=self._equal_rows(batch),
    )

  def _masked_places(
    self, batch: Mapping[str, Any], mask: Bool[Array, 'b n']
  ) -> tuple[Int[Array, 'b m'], Bool[Array, 'b m']]:
    """The masked frames of every clip, first ones first, in as many places as there can ever be;
    and which places hold one."""
    n = mask.shape[1]
    most = max_masked(n, self.mask_prob, self.mask_length, self.min_masks)
    most = n if 'span_mask' in batch else most
    places = jnp.argsort(~mask, axis=1, stable=True)[:, :most]
    return places, jnp.take_along_axis(mask, places, axis=1)

  def _channels(self, batch: Mapping[str, Any], b: int) -> Bool[Array, 'b d'] | None:
    """Which channels are hidden: those of batch['channel_mask'], or drawn, or none."""
    if 'channel_mask' in batch:
      return batch['channel_mask'].astype(bool)
    if self.mask_channel_prob == 0.0:
      return None
    return span_mask(
      waveform.draw_key(self, 'mask'),
      jnp.ones((b, self.width), bool),
      prob=self.mask_channel_prob,
      length=self.mask_channel_length,
      min_masks=0,
      equal_rows=self._equal_rows(batch),
    )

  # -- Views -----------------------------------------------------------------------------------

  def hidden_states(
    self, batch: Mapping[str, Any], train: bool = False, layers: bool = True
  ) -> dict[str, Array]:
    """What a head sees.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t]. In training 'span_mask' [b, n] and 'channel_mask'
        [b, d] may be given; else they come from rng 'mask'.
      train: masks and dropout act.
      layers: they come at no cost.

    Returns:
      'tokens' [b, n, d]; 'frame_mask' [b, n]; 'layers' [l, b, n, d] as `embed`'s; 'projected',
      'positions' [b, n, d].
    """
    del layers
    _, real, normed = self._frames(
      batch['audio'], batch['audio_mask'], clip_stats=batch.get('clip_stats')
    )
    mask = channels = None
    if train:
      mask = self._spans(batch, real) if self.mask_prob or 'span_mask' in batch else None
      channels = self._channels(batch, len(real))
    encoded = self._encode(normed, real, mask, train, channels)
    return {**encoded, 'layers': _states(encoded), 'frame_mask': real}

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Every layer's frames, 20 ms apart: l = 0 is the input of the first layer, the last one is
    what the encoder gives. Raises InputError below one frame."""
    _, real, normed = self._frames(audio, audio_mask)
    encoded = self._encode(normed, real, None, False)
    return _states(encoded).astype(jnp.float32), real


def _states(encoded: Mapping[str, Array]) -> Float[Array, 'l b n d']:
  """Input of the first layer, then every layer's output, the last one as the encoder gives it."""
  return jnp.concatenate([encoded['layers'][:-1], encoded['tokens'][None]])

"""wav2vec 2.0 (arXiv 2006.11477): masked frames are told apart from distractors by their codes.

Figures are those of fairseq's models/wav2vec/wav2vec2.py and examples/wav2vec/config/pretraining.
Letters: b batch, t samples, n frames, m masked places, d width, f contrastive width, k distractors.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError, unknown
from research.features.span_masks import most_masked, span_mask
from research.features.waveform import Waveform
from research.models import layers, quantizers, waveform
from research.models.convolutions import receptive_field

AnyArray = jax.Array | np.ndarray


class Size(NamedTuple):
  """A published size: fairseq's wav2vec2_base_librispeech and wav2vec2_large_librivox."""

  width: int
  depth: int
  heads: int
  hidden: int
  norm: str
  conv_bias: bool
  pre_norm: bool
  normalise: bool
  final_width: int
  dropout: float  # of branches, attention weights and inputs
  layer_drop: float
  gradient_scale: float
  temperature_end: float


SIZES = {
  'tiny': Size(192, 4, 3, 768, 'group', False, False, False, 64, 0.1, 0.0, 0.1, 0.5),  # ours
  'base': Size(768, 12, 12, 3072, 'group', False, False, False, 256, 0.1, 0.05, 0.1, 0.5),
  'large': Size(1024, 24, 16, 4096, 'group', False, False, False, 768, 0.1, 0.2, 0.1, 0.1),
  'large_lv60': Size(1024, 24, 16, 4096, 'layer', True, True, True, 768, 0.0, 0.0, 1.0, 0.1),
}
DTYPES = ('float32', 'bfloat16')


class Wav2Vec2(nn.Module):
  """The encoder with its quantiser and heads.

  Attributes:
    size: a key of SIZES; the attributes that are None take its figures.
    frontend: `features.Waveform` or its settings; `normalise` follows the size.
    channels: of the convolutions.
    norm: 'group' (first convolution, over time) or 'layer' (every convolution, over channels).
    pre_norm: transformer with norms before the branches.
    final_width: of the space in which context and targets are compared.
    groups, codes, code_width: of the quantiser; `code_width` is all groups together.
    mask_prob, mask_length, min_masks: of the span masks, see `features.span_mask`.
    negatives: distractors of every masked frame.
    temperature_start, temperature_end, temperature_decay: of the Gumbel softmax, by updates.
    gradient_scale: of the gradient that enters the convolutions (fairseq's feature_grad_mult).
    dropout, attention_dropout, activation_dropout, input_dropout, layer_drop: in training.
    padding: 'masked' or 'published', see `models/waveform.py`.
    quantise: False leaves out the quantiser: targets are a projection of the frames.
  """

  size: str = 'base'
  frontend: Any = None
  channels: int = 512
  # None takes the size's figure: `__post_init__` fills it in before anything reads it.
  width: int = None  # type: ignore[assignment]
  depth: int = None  # type: ignore[assignment]
  heads: int = None  # type: ignore[assignment]
  hidden: int = None  # type: ignore[assignment]
  norm: str = None  # type: ignore[assignment]
  conv_bias: bool = None  # type: ignore[assignment]
  pre_norm: bool = None  # type: ignore[assignment]
  final_width: int = None  # type: ignore[assignment]
  taps: int = 128
  tap_groups: int = 16
  quantise: bool = True
  groups: int = 2
  codes: int = 320
  code_width: int = None  # type: ignore[assignment]
  mask_prob: float = 0.65
  mask_length: int = 10
  min_masks: int = 2
  negatives: int = 100
  temperature_start: float = 2.0
  temperature_end: float = None  # type: ignore[assignment]
  temperature_decay: float = 0.999995
  gradient_scale: float = None  # type: ignore[assignment]
  dropout: float = None  # type: ignore[assignment]
  attention_dropout: float = None  # type: ignore[assignment]
  activation_dropout: float = 0.0
  input_dropout: float = None  # type: ignore[assignment]
  layer_drop: float = None  # type: ignore[assignment]
  padding: str = 'masked'
  dtype: str = 'float32'
  scan_layers: bool = False
  remat: bool = False
  attention: str | None = None

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of wav2vec 2.0', self.size, SIZES)
    table = SIZES[self.size]._asdict()
    normalise = table.pop('normalise')
    table |= dict(attention_dropout=table['dropout'], input_dropout=table['dropout'])
    table['code_width'] = table['final_width'] if self.final_width is None else self.final_width
    for name, value in table.items():
      if getattr(self, name) is None:
        object.__setattr__(self, name, value)
    sees = receptive_field(waveform.stem_layers())
    frontend = Waveform.of_stem(self.frontend, *sees, normalise=normalise)
    object.__setattr__(self, 'frontend', frontend)
    choices = dict(norm=waveform.NORMS, padding=waveform.PADDINGS, dtype=DTYPES)
    for name, known in choices.items():
      if getattr(self, name) not in known:
        raise unknown(f'{name} of wav2vec 2.0', getattr(self, name), known)
    for name, parts in (('width', 'heads'), ('width', 'tap_groups'), ('code_width', 'groups')):
      if getattr(self, name) % getattr(self, parts):
        raise InputError(
          f'wav2vec 2.0 got {name}={getattr(self, name)} and {parts}={getattr(self, parts)}; '
          f'{name} must be a multiple of {parts}.'
        )
    super().__post_init__()

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    self.extractor = waveform.FeatureExtractor(
      waveform.stem_layers(self.channels), self.norm, self.conv_bias, self.padding,
      self.gradient_scale, dtype,
    )  # fmt: skip
    # Compared with targets in float32, so normed in float32.
    self.feature_norm = layers.LayerNorm(waveform.EPSILON)
    torch = waveform.torch_linear
    self.project = layers.Dense(self.width, dtype, torch(self.channels), torch(self.channels))
    self.mask_token = self.param('mask_token', layers.unit, (self.width,))
    rates = waveform.Dropout(
      self.dropout, self.attention_dropout, self.activation_dropout, self.layer_drop
    )
    self.encoder = waveform.Encoder(
      self.depth, self.heads, self.hidden, self.pre_norm, rates, self.taps, self.tap_groups, dtype,
      self.scan_layers, self.remat, self.attention,
    )  # fmt: skip
    if self.quantise:
      self.quantizer = quantizers.GumbelQuantizer(self.groups, self.codes, self.code_width)
    target_width = self.code_width if self.quantise else self.channels
    f = self.final_width
    self.project_targets = layers.Dense(f, jnp.float32, torch(target_width), torch(target_width))
    self.project_context = layers.Dense(f, jnp.float32, torch(self.width), torch(self.width))
    self.updates = quantizers.count_updates(self)

  # -- Pre-training ----------------------------------------------------------------------------

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Masks spans, encodes, quantises what was hidden and draws distractors.

    Args:
      batch: 'audio' [b, t], 'audio_mask' [b, t]. Draws may be given: 'span_mask' [b, n] (shorter or
        longer is as good), 'negative_draws' int [b, m or more, k] below (masked frames - 1),
        'gumbel_noise' [b, m, g, k]; else they come from rngs 'mask' and 'noise'.
      train: dropout, Gumbel noise and the update counter act.

    Returns:
      what `objectives.contrastive.wav2vec2_contrastive` takes, and 'features' [b, n, c],
      'frame_mask', 'span_mask' [b, n], 'tokens' [b, n, d], 'layers', 'positions',
      'quantised', 'temperature',
      'embedding' [b, d]: mean of the real frames, whose spread tells a collapse.
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    features, real, normed = self._frames(batch['audio'], batch['audio_mask'])
    mask = self._spans(batch, real)
    encoded = self._encode(normed, real, mask, train)

    # The masked frames of every clip, first ones first, in as many places as there can ever be.
    most = most_masked(real.shape[1], self.mask_prob, self.mask_length, self.min_masks)
    places = jnp.argsort(~mask, axis=1, stable=True)[:, :most]
    used = jnp.take_along_axis(mask, places, axis=1)
    hidden = waveform.drop(self, _take(normed, places), self.input_dropout, train)

    out: dict[str, Any] = {}
    temperature = quantizers.falling_temperature(
      self, self.updates, self.temperature_start, self.temperature_end, self.temperature_decay,
      train,
    )  # fmt: skip
    if self.quantise:
      noise = batch.get('gumbel_noise')
      found = self.quantizer(hidden, used, temperature, noise, train)
      hidden = found.vectors
      out |= {
        'codes': found.codes,
        'best_codes': found.best,
        'code_logits': found.logits,
        'prob_perplexity': found.prob_perplexity,
        'code_perplexity': found.code_perplexity,
        'num_codes': self.groups * self.codes,
      }
    weight = real.astype(jnp.float32)
    if self.padding == 'published':
      weight = jnp.ones_like(weight)
    squares = jnp.square(features.astype(jnp.float32)).mean(axis=-1)
    return out | {
      'context': self.project_context(_take(encoded['tokens'], places).astype(jnp.float32)),
      'targets': self.project_targets(hidden),
      'used': used,
      'negatives': self._negatives(batch, used),
      'feature_penalty': (squares * weight).sum() / jnp.maximum(weight.sum(), 1.0),
      'features': features,
      'frame_mask': real,
      'span_mask': mask,
      'quantised': hidden,
      'temperature': temperature,
      'embedding': waveform.mean_frames(encoded['tokens'], real),
      **encoded,
    }

  def _frames(self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']):
    """Convolutional features, which are real, and the features normed."""
    audio, audio_mask = jnp.asarray(audio), jnp.asarray(audio_mask)
    features, real = self.extractor(self.frontend(audio, audio_mask), audio_mask)
    return features, real, self.feature_norm(features)

  def _encode(self, normed: Array, real: Array, mask: Array | None, train: bool):
    x = waveform.drop(self, self.project(normed), self.input_dropout, train)
    if mask is not None:
      x = jnp.where(mask[:, :, None], self.mask_token.astype(x.dtype), x)
    return {'projected': x, **self.encoder(x, real, train)}

  def _spans(self, batch: Mapping[str, Any], real: Bool[Array, 'b n']) -> Bool[Array, 'b n']:
    if 'span_mask' in batch:
      given = batch['span_mask'].astype(bool)[:, : real.shape[1]]
      return jnp.pad(given, ((0, 0), (0, real.shape[1] - given.shape[1]))) & real
    return span_mask(
      waveform.draw_key(self, 'mask'),
      real,
      prob=self.mask_prob,
      length=self.mask_length,
      min_masks=self.min_masks,
    )

  def _negatives(self, batch: Mapping[str, Any], used: Bool[Array, 'b m']) -> Int[Array, 'b m k']:
    """Places of other masked frames of the same clip, uniform with replacement."""
    b, m = used.shape
    others = jnp.maximum(used.sum(axis=1) - 1, 1)[:, None, None]
    draws = batch.get('negative_draws')
    if draws is None:
      shape = (b, m, self.negatives)
      draws = jax.random.randint(waveform.draw_key(self, 'mask'), shape, 0, others)
    draws = draws[:, :m]
    return draws + (draws >= jnp.arange(m)[None, :, None]).astype(jnp.int32)

  # -- Other views -----------------------------------------------------------------------------

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """Every layer's frames, 20 ms apart: l = 0 is the input of the first layer, the last one is
    what the encoder gives. Raises InputError below one frame."""
    _, real, normed = self._frames(audio, audio_mask)
    encoded = self._encode(normed, real, None, False)
    tokens = jnp.concatenate([encoded['layers'][:-1], encoded['tokens'][None]])
    return tokens.astype(jnp.float32), real


def _take(x: Float[Array, 'b n d'], places: Int[Array, 'b m']) -> Float[Array, 'b m d']:
  return jnp.take_along_axis(x, places[:, :, None], axis=1)

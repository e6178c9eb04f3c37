"""CLAP: audio and text in one space (LAION-CLAP, arXiv 2211.06687; Microsoft CLAP, 2206.04769 and
2309.05767).

An audio tower (HTSAT or Cnn14) and a text tower (RoBERTa, BERT or GPT-2), each with a projection;
audio and its caption are near each other. Upstream: LAION-AI/CLAP, commit 1fd4c37
(src/laion_clap); microsoft/CLAP, commit e8a6467 (msclap).
Letters: b batch, t samples, s spectrogram frames, f mel bins, u tokens of a text, d dimensions.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Embedding, Example
from research.errors import InputError, unknown
from research.features import clips
from research.features.frontend import Frontend
from research.features.fusion import fusion_spectrograms
from research.features.spectral import Array as AnyArray
from research.models import language
from research.models.cnn14 import CHANNELS, Cnn14, min_frames
from research.models.htsat import HTSAT
from research.models.settings import by_size, check_choices, fill
from research.nn import layers
from research.nn.kernels import gelu

AUDIO = ('htsat', 'cnn14')
PROJECTIONS = ('mlp', 'residual')
PADDINGS = ('repeat', 'tile', 'none')
# The largest factor of similarities (LAION clamps its logarithm).
MAX_SCALE = 100.0
_TINY = dict(depths=(2, 2, 6, 2), audio_heads=(4, 8, 16, 32), channels=CHANNELS)
_LAION: dict[str, Any] = dict(
  _TINY, audio='htsat', audio_width=96, text='roberta', dim=512, projection='mlp', transforms=True,
  seconds=10.0, padding='repeat', int16=True, max_tokens=77,
)  # fmt: skip
_MICROSOFT: dict[str, Any] = dict(
  _TINY, dim=1024, projection='residual', transforms=False, padding='tile', int16=False
)
_ROBERTA, _BERT, _GPT2 = (
  {k if k in ('vocabulary', 'positions') else f'text_{k}': v for k, v in sizes.items()}
  for sizes in (language.SIZES[k] for k in ('roberta', 'bert', 'gpt2'))
)

# clap_module/htsat.py (create_htsat_model) and model_configs/*.json of LAION; configs/*.yml and
# models/*.py of Microsoft; 'tiny' is ours.
SIZES: dict[str, dict[str, Any]] = {
  'tiny': dict(
    _LAION, **{**_ROBERTA, 'text_width': 64, 'text_depth': 2, 'text_heads': 2, 'text_hidden': 128},
    frontend='laion_clap',
  ) | dict(audio_width=16, depths=(2, 2, 2, 2), audio_heads=(2, 4, 4, 8), dim=64),
  'laion': dict(_LAION, **_ROBERTA, frontend='laion_clap'),
  'laion_base': dict(_LAION, **_ROBERTA, frontend='laion_clap')
  | dict(audio_width=128, depths=(2, 2, 12, 2)),
  'laion_large': dict(_LAION, **_ROBERTA, frontend='laion_clap')
  | dict(audio_width=256, depths=(2, 2, 12, 2)),
  'microsoft_2022': dict(
    _MICROSOFT, **_BERT, frontend='msclap_2022', audio='cnn14', audio_width=2048, text='bert',
    seconds=5.0, max_tokens=100,
  ),
  'microsoft_2023': dict(
    _MICROSOFT, **_GPT2, frontend='msclap_2023', audio='htsat', audio_width=96, text='gpt2',
    seconds=7.0, max_tokens=77,
  ),
}  # fmt: skip


class CLAP(nn.Module):
  """Two towers and their projections.

  Attributes:
    size: a key of SIZES, which gives the arguments that are None.
    frontend: settings of the audio front-end (`features.Frontend`) or the front-end itself.
    audio: 'htsat' or 'cnn14'. audio_width, depths, audio_heads: see `HTSAT`; audio_width and
      channels: see `Cnn14`.
    fusion: whether clips above `seconds` give four spectrograms (HTSAT alone).
    classes: of the tagging head of AudioSet that weights may hold; 0 leaves it out.
    text: a key of `language.KINDS`; vocabulary, positions, text_width, text_depth, text_heads,
      text_hidden, text_epsilon: see `language.TextEncoder`.
    dim: of the common space.
    projection: 'mlp' (LAION) or 'residual' (Microsoft).
    transforms: whether there are the further maps of LAION's weights, which only the loss with
      `mlp` uses.
    seconds: of a clip. Longer ones are cropped: at random in training, else at the start.
    padding: shorter ones are repeated, the last repetition dropped ('repeat', LAION) or cut
      ('tile', Microsoft); or 'none': all clips of a batch are taken as long as the batch is.
    int16: round the audio as 16-bit files have it.
    max_tokens: of a text, for tokenizers.
    dropout: of the text tower in training.
    drop_path: of HTSAT in training.
    dtype: of the computation of the towers; parameters are float32.
  """

  EMBEDDING: ClassVar[Embedding] = Embedding()
  TRAINING: ClassVar[tuple[str, ...]] = ('dropout', 'drop_path')
  MIXES_ROWS: ClassVar[bool] = True  # batch norm of the audio towers
  NEEDS: ClassVar[Mapping[str, str]] = {
    'text': 'give config.data.fields.text the column of the captions and a tokenizer'
  }

  size: str = 'laion'
  frontend: Any = None
  audio: str = by_size()
  audio_width: int = by_size()
  depths: Any = by_size()
  audio_heads: Any = by_size()
  channels: Any = by_size()
  fusion: bool = False
  classes: int = 0
  text: str = by_size()
  vocabulary: int = by_size()
  positions: int = by_size()
  text_width: int = by_size()
  text_depth: int = by_size()
  text_heads: int = by_size()
  text_hidden: int = by_size()
  text_epsilon: float = by_size()
  dim: int = by_size()
  projection: str = by_size()
  transforms: bool = by_size()
  seconds: float = by_size()
  padding: str = by_size()
  int16: bool = by_size()
  max_tokens: int = by_size()
  dropout: float = 0.1
  drop_path: float = 0.1
  dtype: str = 'float32'

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of CLAP', self.size, SIZES)
    figures = dict(text_epsilon=1e-5) | SIZES[self.size]
    usual = figures.pop('frontend')
    usual = 'laion_clap_fusion' if self.fusion and usual == 'laion_clap' else usual
    fill(self, figures)
    known = dict(
      audio=AUDIO, text=language.KINDS, projection=PROJECTIONS, padding=PADDINGS,
      dtype=layers.DTYPES,
    )  # fmt: skip
    check_choices('CLAP', self, known)
    for name in ('depths', 'audio_heads', 'channels'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    if not isinstance(self.frontend, Frontend):
      given = {'name': usual, **dict(self.frontend or {})}
      object.__setattr__(self, 'frontend', Frontend.from_dict(given))
    if self.fusion and (self.audio, self.padding) != ('htsat', 'repeat'):
      raise InputError(
        f"CLAP got fusion with audio={self.audio!r} and padding={self.padding!r}; it takes 'htsat' "
        "and 'repeat'."
      )
    if self.text_width % self.text_heads:
      raise InputError(
        f'CLAP got text_width={self.text_width} and text_heads={self.text_heads}; the first must '
        'be a multiple of the second.'
      )
    super().__post_init__()

  @property
  def samples(self) -> int:
    """Samples of a clip."""
    return round(self.seconds * self.frontend.sample_rate)

  def example(self) -> Example:
    """A clip of one frame, or of as many as Cnn14 needs, and a text of two tokens."""
    t = self.frontend.samples(min_frames(self.channels) if self.audio == 'cnn14' else 1)
    return {
      'audio': jax.ShapeDtypeStruct((1, t), jnp.float32),
      'audio_mask': jax.ShapeDtypeStruct((1, t), jnp.bool_),
      'text': jax.ShapeDtypeStruct((1, 2), jnp.int32),
      'text_mask': jax.ShapeDtypeStruct((1, 2), jnp.bool_),
    }

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    self.audio_tower: HTSAT | Cnn14
    if self.audio == 'htsat':
      self.audio_tower = HTSAT(
        self.audio_width, self.depths, self.audio_heads, self.fusion, self.classes, self.drop_path,
        dtype=dtype,
      )  # fmt: skip
    else:
      self.audio_tower = Cnn14(self.audio_width, self.channels, self.classes, dtype)
    self.text_tower = language.TextEncoder(
      vocabulary=self.vocabulary,
      positions=self.positions,
      width=self.text_width,
      depth=self.text_depth,
      heads=self.text_heads,
      hidden=self.text_hidden,
      epsilon=self.text_epsilon,
      dropout=self.dropout,
      dtype=dtype,
      **language.KINDS[self.text],
    )
    kind = Projection if self.projection == 'mlp' else ResidualProjection
    self.audio_projection, self.text_projection = kind(self.dim), kind(self.dim)
    if self.transforms:
      self.audio_transform, self.text_transform = (
        Projection(self.dim, 0.1),
        Projection(self.dim, 0.1),
      )
    start = nn.initializers.constant(math.log(1 / 0.07))
    names = ('logit_scale_a', 'logit_scale_t') if self.projection == 'mlp' else ('logit_scale_a',)
    self.scales = tuple(self.param(name, start, ()) for name in names)

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Embeds clips, and texts where the batch has any.

    Args:
      batch: 'audio' and 'audio_mask' [b, t], or un-normalised log-mels 'spectrogram' [b, s, f],
        with fusion [b, 4, s, f] and 'longer' [b]; 'text' and 'text_mask' [n, u]. Draws can be
        given: 'crop_start' [b], or with fusion 'piece_u' [b, 3] or 'piece_starts' [b, 3].
      train: crops are random, masks and dropout act.

    Returns:
      'audio_embedding' [b, d] and 'text_embedding' [n, d], normalised; 'audio_projected' and
      'text_projected', before that; 'audio_transformed' and 'text_transformed' where there are
      transforms; 'logit_scale' [1 or 2], the factors of similarities; 'similarity' [b, n];
      'embedding' [b, e] of the audio tower; 'audio_tower' and 'text_tower', all that they give.
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    out = self.embed_clips(batch, train)
    stored = jnp.stack([jnp.asarray(each) for each in self.scales])
    # The gradient of what is out of range is not lost: it may come back.
    limited = stored + jax.lax.stop_gradient(jnp.clip(stored, 0.0, math.log(MAX_SCALE)) - stored)
    scale = out['logit_scale'] = jnp.exp(limited)
    if 'text' in batch:
      out |= self.embed_texts(batch['text'], batch['text_mask'], train)
      pairs = jnp.einsum('bd,nd->bn', out['audio_embedding'], out['text_embedding'])
      out['similarity'] = scale[0] * pairs
    return out

  def embed_clips(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """The outputs of `__call__` that are of audio."""
    x, longer = self._input(batch, train)
    if self.fusion:
      if train and longer is not None:
        # Upstream makes one clip of a batch long where none is: the gates always learn.
        longer = longer | (~longer.any() & (jnp.arange(len(longer)) == 0))
      tower = self.audio_tower(x, longer, train=train)
    else:
      tower = self.audio_tower(x, train=train)
    projected = self.audio_projection(tower['embedding'], train)
    out: dict[str, Any] = {
      'embedding': tower['embedding'],
      'audio_projected': projected,
      'audio_embedding': unit(projected),
      'audio_tower': tower,
    }
    if self.transforms:
      out['audio_transformed'] = self.audio_transform(out['audio_embedding'], train)
    return out

  def embed_texts(
    self, ids: Int[AnyArray, 'n u'], mask: Bool[AnyArray, 'n u'], train: bool = False
  ) -> dict[str, Any]:
    """The outputs of `__call__` that are of text."""
    language.check_ids(ids, self.vocabulary)
    tower = self.text_tower(jnp.asarray(ids), jnp.asarray(mask), train)
    projected = self.text_projection(tower['pooled'], train)
    out: dict[str, Any] = {
      'text_projected': projected,
      'text_embedding': unit(projected),
      'text_tower': tower,
    }
    if self.transforms:
      out['text_transformed'] = self.text_transform(out['text_embedding'], train)
    return out

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """The tokens of the audio tower, behind its last norm: one layer.

    Audio of any length is cut into clips of `seconds`; those of a clip are in time, of HTSAT two
    for each moment. All tokens of a clip that begins in real audio count, its repetitions too, so
    that their mean is the published embedding. Raises InputError below one frame.
    """
    return embed_pieces(self, audio, audio_mask)

  # -- Input -------------------------------------------------------------------------------------

  def _input(self, batch, train: bool):
    if 'spectrogram' in batch:
      x = batch['spectrogram'].astype(jnp.float32)
      x = x if x.ndim == 4 else jnp.repeat(x[:, None], 4 if self.fusion else 1, axis=1)
      return x, batch.get('longer')
    if 'audio_mask' not in batch:
      raise InputError(
        "The batch holds 'audio' without 'audio_mask': give a boolean [b, t] mask, True for real "
        'samples.'
      )
    audio, mask = batch['audio'], batch['audio_mask']
    if self.padding == 'none':
      mask = jnp.ones(audio.shape, bool)
    if self.int16:
      audio = clips.int16_round_trip(jnp.where(mask, audio, 0.0))
    if self.fusion:
      u = batch.get('piece_u')
      if u is None:
        shape = (len(audio), 3)
        u = jax.random.uniform(self.make_rng('augment'), shape) if train else jnp.full(shape, 0.5)
      starts = batch.get('piece_starts')
      return fusion_spectrograms(self.frontend, audio, mask, u, samples=self.samples, starts=starts)
    if self.padding != 'none':
      cut_last = self.padding == 'tile'
      audio = fixed_clips(self, batch, audio, mask, train, cut_last=cut_last)
    raw, _ = self.frontend.raw(audio, jnp.ones(audio.shape, bool))
    return raw[:, None], None


# -- What CLAP and models on its weights have in common ----------------------------------------


def fixed_clips(
  model: Any, batch: Mapping[str, Any], audio: Array, mask: Array, train: bool, *, cut_last: bool
) -> Float[Array, 'b t']:
  """Clips of `model.samples`: longer ones cropped, at random in training, else at the start or at
  the batch's 'crop_start' [b]; shorter ones repeated, the last repetition cut or dropped."""
  start, size = batch.get('crop_start'), model.samples
  if start is None:
    start = jnp.zeros(len(audio), jnp.int32)
    if train and audio.shape[1] > size:
      room = jnp.maximum(mask.sum(axis=1) - size + 1, 1).astype(jnp.float32)
      u = jax.random.uniform(model.make_rng('augment'), room.shape)
      start = jnp.floor(u * room).astype(jnp.int32)
  audio, mask = clips.crop_or_pad(audio, mask, start, samples=size)
  return clips.repeat_pad(audio, mask, samples=size, cut_last=cut_last)


def embed_pieces(
  model: Any, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
  """`embed` of a model that has `samples` and `embed_clips`."""
  model.frontend.check(audio.shape[1])
  size, (b, t) = model.samples, audio.shape
  count = -(-t // size)
  pad = ((0, 0), (0, count * size - t))
  pieces = jnp.pad(jnp.asarray(audio), pad).reshape(b * count, size)
  masks = jnp.pad(jnp.asarray(audio_mask), pad).reshape(b * count, size)
  tower = model.embed_clips({'audio': pieces, 'audio_mask': masks})['audio_tower']
  tokens = tower['tokens'].astype(jnp.float32)
  tokens = tokens.reshape(1, b, -1, tokens.shape[-1])
  real = jnp.repeat(masks.any(axis=1).reshape(b, count), tokens.shape[2] // count, axis=1)
  return jnp.where(real[None, :, :, None], tokens, 0.0), real


class Projection(nn.Module):
  """Linear, ReLU, linear (LAION's clap_module/model.py)."""

  dim: int
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x: Float[Array, 'b e'], train: bool) -> Float[Array, 'b d']:
    y = nn.relu(layers.Dense(self.dim, name='fc1')(x))
    y = nn.Dropout(self.dropout, deterministic=not train)(y)
    return layers.Dense(self.dim, name='fc2')(y)


class ResidualProjection(nn.Module):
  """layer norm(y + W gelu(y)), y = V x, without biases (Microsoft's models/clap.py)."""

  dim: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b e'], train: bool) -> Float[Array, 'b d']:
    width, dtype = x.shape[-1], jnp.dtype('float32')
    first = self.param('fc1', layers.xavier(width, self.dim), (width, self.dim))
    second = self.param('fc2', layers.xavier(self.dim, self.dim), (self.dim, self.dim))
    y = layers.product(x, first, 1, dtype)
    z = layers.product(gelu(y), second, 1, dtype)
    z = nn.Dropout(0.5, deterministic=not train)(z)
    return layers.LayerNorm(1e-5, name='norm')(y + z)


def unit(x: Float[Array, 'b d']) -> Float[Array, 'b d']:
  """x / |x|; the floor keeps the gradient at zero finite (torch's normalize: 1e-12)."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))

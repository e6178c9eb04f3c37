"""clapcap: captions of clips, by GPT-2 behind a prefix made of Microsoft CLAP's audio embedding.

The mapper from an embedding to a prefix is ClipCap's (arXiv 2111.09734). Figures are those of
microsoft/CLAP, commit e8a6467 (msclap/models/mapper.py, configs/config_clapcap.yml).
Letters: b batch, t samples, s spectrogram frames, f mel bins, e dimensions of the embedding, n
vectors of the mapper, p vectors of the prefix, d width, h heads, k size of a head, r rows of text,
u tokens, v vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Embedding, Example
from research.errors import InputError, unknown
from research.features.frontend import Frontend
from research.features.spectral import Array as AnyArray
from research.models import language
from research.models.clap import ResidualProjection, embed_pieces, fixed_clips, unit
from research.models.htsat import HTSAT
from research.models.settings import by_size, check_choices, fill
from research.nn import layers
from research.nn.attention import attend
from research.nn.cache import State
from research.nn.kernels import Dtype

EPSILON = 1e-5
# Behind every caption in training; its first token ends one. GPT-2 reads it as two tokens, so that
# a caption ends with a lone blank (220), as upstream's search has it.
SUFFIX = ' <|endoftext|>'
# Tokens of a caption and hypotheses of its search upstream (CLAPWrapper.generate_caption).
ENTRY_LENGTH, BEAMS = 67, 5
_GPT2 = {
  k if k in ('vocabulary', 'positions') else f'text_{k}': v
  for k, v in language.SIZES['gpt2'].items()
}
SIZES: dict[str, dict[str, Any]] = {
  'clapcap_2023': dict(
    _GPT2, audio_width=96, depths=(2, 2, 6, 2), audio_heads=(4, 8, 16, 32), dim=1024, seconds=7.0,
    prefix_length=40, prefix_length_clip=40, num_layers=8, mapper_heads=8,
  ),
  'tiny': dict(  # ours
    _GPT2 | dict(text_width=64, text_depth=2, text_heads=2, text_hidden=128), audio_width=16,
    depths=(2, 2, 2, 2), audio_heads=(2, 4, 4, 8), dim=64, seconds=7.0, prefix_length=8,
    prefix_length_clip=8, num_layers=2, mapper_heads=2,
  ),
}  # fmt: skip


class Clapcap(nn.Module):
  """An audio tower, its projection, the mapper and GPT-2.

  Attributes:
    size: a key of SIZES, which gives the arguments that are None.
    frontend: settings of `features.Frontend` or the front-end itself.
    audio_width, depths, audio_heads, classes, dim, seconds: as in `clap.CLAP`.
    vocabulary, positions, text_width, text_depth, text_heads, text_hidden: of GPT-2.
    prefix_length: vectors that GPT-2 goes on from.
    prefix_length_clip: vectors that the embedding becomes before the mapper.
    num_layers, mapper_heads: of the mapper.
    normalize_prefix: whether the embedding has length 1.
    freeze_audio_encoder_weights, freeze_gpt_weights: in training they stay, without dropout, masks
      and statistics of batches.
    dropout: of GPT-2 in training, drop_path: of HTSAT.
    dtype: of the computation; parameters are float32.
  """

  EMBEDDING: ClassVar[Embedding] = Embedding()
  TRAINING: ClassVar[tuple[str, ...]] = (
    'dropout', 'drop_path', 'freeze_audio_encoder_weights', 'freeze_gpt_weights'
  )  # fmt: skip
  NEEDS: ClassVar[Mapping[str, str]] = {
    'text': 'give config.data.fields.text the column of the captions and a tokenizer'
  }

  fusion: ClassVar[bool] = False  # its HTSAT takes one spectrogram of a clip

  size: str = 'clapcap_2023'
  frontend: Any = None
  audio_width: int = by_size()
  depths: Any = by_size()
  audio_heads: Any = by_size()
  classes: int = 0
  dim: int = by_size()
  seconds: float = by_size()
  vocabulary: int = by_size()
  positions: int = by_size()
  text_width: int = by_size()
  text_depth: int = by_size()
  text_heads: int = by_size()
  text_hidden: int = by_size()
  prefix_length: int = by_size()
  prefix_length_clip: int = by_size()
  num_layers: int = by_size()
  mapper_heads: int = by_size()
  normalize_prefix: bool = True
  freeze_audio_encoder_weights: bool = True
  freeze_gpt_weights: bool = True
  dropout: float = 0.1
  drop_path: float = 0.1
  dtype: str = 'float32'

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of clapcap', self.size, SIZES)
    fill(self, SIZES[self.size])
    check_choices('clapcap', self, dict(dtype=layers.DTYPES))
    for name in ('depths', 'audio_heads'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    if not isinstance(self.frontend, Frontend):
      given = {'name': 'msclap_2023', **dict(self.frontend or {})}
      object.__setattr__(self, 'frontend', Frontend.from_dict(given))
    for name in ('text_heads', 'mapper_heads'):
      if self.text_width % getattr(self, name):
        raise InputError(
          f'clapcap got text_width={self.text_width} and {name}={getattr(self, name)}; the first '
          'must be a multiple of the second.'
        )
    if not 2 <= self.prefix_length < self.positions or self.prefix_length_clip < 1:
      raise InputError(
        f'clapcap got prefix_length={self.prefix_length} and prefix_length_clip='
        f'{self.prefix_length_clip}; the first is from 2 to below positions={self.positions}, the '
        'second 1 or more.'
      )
    super().__post_init__()

  @property
  def MIXES_ROWS(self) -> bool:
    """Whether batch norm of the audio tower takes statistics over the rows of a batch."""
    return not self.freeze_audio_encoder_weights

  @property
  def samples(self) -> int:
    """Samples of a clip."""
    return round(self.seconds * self.frontend.sample_rate)

  @property
  def frozen(self) -> Sequence[str]:
    """Paths of what never learns."""
    audio, gpt = ('^audio_tower/|^audio_projection/',), ('^text_tower/',)
    return (
      *(audio if self.freeze_audio_encoder_weights else ()),
      *(gpt if self.freeze_gpt_weights else ()),
    )

  def example(self) -> Example:
    """A clip of one frame and a text of two tokens."""
    t = self.frontend.min_samples
    return {
      'audio': jax.ShapeDtypeStruct((1, t), jnp.float32),
      'audio_mask': jax.ShapeDtypeStruct((1, t), jnp.bool_),
      'text': jax.ShapeDtypeStruct((1, 2), jnp.int32),
      'text_mask': jax.ShapeDtypeStruct((1, 2), jnp.bool_),
    }

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    self.audio_tower = HTSAT(
      self.audio_width, self.depths, self.audio_heads, False, self.classes, self.drop_path,
      dtype=dtype,
    )  # fmt: skip
    self.audio_projection = ResidualProjection(self.dim)
    self.mapper = Mapper(
      self.text_width, self.prefix_length, self.prefix_length_clip, self.num_layers,
      self.mapper_heads, dtype,
    )  # fmt: skip
    self.text_tower = language.PrefixWriter(
      self.vocabulary, self.positions, self.text_width, self.text_depth, self.text_heads,
      self.text_hidden, EPSILON, self.dropout, dtype,
    )  # fmt: skip

  # -- Training --------------------------------------------------------------------------------

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Logits of captions, with teacher forcing.

    Args:
      batch: 'audio' and 'audio_mask' [b, t], or un-normalised log-mels 'spectrogram' [b, s, f];
        'text' and 'text_mask' [b, u], captions with the suffix that ends them. 'crop_start' [b] can
        be given.
      train: crops are random; masks and dropout act on what learns.

    Returns:
      'logits' [b, u, v] float32 of every token of the text; 'prefix' [b, p, d]; 'audio_embedding'
      [b, e]; 'audio_projected', before its normalisation; 'embedding' and 'audio_tower' of HTSAT.
    """
    batch = jax.tree.map(jnp.asarray, dict(batch))
    out = self.embed_clips(batch, train)
    if 'text' not in batch:
      return out
    ids = jnp.where(batch['text_mask'], batch['text'], 0)
    acts = train and not self.freeze_gpt_weights
    return out | {'logits': self.text_tower(out['prefix'], ids, acts)}

  def embed_clips(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """The outputs of `__call__` that are of audio."""
    acts = train and not self.freeze_audio_encoder_weights
    if 'spectrogram' in batch:
      raw = jnp.asarray(batch['spectrogram']).astype(jnp.float32)
    else:
      audio, mask = batch['audio'], batch['audio_mask']
      audio = fixed_clips(self, batch, audio, mask, train, cut_last=True)
      raw, _ = self.frontend.raw(audio, jnp.ones(audio.shape, bool))
    tower = self.audio_tower(raw[:, None], train=acts)
    projected = self.audio_projection(tower['embedding'], acts)
    if self.freeze_audio_encoder_weights:
      projected = jax.lax.stop_gradient(projected)
    embedding = unit(projected) if self.normalize_prefix else projected
    return {
      'embedding': tower['embedding'],
      'audio_projected': projected,
      'audio_embedding': embedding,
      'audio_tower': tower,
      'prefix': self.mapper(embedding),
    }

  def embed(
    self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']
  ) -> tuple[Float[Array, 'l b n d'], Bool[Array, 'b n']]:
    """The tokens of the audio tower, as those of `clap.CLAP`."""
    return embed_pieces(self, audio, audio_mask)

  # -- Decoding: `capabilities.Generates` ------------------------------------------------------

  @property
  def vocab_size(self) -> int:
    """Number of tokens that have logits."""
    return self.vocabulary

  @property
  def max_tokens(self) -> int:
    """Tokens that a row can have behind the prefix, whose last vector is the first of them."""
    return self.positions - self.prefix_length + 1

  def remember_clips(self, audio: Float[AnyArray, 'b t'], audio_mask: Bool[AnyArray, 'b t']) -> Any:
    """Memories of clips: what GPT-2 keeps of their prefixes."""
    batch = {'audio': jnp.asarray(audio), 'audio_mask': jnp.asarray(audio_mask)}
    return self.text_tower.remember(self.embed_clips(batch)['prefix'])

  def start(self, rows: int, slots: int, memories: Any = None) -> State:
    """The state before the first token of N rows that take up to N tokens, padding included."""
    if memories is None:
      raise InputError('clapcap writes about clips: give memories, of `remember_clips`.')
    made = language.caches_of(self.text_depth, self.text_heads, self.text_width, self.dtype)
    return State(made(rows, slots), memories)

  def step(
    self,
    tokens: Int[AnyArray, 'r u'],
    state: State,
    real: Bool[AnyArray, 'r u'] | None = None,
    at: Int[AnyArray, 'r p'] | None = None,
  ) -> tuple[Float[Array, 'r p v'], State]:
    """Further tokens: logits behind each, or behind those `at`, and the next state. The first token
    of a row may be any: the last vector of the prefix is in its place."""
    real, at = (None if x is None else jnp.asarray(x) for x in (real, at))
    return self.text_tower.step(jnp.asarray(tokens), state, real, at)


# -- The mapper --------------------------------------------------------------------------------


class Mapper(nn.Module):
  """An embedding to a prefix: it becomes some vectors, learned ones come behind them, and what a
  transformer makes of these is the prefix (`TransformerMapper` upstream)."""

  width: int
  prefix_length: int
  prefix_length_clip: int
  num_layers: int
  heads: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b e']) -> Float[Array, 'b p d']:
    b, count = len(x), self.prefix_length_clip
    given = layers.Dense(count * self.width, self.dtype, name='linear')(x)
    shape = (self.prefix_length, self.width)
    learned = self.param('prefix_const', nn.initializers.normal(1.0), shape)
    learned = jnp.broadcast_to(learned.astype(self.dtype), (b, *shape))
    x = jnp.concatenate([given.reshape(b, count, self.width), learned], axis=1)
    for i in range(self.num_layers):
      x = MapperBlock(self.heads, self.dtype, name=f'layers_{i}')(x)
    return x[:, count:].astype(jnp.float32)


class MapperBlock(nn.Module):
  """x + attention, + MLP of twice the width with ReLU, each behind a norm."""

  heads: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    d = x.shape[-1]
    y = layers.LayerNorm(EPSILON, self.dtype, name='norm1')(x)
    queries = layers.HeadProjection(self.heads, d // self.heads, False, self.dtype, name='queries')
    shape = (d, 2, self.heads, d // self.heads)
    kernel = self.param('keys_values', layers.xavier(d, 2 * d), shape)
    both = layers.product(y, kernel, 1, self.dtype)
    y = attend(queries(y), both[:, :, 0], both[:, :, 1])
    x = x + layers.HeadsOut(self.dtype, name='project')(y)
    y = layers.LayerNorm(EPSILON, self.dtype, name='norm2')(x)
    y = nn.relu(layers.Dense(2 * d, self.dtype, name='fc1')(y))
    return x + layers.Dense(d, self.dtype, name='fc2')(y)

"""What language models that hear have in common, whether vectors of audio are among their tokens
(`audio_prompts`) or they attend to them through gates (`gated_audio`).

Letters: b prompts, r rows of text, u tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax
import flax.linen as nn
import jax.numpy as jnp

from research.capabilities import Embedding
from research.errors import InputError, unknown
from research.features.frontend import Frontend
from research.models.language_decoder import KINDS, LanguageModel
from research.models.settings import by_size, check_choices, fill
from research.nn import cache as caches
from research.nn import layers
from research.nn.positions import Rotary


@flax.struct.dataclass
class Kept:
  """What is kept from step to step: `language`, of the language model, and how many places of audio
  each row has had, `places` int32 [r]."""

  language: Any
  places: Any


class AnsweringModel(nn.Module):
  """A language model and what it hears.

  Attributes:
    size: a key of SIZES; the attributes that are None take its figures.
    frontend: settings of `features.Frontend`, or the front-end itself.
    audio_width, audio_depth, audio_heads, audio_hidden: of what makes vectors of audio.
    max_windows: windows of a clip that are heard.
    text_width, text_depth, text_heads, text_kv_heads, text_hidden, tied: of the language model.
    vocab_size, max_tokens: tokens, and how many a row can have.
    rope_base, epsilon: of the rotary turn (0 for none) and of the norms of the language model.
    audio_token: the placeholder.
    freeze: of FREEZABLE, those that never learn.
    dtype: of the computation; parameters are float32.
    scan_layers, remat, attention: see `layers.run_blocks` and `attention.attend`.
  """

  EMBEDDING: ClassVar[Embedding] = Embedding()
  FINETUNING: ClassVar[Mapping[str, Any]] = {}
  SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
  TITLE: ClassVar[str] = ''
  KIND: ClassVar[str] = ''  # of the language model
  PROMPT: ClassVar[str] = ''  # how it is spoken to, see `prompt`
  FREEZABLE: ClassVar[Mapping[str, str]] = {}  # parts, and paths of their parameters
  COUNTS: ClassVar[Sequence[str]] = ('max_windows', 'vocab_size', 'max_tokens')  # at least 1

  size: str = ''
  frontend: Any = None
  audio_width: int = by_size()
  audio_depth: int = by_size()
  audio_heads: int = by_size()
  audio_hidden: int = by_size()
  max_windows: int = by_size()
  text_width: int = by_size()
  text_depth: int = by_size()
  text_heads: int = by_size()
  text_kv_heads: int = by_size()
  text_hidden: int = by_size()
  tied: bool = by_size()
  vocab_size: int = by_size()
  max_tokens: int = by_size()
  rope_base: float = by_size()
  epsilon: float = by_size()
  audio_token: int = by_size()
  freeze: Any = ()
  dtype: str = 'float32'
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None

  def __post_init__(self):
    if self.size not in self.SIZES:
      raise unknown(f'size of {self.TITLE}', self.size, self.SIZES)
    figures = dict(self.SIZES[self.size])
    usual = figures.pop('frontend')
    fill(self, figures)
    if not isinstance(self.frontend, Frontend):
      object.__setattr__(self, 'frontend', Frontend.from_dict({**usual, **(self.frontend or {})}))
    check_choices(self.TITLE, self, {'dtype': layers.DTYPES})
    object.__setattr__(self, 'freeze', tuple(self.freeze))
    for part in self.freeze:
      if part not in self.FREEZABLE:
        raise unknown(f'part of {self.TITLE} to freeze', part, self.FREEZABLE)
    self._check()
    super().__post_init__()

  def _check(self) -> None:
    for width, heads in (('audio_width', 'audio_heads'), ('text_heads', 'text_kv_heads')):
      if getattr(self, heads) < 1 or getattr(self, width) % getattr(self, heads):
        raise InputError(
          f'{self.TITLE} got {width}={getattr(self, width)} and {heads}={getattr(self, heads)}; '
          'the first must be a multiple of the second.'
        )
    for name in self.COUNTS:
      if getattr(self, name) < 1:
        raise InputError(f'{self.TITLE} got {name}={getattr(self, name)}: give at least 1.')
    over = [place for place in self.places if not 0 <= place < self.vocab_size]
    if over:
      raise InputError(
        f'{self.TITLE} got the placeholder {over[0]} and vocab_size={self.vocab_size}: give one '
        'below it.'
      )

  def _language(self) -> dict[str, Any]:
    """Arguments of the language model."""
    return {
      **KINDS[self.KIND],
      'vocabulary': self.vocab_size,
      'width': self.text_width,
      'depth': self.text_depth,
      'heads': self.text_heads,
      'kv_heads': self.text_kv_heads,
      'hidden': self.text_hidden,
      'epsilon': self.epsilon,
      'tied': self.tied,
      'dtype': jnp.dtype(self.dtype),
      'scan_layers': self.scan_layers,
      'remat': self.remat,
      'attention': self.attention,
      **({'rotary': Rotary(self.rope_base)} if self.rope_base else {}),
    }

  @property
  def frozen(self) -> Sequence[str]:
    """Paths of what never learns."""
    return tuple(self.FREEZABLE[part] for part in self.freeze)

  @property
  def prompt(self) -> str:
    """How it is spoken to: a file of `text.prompts`."""
    return self.PROMPT

  @property
  def places(self) -> tuple[int, ...]:
    """Ids that stand for audio in a prompt."""
    return (self.audio_token,)

  def start(self, rows: int, slots: int, memories: Any = None) -> caches.State:
    """The state before the first token of N rows that take up to N tokens, padding included."""
    language = LanguageModel(**self._language(), parent=None)
    return caches.State(Kept(language.start(rows, slots), jnp.zeros(rows, jnp.int32)), memories)

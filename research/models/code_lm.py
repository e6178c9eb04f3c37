"""A language model of discrete audio: codes of a codec, or units of an encoder, one frame after the
other.

A causal transformer reads steps of codes and predicts the next step; several codebooks are laid
out by a pattern (`nn/code_patterns.py`). Delayed codebooks and sizes are MusicGen's (arXiv
2306.05284); the blocks are GPT-2's, positions are sines. It learns where clips end, and may be
conditioned on classes of clips, on vectors of them (a speaker) and on texts, to which every block
attends; dropped conditions make classifier-free guidance possible (arXiv 2207.12598).
Letters: b batch, u units, s steps, g codebooks, k codes, d width, v = k + 1, w width of a vector.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Float, Int

from research.capabilities import Example, Generation, audio_example
from research.errors import InputError, unknown
from research.features.waveform import Waveform
from research.models.code_lm_parts import (
  Conditions,
  Text,
  TextAttention,
  TextTrunk,
  real_symbols,
)
from research.models.language import NORMAL, TextBlock, caches_of
from research.models.settings import by_size, check_choices, fill, frozen
from research.nn import cache as caches
from research.nn import code_patterns, layers
from research.nn.positions import sinusoids


class Size(NamedTuple):
  """Of the transformer."""

  width: int
  depth: int
  heads: int
  hidden: int


# MusicGen's 300M, 1.5B and 3.3B (audiocraft, config/model/lm/model_scale); 'tiny' is ours.
SIZES = {
  'tiny': Size(width=192, depth=4, heads=4, hidden=768),
  'small': Size(width=1024, depth=24, heads=16, hidden=4096),
  'medium': Size(width=1536, depth=48, heads=24, hidden=6144),
  'large': Size(width=2048, depth=48, heads=32, hidden=8192),
}


class CodeLM(nn.Module):
  """Predicts the next codes.

  Attributes:
    size: a key of SIZES; the attributes that are None take its figures.
    frontend: of the audio that the codes are of; only its sample rate counts.
    num_clusters: how many codes there are; of several codebooks, how many each has.
    label_rate: frames of codes a second.
    pattern: see `code_patterns.PATTERNS`.
    max_steps: longest sequence of steps that the model is used on.
    conditions: {name in a batch: number of classes, or their names in order} of what clips are
      conditioned on.
    vectors: {name in a batch: width} of vectors that clips are conditioned on.
    text: what clips are conditioned on as a text, as dict(alphabet='english'): see
      `code_lm_parts.Text`. Empty for none.
    condition_dropout: fraction of training clips that lose their conditions, all at once.
    dropout: rate in training.
  """

  TITLE: ClassVar[str] = 'Code LM'
  TRAINING: ClassVar[Sequence[str]] = ('condition_dropout', 'dropout')
  GENERATOR: ClassVar[str] = 'code_by_code'

  size: str = 'tiny'
  frontend: Any = None
  num_clusters: int | Sequence[int] = 500
  label_rate: float = 50.0
  pattern: str = 'delay'
  max_steps: int = 2048
  conditions: Any = FrozenDict()
  vectors: Any = FrozenDict()
  text: Any = FrozenDict()
  condition_dropout: float = 0.1
  width: int = by_size()
  depth: int = by_size()
  heads: int = by_size()
  hidden: int = by_size()
  dropout: float = 0.1
  epsilon: float = 1e-5
  dtype: str = 'float32'

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of code_lm', self.size, SIZES)
    fill(self, SIZES[self.size]._asdict())
    check_choices('code_lm', self, {'dtype': layers.DTYPES, 'pattern': code_patterns.PATTERNS})
    for name in ('conditions', 'vectors', 'text'):
      object.__setattr__(self, name, frozen(getattr(self, name) or {}))
    if not isinstance(self.num_clusters, int):
      object.__setattr__(self, 'num_clusters', tuple(self.num_clusters))
    if not self.sets or min(self.sets) < 1:
      raise InputError(
        f'code_lm got num_clusters={self.num_clusters}: every codebook needs some codes.'
      )
    if self.width % self.heads or self.width % 2:
      raise InputError(
        f'code_lm got width={self.width} and heads={self.heads}; width must be even and a multiple '
        'of heads.'
      )
    self._check_conditions()
    given = self.frontend.to_dict() if isinstance(self.frontend, Waveform) else self.frontend
    rate = int((given or {}).get('sample_rate', 16_000))
    hop = rate / self.label_rate
    if hop != round(hop):
      raise InputError(
        f'code_lm got label_rate={self.label_rate:g} at {rate} Hz: a frame of codes has to be a '
        'whole number of samples.'
      )
    object.__setattr__(self, 'frontend', Waveform.of_stem(self.frontend, round(hop), round(hop)))
    super().__post_init__()

  # -- What it is ------------------------------------------------------------------------------

  @property
  def sets(self) -> tuple[int, ...]:
    """Number of codes of every codebook."""
    n = self.num_clusters
    return (n,) if isinstance(n, int) else tuple(n)

  @property
  def codebooks(self) -> int:
    """g."""
    return len(self.sets)

  @property
  def end(self) -> int:
    """k, the number behind the codes of the largest codebook: no code, and of the first codebook
    the end of a clip."""
    return max(self.sets)

  @property
  def label_counts(self) -> Mapping[str, int]:
    """Classes of the conditions."""
    return {n: x if isinstance(x, int) else len(x) for n, x in self.conditions.items()}

  @property
  def texts(self) -> Text | None:
    """What its texts are; None without."""
    return Text.of(self.text, 'code_lm') if self.text else None

  @property
  def spelling(self) -> Any:
    """The alphabet of its texts; None where they have none."""
    return self.texts.spelling if self.texts else None

  @property
  def text_units(self) -> tuple[int, bool] | None:
    """Number of units that its texts are made of, and whether runs of one count as one; None where
    they are not."""
    return (self.texts.units, self.texts.runs) if self.texts and self.texts.units else None

  @property
  def conditioned(self) -> bool:
    """Whether it is conditioned on anything."""
    return bool(self.conditions or self.vectors or self.text)

  @property
  def generation(self) -> Generation:
    """Codes of conditions; audio by a codec, see `inference.generators.code_by_code`."""
    spelt = {} if self.spelling is None else {'text': self.spelling.encode}
    return Generation(
      labels=dict(self.conditions),
      source='units' if self.text_units else 'none',
      texts=dict.fromkeys(spelt, 'what is said'),
      spelt=spelt,
      vectors=dict(self.vectors),
      max_seconds=self.max_steps / self.label_rate,
    )

  @property
  def NEEDS(self) -> Mapping[str, str]:
    """Fields of a batch."""
    found = {
      'units': 'The model learns from codes: set config.data.fields.units to a folder of them, '
      'which python -m launch.label_kmeans makes of an encoder, and launch.codec of a codec.'
    }
    for name in self.conditions:
      found[name] = (
        f'code_lm is conditioned on {name!r}: set config.data.fields.{name} to '
        f"dict(name='label', args=dict(column='{name}')), or leave it out of conditions."
      )
    for name in self.vectors:
      found[name] = (
        f'code_lm is conditioned on vectors {name!r}: set config.data.fields.{name} to '
        "dict(name='vectors', args=dict(path=FILE)) with a file of python -m launch.embed, or "
        'leave it out of vectors.'
      )
    if self.text:
      found['text'] = (
        "code_lm reads texts: set config.data.fields.text to dict(name='spoken'), or for units "
        "to dict(name='unit_text', args=dict(path=FOLDER)), or leave out config.model.args.text."
      )
    return found

  def example(self) -> Example:
    """One frame of codes of one clip."""
    found = {
      **audio_example(self.frontend),
      'units': jax.ShapeDtypeStruct((1, 1, self.codebooks), jnp.int32),
    }
    found |= {name: jax.ShapeDtypeStruct((1,), jnp.int32) for name in self.conditions}
    found |= {n: jax.ShapeDtypeStruct((1, w), jnp.float32) for n, w in self.vectors.items()}
    if self.texts and self.texts.states:
      found['text'] = jax.ShapeDtypeStruct((1, 1, self.texts.states), jnp.float32)
      found['text_mask'] = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    elif self.texts:
      found['text'] = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return found

  # -- Parameters ------------------------------------------------------------------------------

  def setup(self):
    dtype, v = jnp.dtype(self.dtype), self.end + 1
    self.tables = self.param('codes', NORMAL, (self.codebooks, v, self.width))
    self.first = self.param('start', NORMAL, (self.width,))
    self.classes = {
      # The row behind the classes is for clips without.
      name: self.param(f'condition_{name}', NORMAL, (count + 1, self.width))
      for name, count in self.label_counts.items()
    }
    # The row behind the kernel is for clips without a vector.
    self.projections = {
      name: self.param(f'vector_{name}', NORMAL, (width + 1, self.width))
      for name, width in self.vectors.items()
    }
    if self.texts:
      own, last = self.texts, (self.epsilon, self.dropout, dtype)
      self.reader = TextTrunk(
        own.symbols, self.width, own.depth, own.heads or self.heads, own.hidden or self.hidden,
        own.max_tokens, *last,
      )  # fmt: skip
      self.attending = [TextAttention(self.width, self.heads, *last) for _ in range(self.depth)]
    how = self.heads, self.hidden, True, True, True, self.epsilon, self.dropout, dtype
    self.blocks = [TextBlock(*how) for _ in range(self.depth)]
    self.norm = layers.LayerNorm(self.epsilon, dtype)
    self.out = layers.Dense(self.codebooks * v, dtype, NORMAL)
    self.drop = nn.Dropout(self.dropout)

  # -- All at once -----------------------------------------------------------------------------

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Logits of every step behind those before it.

    Args:
      batch: 'units' int [b, u, g], negative behind the end of a clip; the `conditions`, int [b];
        the `vectors`, float [b, w], NaN for none; 'text' int [b, u], negative behind its end, or
        states float [b, u, w] with 'text_mask' [b, u].
      train: dropout acts, conditions are dropped.

    Returns:
      what `objectives.autoregressive.next_codes` takes: 'logits' float32 [b, s, g, k + 1], -inf for
      codes that a codebook does not have, and 'targets' int [b, s, g], -1 where nothing is to be
      predicted. The first frame behind a clip is its end, for the first codebook alone. And
      'states' [b, s, d] behind the last layer, 'real' [b, s], the steps of a clip. With texts also
      'alignment' [b, s, u], the log of how much steps attend to each symbol in the layer `aligned`,
      and 'text_real' [b, u], the symbols of clips that have their text.

    Raises:
      InputError: more steps than `max_steps`.
    """
    units = jnp.asarray(batch['units'])
    frames, there, targets = self.layout(units)
    self._check(frames.shape[1])
    dropped = None
    if train and self.conditioned and self.condition_dropout:
      draws = jax.random.uniform(self.make_rng('dropout'), (len(units),))
      dropped = draws < self.condition_dropout
    given = self.condition(batch, dropped, train)
    x = self._read(frames[:, :-1], given)
    x = self.drop(x, deterministic=not train)
    aligned: list[Array] = []
    for i, block in enumerate(self.blocks):
      x = block(x, None, train, between=self._between(i, given, train, aligned))
    x = self.norm(x)
    real = there.any(axis=-1)
    out = {'logits': self._logits(x), 'states': x, 'targets': targets, 'real': real}
    if given is not None and given.texts is not None:
      seen = given.texts[0].mask[:, 1:]
      out |= {'alignment': aligned[0], 'text_real': seen}
    return out

  def layout(
    self, units: Int[Array, 'b u g']
  ) -> tuple[Int[Array, 'b s g'], Bool[Array, 'b s g'], Int[Array, 'b s g']]:
    """(steps of codes, `end` where there are none; where they are; what is to be predicted)."""
    real = (units >= 0).all(axis=-1, keepdims=True)
    lengths = real[:, :, 0].sum(axis=1)
    ends = (jnp.arange(units.shape[1])[None] == lengths[:, None])[:, :, None]
    first = jnp.arange(self.codebooks) == 0
    codes = jnp.where(real, units, self.end)
    goals = jnp.where(real, units, jnp.where(ends & first, self.end, -1))
    laid = [
      code_patterns.lay_out(x, self.pattern, nothing)
      for x, nothing in (
        (codes, self.end),
        (jnp.broadcast_to(real, units.shape), False),
        (goals, -1),
      )
    ]
    return laid[0], laid[1], laid[2]

  def condition(
    self,
    given: Mapping[str, Any],
    dropped: Bool[Array, ' b'] | None = None,
    train: bool = False,
  ) -> Conditions | None:
    """What steps are conditioned on; None where there are no conditions.

    Args:
      given: classes, -1 for none, vectors and texts, as in a batch.
      dropped: rows that lose them.
      train: dropout acts in the trunk of texts.

    Raises:
      InputError: a condition that is not given, or a text that is too long.
    """
    if not self.conditioned:
      return None
    return Conditions(self._added(given, dropped), self._remembered(given, dropped, train))

  def _added(self, given, dropped) -> Float[Array, 'b d'] | None:
    """The sum of the embeddings of classes and of vectors."""
    each = []
    for name, count in self.label_counts.items():
      if name not in given:
        raise InputError(f'code_lm is conditioned on {name!r}: give a class from 0 to {count - 1}.')
      number = jnp.asarray(given[name])
      number = jnp.where((number < 0) | (number >= count), count, number)
      if dropped is not None:
        number = jnp.where(dropped, count, number)
      each.append(self.classes[name][number])
    for name, width in self.vectors.items():
      if name not in given:
        raise InputError(f'code_lm is conditioned on {name!r}: give a vector of {width} numbers.')
      vector = jnp.asarray(given[name], jnp.float32)
      if vector.shape[-1] != width:
        raise InputError(
          f'code_lm is conditioned on {name!r} of {width} numbers, and got {vector.shape[-1]}: '
          'give vectors of the model that it learned with.'
        )
      none = jnp.isnan(vector).any(axis=-1)
      none = none if dropped is None else none | dropped
      table = self.projections[name]
      own = jnp.where(none[:, None], 0.0, vector) @ table[:-1]
      each.append(jnp.where(none[:, None], table[-1], own))
    return sum(each[1:], each[0]) if each else None

  def _remembered(self, given, dropped, train: bool) -> tuple[caches.Memory, ...] | None:
    """Keys and values of the texts in every layer; without its text a row has a vector for that."""
    if not self.texts:
      return None
    if 'text' not in given or (self.texts.states and 'text_mask' not in given):
      needed = 'text and text_mask' if self.texts.states else 'text'
      raise InputError(f'code_lm reads texts: give {needed}.')
    text = jnp.asarray(given['text'])
    real = jnp.asarray(given['text_mask']) if self.texts.states else real_symbols(text)
    context = self.reader(text, real, train)
    seen = real if dropped is None else real & ~dropped[:, None]
    seen = jnp.pad(seen, ((0, 0), (1, 0)), constant_values=True)
    return tuple(each.remember(context, seen) for each in self.attending)

  def _between(self, i: int, given: Conditions | None, train: bool, aligned: list[Array]):
    """The attention of a layer to texts, as its block takes it; `aligned` gets the alignment."""
    if given is None or given.texts is None:
      return None
    attend, memory = self.attending[i], given.texts[i]

    def between(x: Float[Array, 'b s d']) -> Float[Array, 'b s d']:
      if i == self.aligned:
        aligned.append(attend.alignment(x, memory))
      return attend(x, memory, train)

    return between

  # -- Step by step ----------------------------------------------------------------------------

  def start(self, rows: int, slots: int, memories: Any = None) -> caches.State:
    """The state before the first step; `memories` as `condition` gives it."""
    empty = caches_of(self.depth, self.heads, self.width, self.dtype)(rows, slots)
    return caches.State(empty, memories)

  def step(
    self, codes: Int[Array, 'r s g'], state: caches.State
  ) -> tuple[Float[Array, 'r s g v'], caches.State]:
    """Steps of codes that come next -> (logits of the steps behind each, the next state). The very
    first step of a row is the start of a clip, whatever its codes are."""
    order = caches.token_positions(caches.first_cache(state.caches), codes.shape[1], None)
    given: Conditions | None = state.memories
    x, made = self._embed(codes, order, given), []
    for i, (block, cache) in enumerate(zip(self.blocks, state.caches, strict=True)):
      between = None
      if given is not None and given.texts is not None:
        between = functools.partial(self.attending[i], memory=given.texts[i])
      x, cache = block(x, None, False, cache, between=between)
      made.append(cache)
    return self._logits(self.norm(x)), state.after(tuple(made))

  # -- Parts -----------------------------------------------------------------------------------

  def _read(self, codes: Int[Array, 'b s g'], given: Conditions | None):
    """Inputs of all steps: the start, then the steps before."""
    ahead = jnp.pad(codes, ((0, 0), (1, 0), (0, 0)))
    order = jnp.broadcast_to(jnp.arange(ahead.shape[1])[None], ahead.shape[:2])
    return self._embed(ahead, order, given)

  def _embed(self, codes, order, given: Conditions | None):
    books = jnp.arange(self.codebooks)
    x = self.tables[books, codes].sum(axis=-2)
    x = jnp.where((order == 0)[:, :, None], self.first, x)
    if given is not None and given.added is not None:
      x = x + given.added[:, None]
    places = jnp.asarray(sinusoids(self.max_steps, self.width))
    return (x + places[jnp.minimum(order, self.max_steps - 1)]).astype(self.dtype)

  def _logits(self, x: Float[Array, 'b s d']) -> Float[Array, 'b s g v']:
    y = self.out(x).astype(jnp.float32)
    y = y.reshape(*y.shape[:2], self.codebooks, self.end + 1)
    return jnp.where(jnp.asarray(self.allowed), y, -jnp.inf)

  @property
  def allowed(self) -> Bool[np.ndarray, 'g v']:
    """Which outputs there are: the codes of each codebook, and for the first the end."""
    found = np.arange(self.end + 1)[None] < np.array(self.sets)[:, None]
    found[0, self.end] = True
    return found

  @property
  def aligned(self) -> int:
    """The layer whose attention follows the text."""
    own = self.texts.aligned if self.texts else None
    return self.depth // 2 if own is None else own

  def _check_conditions(self) -> None:
    names = [*self.conditions, *self.vectors, *(['text'] if self.text else [])]
    taken = {'units', 'audio', 'audio_mask', 'text_mask'} & set(names)
    if taken or len(set(names)) < len(names):
      raise InputError(
        f'code_lm got conditions {names}: each needs a name of its own, none of units, audio and '
        'text_mask.'
      )
    if any(width < 1 for width in self.vectors.values()):
      raise InputError(f'code_lm got vectors={dict(self.vectors)}: a vector needs some width.')
    if self.texts and not 0 <= self.aligned < self.depth:
      raise InputError(
        f'code_lm got text.aligned={self.aligned} and {self.depth} layers: give a layer from 0.'
      )

  def _check(self, count: int) -> None:
    if count > self.max_steps:
      raise InputError(
        f'Clips have {count} steps of codes, and code_lm max_steps={self.max_steps}: cut the clips '
        '(config.data.seconds), or raise config.model.args.max_steps.'
      )

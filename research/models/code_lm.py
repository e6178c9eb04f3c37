"""A language model of discrete audio: codes of a codec, or units of an encoder, one frame after the
other.

A causal transformer reads steps of codes and predicts the next step; several codebooks are laid
out by a pattern (`nn/code_patterns.py`). Delayed codebooks and sizes are MusicGen's (arXiv
2306.05284); the blocks are GPT-2's, positions are sines. It learns where clips end, and may be
conditioned on classes of clips; dropped classes make classifier-free guidance possible
(arXiv 2207.12598).
Letters: b batch, u units, s steps, g codebooks, k codes, d width, v = k + 1.
"""

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


# MusicGen's 300M, 1.5B and 3.3B (audiocraft, config/model/lm/model_scale), whose blocks also attend
# to texts; 'tiny' is ours.
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
    conditions: {name in a batch: number of classes} of what clips are conditioned on.
    condition_dropout: fraction of training clips that lose their conditions.
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
    object.__setattr__(self, 'conditions', frozen(self.conditions or {}))
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
    return dict(self.conditions)

  @property
  def generation(self) -> Generation:
    """Codes of classes; audio by a codec, see `inference.generators.code_by_code`."""
    return Generation(labels=dict(self.conditions), max_seconds=self.max_steps / self.label_rate)

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
    return found

  def example(self) -> Example:
    """One frame of codes of one clip."""
    found = {
      **audio_example(self.frontend),
      'units': jax.ShapeDtypeStruct((1, 1, self.codebooks), jnp.int32),
    }
    return found | {name: jax.ShapeDtypeStruct((1,), jnp.int32) for name in self.conditions}

  # -- Parameters ------------------------------------------------------------------------------

  def setup(self):
    dtype, v = jnp.dtype(self.dtype), self.end + 1
    self.tables = self.param('codes', NORMAL, (self.codebooks, v, self.width))
    self.first = self.param('start', NORMAL, (self.width,))
    self.classes = {
      # The row behind the classes is for clips without.
      name: self.param(f'condition_{name}', NORMAL, (count + 1, self.width))
      for name, count in self.conditions.items()
    }
    how = self.heads, self.hidden, True, True, True, self.epsilon, self.dropout, dtype
    self.blocks = [TextBlock(*how) for _ in range(self.depth)]
    self.norm = layers.LayerNorm(self.epsilon, dtype)
    self.out = layers.Dense(self.codebooks * v, dtype, NORMAL)
    self.drop = nn.Dropout(self.dropout)

  # -- All at once -----------------------------------------------------------------------------

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Logits of every step behind those before it.

    Args:
      batch: 'units' int [b, u, g], negative behind the end of a clip; the `conditions`, int [b].
      train: dropout acts, conditions are dropped.

    Returns:
      what `objectives.autoregressive.next_codes` takes: 'logits' float32 [b, s, g, k + 1], -inf for
      codes that a codebook does not have, and 'targets' int [b, s, g], -1 where nothing is to be
      predicted. The first frame behind a clip is its end, for the first codebook alone. And
      'states' [b, s, d] behind the last layer, 'real' [b, s], the steps of a clip.

    Raises:
      InputError: more steps than `max_steps`.
    """
    units = jnp.asarray(batch['units'])
    frames, there, targets = self.layout(units)
    self._check(frames.shape[1])
    dropped = None
    if train and self.conditions and self.condition_dropout:
      draws = jax.random.uniform(self.make_rng('dropout'), (len(units),))
      dropped = draws < self.condition_dropout
    x = self._read(frames[:, :-1], self.condition(batch, dropped))
    x = self.drop(x, deterministic=not train)
    for block in self.blocks:
      x = block(x, None, train)
    x = self.norm(x)
    return {'logits': self._logits(x), 'states': x, 'targets': targets, 'real': there.any(axis=-1)}

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
    self, given: Mapping[str, Any], dropped: Bool[Array, ' b'] | None = None
  ) -> Float[Array, 'b d'] | None:
    """The sum of the embeddings of classes, -1 for none; None where there are no conditions.

    Raises:
      InputError: a condition that is not given.
    """
    total = None
    for name, count in self.conditions.items():
      if name not in given:
        raise InputError(f'code_lm is conditioned on {name!r}: give a class from 0 to {count - 1}.')
      number = jnp.asarray(given[name])
      number = jnp.where((number < 0) | (number >= count), count, number)
      if dropped is not None:
        number = jnp.where(dropped, count, number)
      own = self.classes[name][number]
      total = own if total is None else total + own
    return total

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
    x, made = self._embed(codes, order, state.memories), []
    for block, cache in zip(self.blocks, state.caches, strict=True):
      x, cache = block(x, None, False, cache)
      made.append(cache)
    return self._logits(self.norm(x)), state.after(tuple(made))

  # -- Parts -----------------------------------------------------------------------------------

  def _read(self, codes: Int[Array, 'b s g'], condition: Float[Array, 'b d'] | None):
    """Inputs of all steps: the start, then the steps before."""
    ahead = jnp.pad(codes, ((0, 0), (1, 0), (0, 0)))
    order = jnp.broadcast_to(jnp.arange(ahead.shape[1])[None], ahead.shape[:2])
    return self._embed(ahead, order, condition)

  def _embed(self, codes, order, condition):
    books = jnp.arange(self.codebooks)
    x = self.tables[books, codes].sum(axis=-2)
    x = jnp.where((order == 0)[:, :, None], self.first, x)
    if condition is not None:
      x = x + condition[:, None]
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

  def _check(self, count: int) -> None:
    if count > self.max_steps:
      raise InputError(
        f'Clips have {count} steps of codes, and code_lm max_steps={self.max_steps}: cut the clips '
        '(config.data.seconds), or raise config.model.args.max_steps.'
      )

"""The text trunk: BERT, RoBERTa and GPT-2 as one transformer with options; GPT-2 that writes.

Sources: BERT (arXiv 1810.04805), RoBERTa (1907.11692), GPT-2 (Radford et al. 2019), as
transformers computes them (modeling_bert.py, modeling_roberta.py, modeling_gpt2.py).
Letters: b batch, r rows of text, u tokens, p vectors of a prefix, d width, h heads, k size of a
head, m slots, v vocabulary, l layers.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError, unknown
from research.nn import cache as caches
from research.nn import layers
from research.nn.attention import attend, visible
from research.nn.kernels import Dtype, gelu, similarities
from research.nn.kernels.attention import Drop

# What one vector of a text is: the first token through a layer with tanh (RoBERTa's pooler), the
# first token, or the last one.
POOLINGS = ('first_tanh', 'first', 'last')
NORMAL = nn.initializers.normal(0.02)

# {kind: arguments of TextEncoder beside the sizes}
KINDS: dict[str, dict[str, Any]] = {
  'roberta': dict(pooling='first_tanh', types=1, offset=2),
  'bert': dict(pooling='first', types=2),
  'gpt2': dict(pooling='last', pre_norm=True, causal=True, tanh_gelu=True),
}
# roberta-base, bert-base-uncased and gpt2; tokens and positions of their tables.
BASE = dict(width=768, depth=12, heads=12, hidden=3072)
SIZES: dict[str, dict[str, Any]] = {
  'roberta': dict(BASE, vocabulary=50265, positions=514),
  'bert': dict(BASE, vocabulary=30522, positions=512, epsilon=1e-12),
  'gpt2': dict(BASE, vocabulary=50257, positions=1024),
}


class TextBlock(nn.Module):
  """Attention and MLP, each with its norm behind the sum (BERT) or before the branch (GPT-2)."""

  heads: int
  hidden: int
  pre_norm: bool
  causal: bool
  tanh_gelu: bool
  epsilon: float
  dropout: float
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b u d'],
    real: Bool[Array, 'b u'] | None,
    train: bool,
    cache: caches.Cache | None = None,
    memory: caches.Memory | None = None,
    between: Callable[[Array], Array] | None = None,
  ) -> Any:
    """x; with a cache (x, the next cache). Causal tokens come behind those of the cache, which come
    behind those of the memory; one of fewer rows is shared by as many neighbouring rows of x.
    `between`: what is added behind the attention, as that to another sequence (with `pre_norm`)."""
    norm1 = layers.LayerNorm(self.epsilon, self.dtype, name='norm1')
    norm2 = layers.LayerNorm(self.epsilon, self.dtype, name='norm2')
    y, after = self._attention(norm1(x) if self.pre_norm else x, real, train, cache, memory)
    if self.pre_norm:
      x = x + y
      x = x if between is None else x + between(x)
      x = x + self._mlp(norm2(x), train)
    else:
      x = norm1(x + y)
      x = norm2(x + self._mlp(x, train))
    return x if cache is None else (x, after)

  def _attention(self, x, real, train: bool, cache, memory):
    q, k, v = layers.HeadsIn(self.heads, self.dtype, NORMAL, name='qkv')(x)
    if cache is None:
      drop = Drop(self.make_rng('dropout'), self.dropout) if train and self.dropout else None
      y = attend(q, k, v, real, causal=self.causal, drop=drop)
    else:
      y, cache = behind(q, k, v, real, cache, memory)
    y = layers.HeadsOut(self.dtype, NORMAL, name='proj')(y)
    return nn.Dropout(self.dropout, deterministic=not train)(y), cache

  def _mlp(self, x, train: bool):
    y = layers.Dense(self.hidden, self.dtype, NORMAL, name='fc1')(x)
    y = jax.nn.gelu(y, approximate=True) if self.tanh_gelu else gelu(y)
    y = layers.Dense(x.shape[-1], self.dtype, NORMAL, name='fc2')(y)
    return nn.Dropout(self.dropout, deterministic=not train)(y)


def behind(
  q: Float[Array, 'r u h k'],
  k: Float[Array, 'r u h k'],
  v: Float[Array, 'r u h k'],
  real: Bool[Array, 'r u'] | None,
  cache: caches.Cache,
  memory: caches.Memory | None,
) -> tuple[Float[Array, 'r u h k'], caches.Cache]:
  """Causal attention of new tokens to those of a memory, of the cache, and to each other; and the
  next cache."""
  order = caches.token_positions(cache, q.shape[1], real)
  cache, seen = caches.append(cache, k, v, real)
  allowed = visible(order, seen.positions, True, None)
  taken, keys, values = seen.positions != caches.EMPTY, seen.keys, seen.values
  if memory is not None:
    ahead = memory.keys.shape[2]
    before = [
      jnp.repeat(x.swapaxes(1, 2).astype(q.dtype), len(q) // len(x), axis=0)
      for x in (memory.keys, memory.values)
    ]
    keys, values = (jnp.concatenate(pair, axis=1) for pair in zip(before, (keys, values)))
    taken = jnp.pad(taken, ((0, 0), (ahead, 0)), constant_values=True)
    allowed = jnp.pad(allowed, ((0, 0), (0, 0), (0, 0), (ahead, 0)), constant_values=True)
  return attend(q, keys, values, taken, mask=allowed), cache


class TextEncoder(nn.Module):
  """Ids of tokens to states, and to one vector a text.

  Attributes:
    vocabulary, positions: rows of the tables of tokens and positions.
    width, depth, heads, hidden: of the transformer.
    types: rows of the table of token types, of which texts have the first; 0 for none.
    offset: row of the first position. RoBERTa has the row before it for padding.
    pre_norm: norm before each branch and one behind the last layer; else behind each sum, and one
      on the embeddings.
    causal: tokens do not attend to later ones.
    tanh_gelu: GELU by its tanh formula.
    pooling: see POOLINGS.
    epsilon: of the layer norms.
    dropout: rate of states and attention weights in training.
  """

  vocabulary: int
  positions: int
  width: int
  depth: int
  heads: int
  hidden: int
  types: int = 0
  offset: int = 0
  pre_norm: bool = False
  causal: bool = False
  tanh_gelu: bool = False
  pooling: str = 'first'
  epsilon: float = 1e-5
  dropout: float = 0.1
  dtype: Any = jnp.float32

  def __post_init__(self):
    if self.pooling not in POOLINGS:
      raise unknown('pooling of a text', self.pooling, POOLINGS)
    super().__post_init__()

  @property
  def longest(self) -> int:
    """Tokens that have a position."""
    return self.positions - self.offset

  @nn.compact
  def __call__(
    self, ids: Int[Array, 'b u'], real: Bool[Array, 'b u'], train: bool = False
  ) -> dict[str, Any]:
    """'pooled' [b, d], 'embedded' [b, u, d] (what enters the first layer), 'layers' (outputs of
    all) and 'tokens' [b, u, d].

    Raises:
      InputError: more tokens than positions.
    """
    if ids.shape[1] > self.longest:
      raise InputError(
        f'A text has {ids.shape[1]} tokens, and this model {self.longest} positions: cut the text '
        '(max_tokens).'
      )
    x = self._embedded(ids, real)
    if not self.pre_norm:
      x = layers.LayerNorm(self.epsilon, self.dtype, name='embed_norm')(x)
    embedded = x = nn.Dropout(self.dropout, deterministic=not train)(x)
    outputs = []
    for i in range(self.depth):
      block = TextBlock(
        self.heads, self.hidden, self.pre_norm, self.causal, self.tanh_gelu, self.epsilon,
        self.dropout, self.dtype, name=f'blocks_{i}',
      )  # fmt: skip
      x = block(x, real, train)
      outputs.append(x)
    if self.pre_norm:
      x = layers.LayerNorm(self.epsilon, self.dtype, name='norm')(x)
    return {
      'pooled': self._pooled(x, real),
      'embedded': embedded,
      'layers': outputs,
      'tokens': x,
    }

  def _embedded(self, ids, real):
    table = self.param('tokens', NORMAL, (self.vocabulary, self.width))
    places = self.param('positions', NORMAL, (self.positions, self.width))
    at = jnp.arange(ids.shape[1])[None] + self.offset
    if self.offset:  # RoBERTa counts real tokens; padding is before the first.
      counted = jnp.cumsum(real.astype(jnp.int32), axis=1)
      at = jnp.where(real, counted, 0) + self.offset - 1
    x = jnp.take(table, ids, axis=0, mode='clip') + jnp.take(places, at, axis=0, mode='clip')
    if self.types:
      x = x + self.param('types', NORMAL, (self.types, self.width))[0]
    return x.astype(self.dtype)

  def _pooled(self, x: Float[Array, 'b u d'], real: Bool[Array, 'b u']) -> Float[Array, 'b d']:
    if self.pooling == 'last':
      last = jnp.maximum(real.sum(axis=1) - 1, 0)
      return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0].astype(jnp.float32)
    first = x[:, 0]
    if self.pooling == 'first_tanh':
      first = jnp.tanh(layers.Dense(self.width, self.dtype, NORMAL, name='pooler')(first))
    return first.astype(jnp.float32)


class PrefixWriter(nn.Module):
  """GPT-2 that goes on from a prefix of vectors, in the place of the embeddings of tokens.

  Its parameters are those of `TextEncoder` of the kind 'gpt2', whose arguments these are; the
  output's weights are those of the embedding.
  """

  vocabulary: int
  positions: int
  width: int
  depth: int
  heads: int
  hidden: int
  epsilon: float = 1e-5
  dropout: float = 0.1
  dtype: Any = jnp.float32

  def setup(self):
    self.table = self.param('tokens', NORMAL, (self.vocabulary, self.width))
    self.places = self.param('positions', NORMAL, (self.positions, self.width))
    how = self.heads, self.hidden, True, True, True, self.epsilon, self.dropout, self.dtype
    self.blocks = [TextBlock(*how) for _ in range(self.depth)]
    self.norm = layers.LayerNorm(self.epsilon, self.dtype)
    self.drop = nn.Dropout(self.dropout)

  def __call__(
    self, prefix: Float[Array, 'b p d'], ids: Int[Array, 'b u'], train: bool = False
  ) -> Float[Array, 'b u v']:
    """Logits of every token behind the prefix and the tokens before it (teacher forcing), float32.

    Raises:
      InputError: more tokens than positions.
    """
    p, u = prefix.shape[1], ids.shape[1]
    if p + u - 1 > self.positions:
      raise InputError(
        f'A text has {u} tokens behind a prefix of {p}, and this model {self.positions} positions: '
        'cut the text (max_tokens).'
      )
    x = jnp.concatenate([prefix.astype(self.table.dtype), self.table[ids[:, :-1]]], axis=1)
    x = (x + self.places[: p + u - 1]).astype(self.dtype)
    x = self.drop(x, deterministic=not train)
    for block in self.blocks:
      x = block(x, None, train)
    return self._logits(x[:, p - 1 :])

  def remember(self, prefix: Float[Array, 'b p d']) -> Any:
    """What rows attend to: keys and values of all vectors but the last in every layer, and the last
    one, which stands for the first token of a row, whatever that is."""
    b, p = prefix.shape[:2]
    x = (prefix[:, :-1] + self.places[: p - 1]).astype(self.dtype)
    kept = []
    empty = caches_of(self.depth, self.heads, self.width, self.dtype)(b, p - 1)
    for block, cache in zip(self.blocks, empty, strict=True):
      x, cache = block(x, None, False, cache)
      kept.append(caches.Memory(cache.keys, cache.values))
    return tuple(kept), prefix[:, -1]

  def step(
    self,
    tokens: Int[Array, 'r u'],
    state: caches.State,
    real: Bool[Array, 'r u'] | None = None,
    at: Int[Array, 'r p'] | None = None,
  ) -> tuple[Float[Array, 'r p v'], caches.State]:
    """Further tokens: logits behind each, or behind those `at`, and the next state."""
    memories, last = state.memories
    order = caches.token_positions(caches.first_cache(state.caches), tokens.shape[1], real)
    ahead = memories[0].keys.shape[2]
    first = jnp.repeat(last, len(tokens) // len(last), axis=0)[:, None]
    x = jnp.where((order == 0)[:, :, None], first, self.table[tokens])
    x = x + jnp.take(self.places, order + ahead, axis=0, mode='clip')
    x, made = x.astype(self.dtype), []
    for block, cache, memory in zip(self.blocks, state.caches, memories, strict=True):
      x, cache = block(x, real, False, cache, memory)
      made.append(cache)
    if at is not None:
      x = jnp.take_along_axis(x, at[:, :, None], axis=1)
    return self._logits(x), state.after(tuple(made))

  def _logits(self, x: Float[Array, 'r u d']) -> Float[Array, 'r u v']:
    return similarities(self.norm(x), self.table, self.dtype)


def caches_of(depth: int, heads: int, width: int, dtype: Any) -> Callable[[int, int], Any]:
  """(rows, slots) -> empty caches of the layers of a `PrefixWriter`."""
  kind = jnp.dtype(dtype)
  return lambda rows, slots: caches.create_layers(
    depth, False, rows, slots, heads, width // heads, kind
  )


def check_ids(ids: Any, vocabulary: int) -> None:
  """Raises InputError where concrete ids are outside of a vocabulary; inside of jit nothing can be
  checked."""
  if isinstance(ids, np.ndarray) and ids.size and not 0 <= ids.min() <= ids.max() < vocabulary:
    raise InputError(
      f'Ids from {ids.min()} to {ids.max()} are outside of the vocabulary of {vocabulary}: take '
      'the tokenizer that came with the weights.'
    )

"""The text trunk: BERT, RoBERTa and GPT-2 as one transformer with options.

Sources: BERT (arXiv 1810.04805), RoBERTa (1907.11692), GPT-2 (Radford et al. 2019), as
transformers computes them (modeling_bert.py, modeling_roberta.py, modeling_gpt2.py).
Letters: b batch, u tokens, d width, l layers.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError, unknown
from research.nn import layers
from research.nn.attention import attend
from research.nn.kernels import Dtype, gelu
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
    self, x: Float[Array, 'b u d'], real: Bool[Array, 'b u'], train: bool
  ) -> Float[Array, 'b u d']:
    norm1 = layers.LayerNorm(self.epsilon, self.dtype, name='norm1')
    norm2 = layers.LayerNorm(self.epsilon, self.dtype, name='norm2')
    if self.pre_norm:
      x = x + self._attention(norm1(x), real, train)
      return x + self._mlp(norm2(x), train)
    x = norm1(x + self._attention(x, real, train))
    return norm2(x + self._mlp(x, train))

  def _attention(self, x, real, train: bool):
    drop = Drop(self.make_rng('dropout'), self.dropout) if train and self.dropout else None
    q, k, v = layers.HeadsIn(self.heads, self.dtype, NORMAL, name='qkv')(x)
    y = attend(q, k, v, real, causal=self.causal, drop=drop)
    y = layers.HeadsOut(self.dtype, NORMAL, name='proj')(y)
    return nn.Dropout(self.dropout, deterministic=not train)(y)

  def _mlp(self, x, train: bool):
    y = layers.Dense(self.hidden, self.dtype, NORMAL, name='fc1')(x)
    y = jax.nn.gelu(y, approximate=True) if self.tanh_gelu else gelu(y)
    y = layers.Dense(x.shape[-1], self.dtype, NORMAL, name='fc2')(y)
    return nn.Dropout(self.dropout, deterministic=not train)(y)


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


def check_ids(ids: Any, vocabulary: int) -> None:
  """Raises InputError where concrete ids are outside of a vocabulary; inside of jit nothing can be
  checked."""
  if isinstance(ids, np.ndarray) and ids.size and not 0 <= ids.min() <= ids.max() < vocabulary:
    raise InputError(
      f'Ids from {ids.min()} to {ids.max()} are outside of the vocabulary of {vocabulary}: take '
      'the tokenizer that came with the weights.'
    )

"""What a language model of codes attends to besides its codes: a text, and the way through it.

Letters: b batch, s steps of codes, u symbols of a text, d width, w width of given states, h heads.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError, unknown
from research.models.language import NORMAL, TextBlock
from research.nn import cache as caches
from research.nn import layers
from research.nn.kernels import Dtype
from research.nn.multihead import MultiHeadAttention
from research.nn.positions import sinusoids
from research.text import alphabets
from research.text.alphabets import Alphabet

# What a text is made of; a model has one of them.
KINDS = ('alphabet', 'units', 'states')


@dataclasses.dataclass(frozen=True)
class Text:
  """What the texts of a model are, and the trunk that reads them.

  Attributes:
    alphabet: name of an alphabet of `text.alphabets`, whose symbols they are made of; or
    units: number of units of an encoder, which they are made of (of another voice, to convert it);
      or
    states: w, width of the states of another text model, which are given in their place.
    depth, heads, hidden: of the trunk, which has the width of the model; of depth 0 the symbols
      themselves are attended to. `heads` and `hidden` are those of the model where None.
    max_tokens: longest text.
    runs: of units, a run of one counts as one; else units keep the time that they took.
    aligned: the layer whose attention follows the text; None for that in the middle.
  """

  alphabet: str | None = None
  units: int | None = None
  states: int | None = None
  depth: int = 4
  heads: int | None = None
  hidden: int | None = None
  max_tokens: int = 1024
  runs: bool = True
  aligned: int | None = None

  @classmethod
  def of(cls, given: Mapping[str, Any], title: str) -> 'Text':
    """The settings of an argument.

    Raises:
      InputError: an unknown setting, or another number of kinds than one.
    """
    known = [field.name for field in dataclasses.fields(cls)]
    for name in given:
      if name not in known:
        raise unknown(f'setting of the text of {title}', name, known)
    kinds = [name for name in KINDS if given.get(name) is not None]
    if len(kinds) != 1:
      raise InputError(
        f'{title} got text={dict(given)}: give one of {", ".join(KINDS)}, what texts are made of.'
      )
    found = cls(**given)
    if found.alphabet is not None:
      alphabets.get(found.alphabet)
    if min(found.symbols, found.states or 0) < 0 or not (found.symbols or found.states):
      raise InputError(f'{title} got text={dict(given)}: {kinds[0]} has to be at least 1.')
    if found.depth < 0 or found.max_tokens < 1:
      raise InputError(
        f'{title} got text={dict(given)}: depth has to be at least 0, max_tokens at least 1.'
      )
    return found

  @property
  def spelling(self) -> Alphabet | None:
    """The alphabet; None where texts have none."""
    return None if self.alphabet is None else alphabets.get(self.alphabet)

  @property
  def symbols(self) -> int:
    """How many there are; 0 where states are given."""
    if self.alphabet is not None:
      return len(alphabets.get(self.alphabet).symbols)
    return self.units or 0


@flax.struct.dataclass
class Conditions:
  """What rows of codes are conditioned on, computed once.

  Attributes:
    added: [b, d], what is added to every step, or None.
    texts: the `Memory` of every layer, or None.
  """

  added: Any = None
  texts: Any = None


class TextTrunk(nn.Module):
  """Symbols, or given states, to what is attended to: a transformer with positions of sines.

  Attributes:
    symbols: of the alphabet; 0 where states are given.
    width, depth, heads, hidden: of the transformer.
    max_tokens: u at most.
  """

  symbols: int
  width: int
  depth: int
  heads: int
  hidden: int
  max_tokens: int
  epsilon: float
  dropout: float
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, text: Array, real: Bool[Array, 'b u'], train: bool = False
  ) -> Float[Array, 'b v d']:
    """The states of a text behind one vector that stands for no text, v = u + 1.

    Args:
      text: int [b, u], or states float [b, u, w].
      real: which are there.
      train: dropout acts.

    Raises:
      InputError: a text is longer than `max_tokens`.
    """
    b, u = real.shape
    if u > self.max_tokens:
      raise InputError(
        f'A text has {u} symbols, and the model max_tokens={self.max_tokens}: cut the text, or '
        'raise config.model.args.text.max_tokens.'
      )
    if self.symbols:
      table = self.param('symbols', NORMAL, (self.symbols, self.width))
      x = jnp.take(table, jnp.where(real, text, 0), axis=0, mode='clip')
      x = (x + jnp.asarray(sinusoids(self.max_tokens, self.width))[:u]).astype(self.dtype)
    else:
      # States that are not there may be anything, NaN included.
      given = jnp.where(real[:, :, None], text, 0.0).astype(self.dtype)
      x = layers.Dense(self.width, self.dtype, NORMAL, name='project')(given)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    how = self.heads, self.hidden, True, False, True, self.epsilon, self.dropout, self.dtype
    for i in range(self.depth):
      x = TextBlock(*how, name=f'blocks_{i}')(x, real, train)
    if self.depth:
      x = layers.LayerNorm(self.epsilon, self.dtype, name='norm')(x)
    nothing = self.param('nothing', NORMAL, (self.width,)).astype(self.dtype)
    return jnp.concatenate([jnp.broadcast_to(nothing, (b, 1, self.width)), x], axis=1)


class TextAttention(nn.Module):
  """Attention of steps to a text, behind a norm."""

  width: int
  heads: int
  epsilon: float
  dropout: float
  dtype: Dtype = jnp.float32

  def setup(self):
    self.norm = layers.LayerNorm(self.epsilon, self.dtype)
    self.attn = MultiHeadAttention(
      self.width, self.heads, dropout=self.dropout, dtype=self.dtype, kernel_init=NORMAL
    )
    self.drop = nn.Dropout(self.dropout)

  def remember(self, context: Float[Array, 'b v d'], seen: Bool[Array, 'b v']) -> caches.Memory:
    """Keys and values of a text."""
    return self.attn.remember(context, seen)

  def __call__(
    self, x: Float[Array, 'b s d'], memory: caches.Memory, train: bool = False
  ) -> Float[Array, 'b s d']:
    """What is added to the steps."""
    y, _ = self.attn(self.norm(x), memory=memory, train=train)
    return self.drop(y, deterministic=not train)

  def alignment(self, x: Float[Array, 'b s d'], memory: caches.Memory) -> Float[Array, 'b s u']:
    """log of how much a step attends to each symbol among the symbols, mean over heads, float32."""
    products = self.attn.logits(self.norm(x), memory)[..., 1:]
    products = jnp.where(memory.mask[:, None, None, 1:], products, -1e30)
    weights = jax.nn.softmax(products.astype(jnp.float32), axis=-1).mean(axis=1)
    return jnp.log(weights + 1e-8)


def real_symbols(text: Int[Array, 'b u']) -> Bool[Array, 'b u']:
  """Which symbols of padded texts are there."""
  return text >= 0

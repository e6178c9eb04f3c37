"""Text from speech by a transformer on features (fairseq's s2t_transformer, arXiv 2010.05171), as
SUPERB-SG's speech translation has it: strided convolutions, encoder, decoder.

The head alone writes: it is a `capabilities.Generates` whose memories `remember` makes of tokens,
see `inference/translation.py`.
Letters: b batch, n tokens of the encoder below, i their width, m tokens after the convolutions,
u text tokens, r rows, d width, v vocabulary.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError
from research.models.waveform import drop
from research.nn import cache as caches
from research.nn import layers
from research.nn.multihead import MultiHeadAttention
from research.nn.positions import sinusoids

EPSILON = 1e-5
STRIDE = 2
FIRST = 2  # row of the table of positions for a first token


class Gated(nn.Module):
  """A convolution of p taps and stride 2, padded by p // 2 at both ends, and a gated linear unit:
  `kernel` [p, i, 2 o], `bias` [2 o], as torch initialises them."""

  features: int
  taps: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b n i']) -> Float[Array, 'b m o']:
    init = layers.uniform(float(self.taps * x.shape[-1]) ** -0.5)
    kernel = self.param('kernel', init, (self.taps, x.shape[-1], 2 * self.features))
    bias = self.param('bias', init, (2 * self.features,))
    side = self.taps // 2
    y = jax.lax.conv_general_dilated(
      x, kernel, (STRIDE,), [(side, side)], dimension_numbers=('NWC', 'WIO', 'NWC')
    )
    return nn.glu(y + bias)


class Block(nn.Module):
  """x + attention, in a decoder + attention to the encoder, + MLP, each behind a norm."""

  width: int
  heads: int
  hidden: int
  dropout: float
  decodes: bool

  def setup(self):
    def attention(causal: bool) -> MultiHeadAttention:
      return MultiHeadAttention(self.width, self.heads, causal=causal, dropout=self.dropout)

    self.attention, self.attention_norm = attention(self.decodes), layers.LayerNorm(EPSILON)
    if self.decodes:
      self.cross, self.cross_norm = attention(False), layers.LayerNorm(EPSILON)
    self.mlp_norm = layers.LayerNorm(EPSILON)
    self.fc1, self.fc2 = layers.Linear(self.hidden), layers.Linear(self.width)

  def __call__(
    self,
    x: Float[Array, 'b u d'],
    real: Bool[Array, 'b u'] | None,
    train: bool,
    memory: caches.Memory | None = None,
    cache: caches.Cache | None = None,
  ) -> tuple[Float[Array, 'b u d'], caches.Cache | None]:
    """(x, the next cache)."""
    y, cache = self.attention(self.attention_norm(x), real, cache=cache, train=train)
    x = x + drop(self, y, self.dropout, train)
    if self.decodes:
      y, _ = self.cross(self.cross_norm(x), memory=memory, train=train)
      x = x + drop(self, y, self.dropout, train)
    y = drop(self, jax.nn.relu(self.fc1(self.mlp_norm(x))), self.dropout, train)
    return x + drop(self, self.fc2(y), self.dropout, train), cache

  def remember(self, heard: Float[Array, 'b m d'], mask: Bool[Array, 'b m']) -> caches.Memory:
    """Keys and values of what the encoder gave."""
    return self.cross.remember(heard, mask)


class Translation(nn.Module):
  """Convolutions, encoder and decoder.

  Attributes:
    vocab_size: v.
    width, heads, hidden: of the transformer.
    depth, decoder_depth: layers of encoder and decoder.
    channels: of all convolutions but the last, before their gates.
    kernels: taps of the convolutions, odd.
    dropout: of embeddings, attention, activations and branches.
    start_token: first token of every text, and the one that ends it (fairseq's '</s>').
    max_tokens: positions of the decoder.
    tied: logits by the embedding of tokens.
    masked: what lies behind a clip's end is hidden from the convolutions, so that it is the same
      alone and in a batch; fairseq's see it.
  """

  PARAMETERS: ClassVar[tuple[str, ...]] = (
    *(f'conv_{i}' for i in range(8)), *(f'encoder_{i}' for i in range(32)), 'encoder_norm',
    'token_embedding', *(f'decoder_{i}' for i in range(32)), 'decoder_norm', 'output',
  )  # fmt: skip
  TRAINING: ClassVar[tuple[str, ...]] = ('dropout',)
  encoder_args: ClassVar[Mapping[str, Any]] = {}

  vocab_size: int
  width: int = 512
  heads: int = 8
  hidden: int = 2048
  depth: int = 3
  decoder_depth: int = 3
  channels: int = 1024
  kernels: tuple[int, ...] = (5, 5)
  dropout: float = 0.1
  start_token: int = 2
  max_tokens: int = 1024
  tied: bool = False
  masked: bool = True

  def __post_init__(self):
    object.__setattr__(self, 'kernels', tuple(self.kernels))  # JSON has lists
    if not self.kernels or any(taps % 2 == 0 for taps in self.kernels):
      raise InputError(f'head translation got kernels={self.kernels}: odd numbers are expected.')
    if self.width % self.heads or self.channels % 2 or not 0 <= self.start_token < self.vocab_size:
      raise InputError(
        f'head translation got width={self.width}, heads={self.heads}, channels={self.channels}, '
        f'start_token={self.start_token} and vocab_size={self.vocab_size}: width must be a '
        'multiple of heads, channels even, and the first token one of the vocabulary.'
      )
    super().__post_init__()

  def setup(self):
    how = self.width, self.heads, self.hidden, self.dropout
    widths = [self.channels // 2] * (len(self.kernels) - 1) + [self.width]
    self.conv = [Gated(width, taps) for width, taps in zip(widths, self.kernels)]
    self.encoder = [Block(*how, decodes=False) for _ in range(self.depth)]
    self.encoder_norm = layers.LayerNorm(EPSILON)
    self.decoder = [Block(*how, decodes=True) for _ in range(self.decoder_depth)]
    self.decoder_norm = layers.LayerNorm(EPSILON)
    normal = nn.initializers.normal(self.width**-0.5)
    shape = self.vocab_size, self.width
    self.token_embedding = self.param('token_embedding', normal, shape)
    if not self.tied:
      self.output = self.param('output', normal, shape)

  def __call__(
    self,
    tokens: Float[Array, 'b n i'],
    mask: Bool[Array, 'b n'],
    encoded: Mapping[str, Any],
    train: bool,
  ) -> dict[str, Array]:
    """Logits with teacher forcing by the batch's 'targets', int [b, u], which end with the token
    that ends a text and are negative behind it; without them, of the first token.

    Returns:
      'logits' [b, u, v] float32 of each target, 'encoder_out' [b, m, d], 'encoder_mask' [b, m].
    """
    targets = encoded.get('batch', {}).get('targets')
    if targets is None:
      targets = jnp.full((len(tokens), 1), self.start_token)
    targets = jnp.maximum(jnp.asarray(targets), 0)
    first = jnp.full((len(targets), 1), self.start_token, targets.dtype)
    before = jnp.concatenate([first, targets[:, :-1]], axis=1)
    heard, real = self.encode(tokens, mask, train)
    state = caches.State((None,) * self.decoder_depth, self.memories(heard, real))
    logits, _ = self._decode(before, state, None, train)
    return {'logits': logits, 'encoder_out': heard, 'encoder_mask': real}

  def encode(
    self, tokens: Float[Array, 'b n i'], mask: Bool[Array, 'b n'], train: bool = False
  ) -> tuple[Float[Array, 'b m d'], Bool[Array, 'b m']]:
    """What the decoder attends to, and which of it is real; m is about n / 4."""
    x = jnp.where(mask[:, :, None], tokens.astype(jnp.float32), 0.0)
    counts, real = mask.sum(axis=1), mask
    for conv in self.conv:
      x = conv(x)
      counts = (counts + STRIDE - 1) // STRIDE
      real = jnp.arange(x.shape[1]) < counts[:, None]
      x = jnp.where(real[:, :, None], x, 0.0) if self.masked else x
    table = jnp.asarray(sinusoids(x.shape[1] + FIRST, self.width)[FIRST:])
    x = float(np.sqrt(self.width)) * x + jnp.where(real[:, :, None], table, 0.0)
    x = drop(self, x, self.dropout, train)
    for block in self.encoder:
      x, _ = block(x, real, train)
    return self.encoder_norm(x), real

  def memories(
    self, heard: Float[Array, 'b m d'], real: Bool[Array, 'b m']
  ) -> tuple[caches.Memory, ...]:
    """Keys and values of what the encoder gave, for every layer of the decoder."""
    return tuple(block.remember(heard, real) for block in self.decoder)

  def _decode(self, tokens, state, real, train, at=None):
    first = state.caches[0]
    order = caches.token_positions(first, tokens.shape[1], real)
    table = jnp.asarray(sinusoids(self.max_tokens + FIRST, self.width)[FIRST:])
    x = float(np.sqrt(self.width)) * self.token_embedding[tokens]
    x = x + jnp.take(table, jnp.maximum(order, 0), axis=0, mode='clip')
    x, after = drop(self, x, self.dropout, train), []
    for block, memory, cache in zip(self.decoder, state.memories, state.caches, strict=True):
      x, cache = block(x, real, train, memory, cache)
      after.append(cache)
    if at is not None:
      x = jnp.take_along_axis(x, at[:, :, None], axis=1)
    kernel = self.token_embedding if self.tied else self.output
    return layers.product(self.decoder_norm(x), kernel.T, 1, jnp.float32), state.after(tuple(after))

  # -- Writing: `capabilities.Generates` ---------------------------------------------------------

  def remember(self, tokens: Float[Array, 'b n i'], mask: Bool[Array, 'b n']) -> Any:
    """Memories of the decoder, computed once for a batch."""
    return self.memories(*self.encode(tokens, mask))

  def start(self, rows: int, slots: int, memories: Any = None) -> caches.State:
    """The state before the first token of rows that take up to `slots` tokens."""
    size = self.width // self.heads
    made = caches.create_layers(self.decoder_depth, False, rows, slots, self.heads, size)
    return caches.State(made, memories)

  def step(
    self,
    tokens: Int[Array, 'r u'],
    state: caches.State,
    real: Bool[Array, 'r u'] | None = None,
    at: Int[Array, 'r p'] | None = None,
  ) -> tuple[Float[Array, 'r p v'], caches.State]:
    """Further tokens: logits behind each, or behind those `at`, and the next state."""
    real, at = (None if x is None else jnp.asarray(x) for x in (real, at))
    return self._decode(jnp.asarray(tokens), state, real, False, at)

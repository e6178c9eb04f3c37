"""A small pre-norm decoder of tokens: what language models and speech decoders share, for tests."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.nn import cache as caches
from research.nn import layers
from research.nn.kernels.attention import Bias
from research.nn.multihead import MultiHeadAttention, UseBias
from research.nn.positions import LearnedPositions, Rotary, sinusoids
from research.nn.relative_bias import RelativeBias


class Block(nn.Module):
  """x + self-attention, + attention to the context if there is one, + MLP, each behind a norm."""

  heads: int
  kv_heads: int | None
  head_dim: int | None
  window: int | None
  rotary: Rotary | None
  cross: bool
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x, real, kept, context, context_mask, bias, train):
    width = x.shape[-1]
    cache, memory = (None, None) if kept is None else kept
    y = layers.LayerNorm(1e-5, self.dtype, name='norm1')(x)
    attention = MultiHeadAttention(
      width,
      self.heads,
      self.kv_heads,
      self.head_dim,
      UseBias(key=False),
      causal=True,
      window=self.window,
      rotary=self.rotary,
      dropout=self.dropout,
      dtype=self.dtype,
      name='attn',
    )
    y, cache = attention(y, real, cache=cache, bias=bias, train=train)
    x = x + y
    if self.cross:
      cross = MultiHeadAttention(width, self.heads, dtype=self.dtype, name='cross_attn')
      if context is not None:
        memory = cross.remember(context, context_mask)
      y = layers.LayerNorm(1e-5, self.dtype, name='norm2')(x)
      x = x + cross(y, memory=memory)[0]
    y = layers.LayerNorm(1e-5, self.dtype, name='norm3')(x)
    return x + layers.Mlp(2 * width, self.dtype, name='mlp')(y), (cache, memory)


class Decoder(nn.Module):
  """Tokens to logits of the next ones, whose kernel is that of the embedding."""

  vocabulary: int = 23
  width: int = 32
  depth: int = 2
  heads: int = 4
  kv_heads: int | None = None
  head_dim: int | None = None
  window: int | None = None
  positions: str = 'rotary'
  rotary: Rotary = Rotary()
  cross: bool = False
  dropout: float = 0.0
  max_length: int = 32
  aligned: bool = True
  ring: bool = False
  scan_layers: bool = False
  remat: bool | str = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: Int[Array, 'b t'],
    real: Bool[Array, 'b t'] | None = None,
    state: Any = None,
    context: Float[Array, 'b s d'] | None = None,
    context_mask: Bool[Array, 'b s'] | None = None,
    train: bool = False,
  ) -> tuple[Float[Array, 'b t c'], Any]:
    """(logits, the state after these tokens); with a state, only the first call has a context."""
    normal = nn.initializers.normal(0.5)
    embedding = self.param('embedding', normal, (self.vocabulary, self.width))
    x = embedding[tokens].astype(self.dtype)
    cache = None if state is None else caches.first_cache(state)
    order = caches.token_positions(cache, tokens.shape[1], real)
    bias = None
    if self.positions == 'learned':
      table = LearnedPositions(self.max_length, self.width, 2, self.dtype, name='positions')
      x = x + table(order)
    elif self.positions == 'sinusoidal':
      x = x + jnp.asarray(sinusoids(self.max_length, self.width))[order].astype(self.dtype)
    elif self.positions == 'relative':
      relative = RelativeBias(self.heads, 8, 12, bidirectional=False, name='relative_bias')
      keys = None if cache is None else cache.max_length
      bias = Bias(None, relative(tokens.shape[1], keys, 0 if cache is None else cache.slots))

    def make(name: str, index: int | None) -> nn.Module:
      del index
      heads = self.heads, self.kv_heads, self.head_dim, self.window
      rotary = self.rotary if self.positions == 'rotary' else None
      return Block(*heads, rotary, self.cross, self.dropout, self.dtype, name=name)

    def call(block, x, layer, kept=None):
      del layer
      x, after = block(x, real, kept, context, context_mask, bias, train)
      return x if kept is None else (x, after)

    x, _, state = layers.run_blocks(
      make,
      call,
      x,
      jnp.arange(self.depth),
      scan=self.scan_layers,
      remat=self.remat,
      cache=state,
    )
    x = layers.LayerNorm(1e-5, self.dtype, name='norm')(x)
    return jnp.einsum('btd,cd->btc', x.astype(jnp.float32), embedding), state

  def start(self, batch: int, dtype: Any = jnp.float32, max_length: int | None = None) -> Any:
    """The state before the first token."""
    heads, size = self.kv_heads or self.heads, self.head_dim or self.width // self.heads
    slots = max_length or self.max_length
    how = batch, slots, heads, size, dtype, self.aligned, self.ring
    made = caches.create_layers(self.depth, self.scan_layers, *how)
    return (made, None) if self.scan_layers else tuple((cache, None) for cache in made)

"""Encoder and decoder of Whisper (arXiv 2212.04356; openai/whisper, model.py).

Letters: b batch, s mel frames, f mel bins, n audio tokens, r rows of text, u text tokens, p places,
d width, h heads, l layers, v vocabulary.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError
from research.features.frontend import Frontend, fit_frames
from research.features.spectral import Array as AnyArray
from research.nn import cache as caches
from research.nn import layers
from research.nn.kernels import Dtype, add_bias, gelu, similarities
from research.nn.kernels.convolutions import conv1d
from research.nn.multihead import MultiHeadAttention, UseBias
from research.nn.positions import LearnedPositions, sinusoids

EPSILON = 1e-5
STRIDE = 2  # mel frames an audio token
USE_BIAS = UseBias(key=False)


# -- Front-end ---------------------------------------------------------------------------------


def window_log_mel(
  frontend: Frontend,
  audio: Float[AnyArray, 'b t'],
  audio_mask: Bool[AnyArray, 'b t'],
  frames: int,
) -> Float[Array, 'b s f']:
  """Log-mel of the first window of every clip; silence behind its end counts as audio, and the
  floor is 8 below the maximum of each clip (`pad_or_trim` and `log_mel_spectrogram` of
  openai/whisper)."""
  samples = frames * frontend.hop_samples
  audio = jnp.where(jnp.asarray(audio_mask), jnp.asarray(audio), 0.0)[:, :samples]
  audio = jnp.pad(audio, ((0, 0), (0, samples - audio.shape[1])))
  mel, mask = frontend.raw(audio, jnp.ones(audio.shape, bool))
  return fit_frames(frontend.normalise(mel), mask, frames)[0]


# -- Encoder -----------------------------------------------------------------------------------


class Conv(nn.Module):
  """Convolution of 3 taps, padded by 1 on both sides, and GELU; `kernel` [3, i, o], `bias` [o]."""

  features: int
  stride: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b s i']) -> Float[Array, 'b n o']:
    limit = layers.uniform(float(3 * x.shape[-1]) ** -0.5)
    kernel = self.param('kernel', limit, (3, x.shape[-1], self.features))
    bias = self.param('bias', limit, (self.features,))
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    return gelu(add_bias(conv1d(padded, kernel, self.stride, self.dtype), bias))


class EncoderBlock(nn.Module):
  """x + attention, + MLP, each behind a norm; `hidden` of the MLP, four widths where None."""

  heads: int
  dtype: Dtype = jnp.float32
  attention: str | None = None
  hidden: int | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n d'], real: Bool[Array, 'b n'] | None = None
  ) -> Float[Array, 'b n d']:
    attention = MultiHeadAttention(
      x.shape[-1],
      self.heads,
      use_bias=USE_BIAS,
      dtype=self.dtype,
      implementation=self.attention,
      name='attn',
    )
    x = x + attention(layers.LayerNorm(EPSILON, self.dtype, name='attn_norm')(x), real)[0]
    y = layers.LayerNorm(EPSILON, self.dtype, name='mlp_norm')(x)
    return x + layers.Mlp(self.hidden or 4 * x.shape[-1], self.dtype, name='mlp')(y)


def pool_pairs(x: Float[Array, '*b n d']) -> Float[Array, '*b m d']:
  """Means of neighbouring tokens; of an odd number the last one is left out."""
  m = x.shape[-2] // 2
  return x[..., : 2 * m, :].reshape(*x.shape[:-2], m, 2, x.shape[-1]).mean(axis=-2)


class Encoder(nn.Module):
  """Log-mel of one window to audio tokens.

  Attributes:
    positions: n, of the table of sines, which is a buffer: published weights bring theirs.
    width, depth, heads: of the transformer.
    hidden: of its MLP; None for four widths.
    pooled: tokens are means of two before the last norm (Qwen-Audio and what came after it).
    zero_padding: tokens behind a clip are zero before the first layer (Qwen-Audio).
    others: see `layers.run_blocks`.
  """

  positions: int
  width: int
  depth: int
  heads: int
  dtype: Dtype = jnp.float32
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None
  hidden: int | None = None
  pooled: bool = False
  zero_padding: bool = False

  @nn.compact
  def __call__(
    self,
    mel: Float[Array, 'b s f'],
    collect: bool = False,
    real: Bool[Array, 'b n'] | None = None,
  ) -> dict[str, Array]:
    """'tokens' [b, n, d] behind the last norm, or half as many where `pooled`.

    With `collect` 'conv1', 'conv2', 'stem', the input of the first layer, and 'layers'
    [l, b, n, d], every layer's output. `real`: tokens that are attended to; None for all.
    """
    if mel.shape[1] != STRIDE * self.positions:
      raise InputError(
        f'The encoder of Whisper takes {STRIDE * self.positions} mel frames and got '
        f'{mel.shape[1]}: pad or cut them.'
      )
    first = Conv(self.width, 1, self.dtype, name='conv1')(mel.astype(self.dtype))
    second = Conv(self.width, STRIDE, self.dtype, name='conv2')(first)
    table = self.variable(
      'buffers', 'positions', lambda: jnp.asarray(sinusoids(self.positions, self.width))
    )
    stem = second + jnp.asarray(table.value).astype(self.dtype)
    if self.zero_padding and real is not None:
      stem = jnp.where(real[:, :, None], stem, jnp.zeros((), stem.dtype))

    def make(name: str, index: int | None) -> nn.Module:
      del index
      return EncoderBlock(self.heads, self.dtype, self.attention, self.hidden, name=name)

    x, outputs, _ = layers.run_blocks(
      make,
      lambda block, x, layer: block(x, real),
      stem,
      jnp.arange(self.depth),
      scan=self.scan_layers,
      remat=self.remat,
      collect=collect,
    )
    x = pool_pairs(x) if self.pooled else x
    out: dict[str, Any] = {'tokens': layers.LayerNorm(EPSILON, self.dtype, name='norm')(x)}
    if collect:
      out |= {'conv1': first, 'conv2': second, 'stem': stem, 'layers': outputs}
    return out


# -- Decoder -----------------------------------------------------------------------------------


class DecoderBlock(nn.Module):
  """x + causal attention, + attention to the audio, + MLP, each behind a norm."""

  heads: int
  dtype: Dtype = jnp.float32
  attention: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'r u d'],
    audio: Float[Array, 'b n d'] | None = None,
    real: Bool[Array, 'r u'] | None = None,
    cache: caches.Cache | None = None,
    memory: caches.Memory | None = None,
    collect: bool = False,
  ) -> Any:
    """(x, the next cache, with `collect` {'cross_logits' [r, h, u, n], 'cross' [r, u, d]})."""
    width = x.shape[-1]
    how: dict[str, Any] = dict(use_bias=USE_BIAS, dtype=self.dtype, implementation=self.attention)
    attention = MultiHeadAttention(width, self.heads, causal=True, name='attn', **how)
    y = layers.LayerNorm(EPSILON, self.dtype, name='attn_norm')(x)
    y, cache = attention(y, real, cache=cache)
    x = x + y
    cross = MultiHeadAttention(width, self.heads, name='cross_attn', **how)
    if memory is None:
      assert audio is not None
      memory = cross.remember(audio)
    y = layers.LayerNorm(EPSILON, self.dtype, name='cross_norm')(x)
    heard = cross(y, memory=memory)[0]
    seen = {'cross_logits': cross.logits(y, memory), 'cross': heard} if collect else {}
    x = x + heard
    y = layers.LayerNorm(EPSILON, self.dtype, name='mlp_norm')(x)
    return x + layers.Mlp(4 * width, self.dtype, name='mlp')(y), cache, seen


class Memorising(nn.Module):
  """The part of a block that is computed once for a window: keys and values of the audio."""

  heads: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, audio: Float[Array, 'b n d']) -> caches.Memory:
    cross = MultiHeadAttention(
      audio.shape[-1], self.heads, use_bias=USE_BIAS, dtype=self.dtype, name='cross_attn'
    )
    return cross.remember(audio)


class Decoder(nn.Module):
  """Text tokens to logits of the next ones; the output's weights are those of the embedding.

  Attributes:
    vocabulary, length: rows of the embedding, of the learned positions.
    width, depth, heads: of the transformer.
    others: see `layers.run_blocks`.
  """

  vocabulary: int
  length: int
  width: int
  depth: int
  heads: int
  dtype: Dtype = jnp.float32
  scan_layers: bool = False
  remat: bool | str = False
  attention: str | None = None

  @nn.compact
  def __call__(
    self,
    tokens: Int[Array, 'r u'] | None,
    audio: Float[Array, 'b n d'] | None = None,
    state: caches.State | None = None,
    real: Bool[Array, 'r u'] | None = None,
    at: Int[Array, 'r p'] | None = None,
    collect: bool = False,
  ) -> Any:
    """Tokens with the audio, or with the state that holds it.

    Args:
      tokens: None: only the memories of `audio` are made and returned.
      audio: of the encoder, r = b.
      state: caches of r rows and memories of b windows, r a multiple of b.
      real: True for real tokens; None for all.
      at: places whose logits are wanted; None for all.
      collect: also {'decoder_stem', 'decoder_layers', 'decoder_tokens', 'cross_logits', 'cross'}.

    Returns:
      (logits [r, u or p, v] float32, next state or None, what was collected).
    """
    each = jnp.arange(self.depth)
    run: dict[str, Any] = dict(scan=self.scan_layers, remat=self.remat)
    how = self.heads, self.dtype, self.attention
    if tokens is None:
      assert audio is not None
      memories = layers.run_blocks(
        lambda name, index: Memorising(*how[:2], name=name),
        lambda block, x, layer, kept: (x, block(x)),
        audio.astype(self.dtype),
        each,
        cache=self._nothing(),
        **run,
      )[2]
      return memories
    embedding = self.param(
      'token_embedding', nn.initializers.normal(0.02), (self.vocabulary, self.width)
    )
    order = caches.token_positions(
      None if state is None else caches.first_cache(state.caches), tokens.shape[1], real
    )
    positions = LearnedPositions(self.length, self.width, 0, self.dtype, name='positions')
    stem = embedding[tokens].astype(self.dtype) + positions(order)

    def call(block: nn.Module, x: Array, layer: Any, kept: Any = None) -> Any:
      del layer
      cache, memory = (None, None) if kept is None else kept
      x, cache, seen = block(x, audio, real, cache, memory, collect)
      return x if kept is None else (x, (cache, seen))

    kept = None
    if state is not None:
      pair = state.caches, state.memories
      kept = pair if self.scan_layers else tuple(zip(*pair, strict=True))
    elif collect:
      kept = self._nothing()
    x, outputs, kept = layers.run_blocks(
      lambda name, index: DecoderBlock(*how, name=name), call, stem, each, collect=collect,
      cache=kept, **run,
    )  # fmt: skip
    if at is not None:
      x = jnp.take_along_axis(x, at[:, :, None], axis=1)
    x = layers.LayerNorm(EPSILON, self.dtype, name='norm')(x)
    logits = similarities(x, embedding, self.dtype)
    after: Any = None
    found: dict[str, Any] = {}
    if kept is not None:
      after, seen = kept if self.scan_layers else zip(*kept, strict=True)
      if collect:
        stacked: Any = seen
        if not self.scan_layers:
          stacked = jax.tree.map(lambda *x: jnp.stack(x), *seen)
        found = {**stacked, 'decoder_stem': stem, 'decoder_layers': outputs, 'decoder_tokens': x}
    return logits, None if state is None else state.after(after), found

  def _nothing(self) -> Any:
    """No cache and no memory of every layer."""
    return (None, None) if self.scan_layers else ((None, None),) * self.depth

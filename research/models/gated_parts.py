"""Parts of language models that listen through gates: the transformer over vectors of windows, and
the gated cross attention. Source: NVIDIA/audio-flamingo, helpers.py of both versions.

Letters: b prompts, k vectors of a prompt, d width, r rows of text, u tokens.
"""

import dataclasses
from typing import Any

import flax
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from research.errors import InputError
from research.models.language_decoder import Mlp
from research.nn import layers
from research.nn.cache import Memory
from research.nn.kernels import Dtype
from research.nn.multihead import MultiHeadAttention, UseBias
from research.nn.positions import Rotary, rotary_frequencies

NO_BIAS = UseBias(False, False, False, False)


@flax.struct.dataclass
class Sound:
  """What gates attend to: `states` [b, k, d] (None where keys and values are there already), `mask`
  bool [b, k], True for vectors that there are, and `seen` bool [b, 1, r u / b, k], which of them
  each token may attend to, or None for all."""

  states: Any
  mask: Any
  seen: Any = None


@flax.struct.dataclass
class Heard:
  """Audio of prompts: keys and values of every layer's gate, [l, b, h, k, size], and `mask` bool
  [b, k], True for vectors of windows that there are."""

  layers: Any
  mask: Any


# -- Vectors -----------------------------------------------------------------------------------


def alternating_sinusoids(length: int, width: int) -> Float[np.ndarray, 'n d']:
  """Sines of even and cosines of odd columns, timescales 10000^(2 (j // 2) / width) (arXiv
  1706.03762); angles are float64."""
  columns = np.arange(width)
  angles = np.arange(length)[:, None] / np.power(10000, 2 * (columns // 2) / width)
  return np.where(columns % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


class AudioTransformer(nn.Module):
  """Vectors times sqrt(width), with positions and a norm; then layers whose norms come last.

  Attributes:
    depth, heads, hidden: of the layers.
    table: rows of a table of sinusoids, which is a buffer; 0 for none.
    rotary: turns queries and keys, its frequencies are a buffer; None for no turn.
    epsilon: of the norms.
    implementation: see `attention.attend`.
  """

  depth: int
  heads: int
  hidden: int
  table: int = 0
  rotary: Rotary | None = None
  epsilon: float = 1e-6
  dtype: Dtype = jnp.float32
  implementation: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b k d'],
    mask: Bool[Array, 'b k'] | None = None,
    positions: Int[Array, '#b k'] | None = None,
  ) -> dict[str, Any]:
    """Args:
      x: vectors.
      mask: True where a vector may be attended to; None for all.
      positions: of the rotary turn; None for 0, 1, ….

    Returns:
      'states' [b, k, d]; 'normed', the input of the first layer; 'layers', outputs of all.

    Raises:
      InputError: more vectors than the table has rows.
    """
    b, k, d = x.shape
    x = (x.astype(jnp.float32) * np.float32(d**0.5)).astype(self.dtype)
    turn: dict[str, Any] = {}
    if self.table:
      if k > self.table:
        raise InputError(
          f'{k} audio vectors were given, and there are {self.table} positions: give fewer clips.'
        )
      table = self.variable('buffers', 'positions', alternating_sinusoids, self.table, d)
      x = x + jnp.asarray(table.value)[:k].astype(self.dtype)
    if self.rotary is not None:
      buffer = self.variable(
        'buffers', 'frequencies', rotary_frequencies, self.rotary, d // self.heads
      )
      rates = jnp.asarray(buffer.value)
      order = jnp.arange(k, dtype=jnp.int32)[None] if positions is None else positions
      turn = dict(positions=order, frequencies=jnp.broadcast_to(rates, (b, len(rates))))

    def norm(name: str) -> nn.Module:
      return layers.LayerNorm(self.epsilon, self.dtype, name=name)

    x = normed = norm('norm')(x)
    outputs = []
    for i in range(self.depth):
      attend = MultiHeadAttention(
        d, self.heads, use_bias=NO_BIAS, rotary=self.rotary, dtype=self.dtype,
        implementation=self.implementation, name=f'layers_{i}_attn',
      )  # fmt: skip
      y, _ = attend(x, mask, **turn)
      x = norm(f'layers_{i}_attn_norm')(x + y)
      y = Mlp(self.hidden, 'relu', True, self.dtype, name=f'layers_{i}_mlp')(x)
      x = norm(f'layers_{i}_mlp_norm')(x + y)
      outputs.append(x)
    return {'states': x, 'normed': normed, 'layers': outputs}


# -- Gates -------------------------------------------------------------------------------------


def cross_attention(
  width: int, heads: int, size: int, dtype: Dtype, implementation: str | None, **module: Any
) -> MultiHeadAttention:
  """The attention of a `Gate`."""
  return MultiHeadAttention(
    width, heads, head_dim=size, use_bias=NO_BIAS, dtype=dtype, implementation=implementation,
    **module,
  )  # fmt: skip


class Gate(nn.Module):
  """x + tanh(a) attention(norm(x), sound), then x + tanh(f) MLP(norm(x)); rows without a sound stay
  as they are.

  Attributes:
    heads, size: of the attention.
    mult: hidden width over that of x.
    initial: a and f before training.
    implementation: see `attention.attend`.
  """

  heads: int = 8
  size: int = 64
  mult: int = 4
  initial: float = 0.0
  dtype: Dtype = jnp.float32
  implementation: str | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, 'r u d'], sound: Sound, memory: Memory | None = None
  ) -> Float[Array, 'r u d']:
    """`memory`: keys and values of the sound, if they are there already."""
    attend = cross_attention(
      x.shape[-1], self.heads, self.size, self.dtype, self.implementation, name='attn'
    )
    if memory is None:
      memory = attend.remember(sound.states)
    memory = dataclasses.replace(memory, mask=sound.mask)
    y = layers.LayerNorm(1e-5, self.dtype, name='norm')(x)
    # Rows of one prompt ask together: each has places of its own.
    y, _ = attend(y.reshape(len(sound.mask), -1, y.shape[-1]), memory=memory, mask=sound.seen)
    y = y.reshape(x.shape)
    self.sow('intermediates', 'attended', y)
    z = x + self._opened('attn_gate', y)
    y = layers.LayerNorm(1e-5, self.dtype, name='mlp_norm')(z)
    y = Mlp(self.mult * x.shape[-1], 'gelu', False, self.dtype, name='mlp')(y)
    z = z + self._opened('ff_gate', y)
    self.sow('intermediates', 'out', z)
    heard = jnp.repeat(sound.mask.any(axis=1), len(x) // len(sound.mask))
    return jnp.where(heard[:, None, None], z, x)

  def _opened(self, name: str, y: Float[Array, 'r u d']) -> Float[Array, 'r u d']:
    gate = self.param(name, nn.initializers.constant(self.initial), (1,))
    return jnp.tanh(gate).astype(y.dtype) * y

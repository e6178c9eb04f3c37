"""EnCodec's language model (arXiv 2210.13438, §3.3): what the codes of the next frame are, by which
an arithmetic coder makes files smaller.

A causal transformer reads frames of codes and predicts all codes of the next one at once. Figures
are those of encodec's model.py and modules/transformer.py: norms behind the sums, a window of 3.5 s
and in every layer one token of zeros before the first frame. Published weights are
encodec_lm_24khz-1608e3c0.th and encodec_lm_48khz-7add9fc3.th.
Letters: b clips, n frames, g codebooks, k codes, d width, h heads.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.capabilities import Example, audio_example
from research.errors import InputError, unknown
from research.features.waveform import Waveform
from research.models.settings import by_size, check_choices, fill
from research.nn import cache as caches
from research.nn import layers
from research.nn.attention import attend, visible
from research.nn.kernels import gelu
from research.nn.layers import uniform

EPSILON = 1e-5
PERIOD = 10_000.0  # the longest of the positions


class Size(NamedTuple):
  """Of the codec that the codes are of."""

  sample_rate: int
  quantizers: int
  label_rate: float  # frames a second
  past_context: int  # frames
  codebook_size: int = 1024
  width: int = 200
  heads: int = 8
  depth: int = 5


SIZES = {
  '24khz': Size(sample_rate=24_000, quantizers=32, label_rate=75.0, past_context=262),
  '48khz': Size(sample_rate=48_000, quantizers=16, label_rate=150.0, past_context=525),
}


class Block(nn.Module):
  """Attention to a window and an MLP, each with its norm behind the sum."""

  heads: int
  window: int
  dtype: Any

  def setup(self):
    self.qkv = layers.HeadsIn(self.heads, self.dtype)
    self.norm1 = layers.LayerNorm(EPSILON, self.dtype)
    self.norm2 = layers.LayerNorm(EPSILON, self.dtype)

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d'], cache: caches.Cache | None = None) -> Any:
    """(x, the next cache); without a cache the frames are the first of their clips."""
    if cache is None:
      ahead = jnp.concatenate([jnp.zeros_like(x[:, :1]), x], axis=1)
      q, k, v = self.qkv(ahead)
      y = attend(q[:, 1:], k, v, causal=True, offset=1, window=self.window)
    else:
      q, k, v = self.qkv(x)
      order = caches.token_positions(cache, x.shape[1], None)
      cache, seen = caches.append(cache, k, v)
      allowed = visible(order, seen.positions, True, self.window)
      taken = seen.positions != caches.EMPTY
      y = attend(q, seen.keys, seen.values, taken, mask=allowed)
    x = self.norm1(x + layers.HeadsOut(self.dtype, name='proj')(y))
    hidden = layers.Dense(4 * x.shape[-1], self.dtype, name='fc1')(x)
    return self.norm2(x + layers.Dense(x.shape[-1], self.dtype, name='fc2')(gelu(hidden))), cache

  def empty(self, rows: int, width: int) -> caches.Cache:
    """The cache before the first frame, which holds the token of zeros."""
    made = caches.create(rows, self.window, self.heads, width // self.heads, self.dtype, ring=True)
    _, k, v = self.qkv(jnp.zeros((rows, 1, width), self.dtype))
    return caches.append(made, k, v)[0]


class EncodecLm(nn.Module):
  """Predicts the codes of the next frame.

  Attributes:
    size: a key of SIZES; the attributes that are None take its figures.
    frontend: of the audio that the codes are of; only its sample rate counts.
    quantizers: g, codebooks that there are; codes of the first few alone may be given.
    codebook_size: k.
    label_rate: frames a second.
    width, heads, depth: of the transformer.
    past_context: frames before the current one that it sees.
  """

  TITLE: ClassVar[str] = 'EnCodec LM'
  TRAINING: ClassVar[Sequence[str]] = ()

  size: str = '24khz'
  frontend: Any = None
  quantizers: int = by_size()
  codebook_size: int = by_size()
  label_rate: float = by_size()
  width: int = by_size()
  heads: int = by_size()
  depth: int = by_size()
  past_context: int = by_size()
  dtype: str = 'float32'

  def __post_init__(self):
    if self.size not in SIZES:
      raise unknown('size of encodec_lm', self.size, SIZES)
    own = SIZES[self.size]
    fill(self, own._asdict())
    check_choices('encodec_lm', self, dict(dtype=layers.DTYPES))
    for name in ('quantizers', 'codebook_size', 'depth', 'past_context'):
      if getattr(self, name) < 1:
        raise InputError(f'encodec_lm got {name}={getattr(self, name)}: give at least 1.')
    if self.width % self.heads or self.width % 2 or self.width < 4:
      raise InputError(
        f'encodec_lm got width={self.width} and heads={self.heads}; width must be even, at least 4 '
        'and a multiple of heads.'
      )
    given = self.frontend.to_dict() if isinstance(self.frontend, Waveform) else self.frontend
    rate = int((given or {}).get('sample_rate', own.sample_rate))
    if rate % self.label_rate:
      raise InputError(
        f'encodec_lm got label_rate={self.label_rate:g} at {rate} Hz: a frame of codes has to be a '
        'whole number of samples.'
      )
    hop = round(rate / self.label_rate)
    made = Waveform.of_stem(self.frontend, hop, hop, sample_rate=rate)
    object.__setattr__(self, 'frontend', made)
    super().__post_init__()

  # -- What it is ------------------------------------------------------------------------------

  @property
  def num_clusters(self) -> tuple[int, ...]:
    """Codes of every codebook."""
    return self.sets

  @property
  def sets(self) -> tuple[int, ...]:
    """Number of codes of every codebook."""
    return (self.codebook_size,) * self.quantizers

  @property
  def NEEDS(self) -> Mapping[str, str]:
    """Fields of a batch."""
    return {
      'units': 'The model learns from codes: set config.data.fields.units to a folder of them, '
      'which launch.codec --format=tsv and launch.label_kmeans make.'
    }

  def example(self) -> Example:
    """One frame of codes of one clip."""
    codes = jax.ShapeDtypeStruct((1, 1, self.quantizers), jnp.int32)
    return {**audio_example(self.frontend), 'units': codes}

  def setup(self):
    dtype, g, k, d = jnp.dtype(self.dtype), self.quantizers, self.codebook_size, self.width
    self.tables = self.param('codes', nn.initializers.normal(1.0), (g, k + 1, d))
    start = uniform(d**-0.5)
    self.kernel = self.param('kernel', start, (g, d, k))
    self.bias = self.param('bias', start, (g, k))
    self.norm = layers.LayerNorm(EPSILON, dtype)
    self.blocks = [Block(self.heads, self.past_context + 1, dtype) for _ in range(self.depth)]

  # -- All at once -----------------------------------------------------------------------------

  def __call__(self, batch: Mapping[str, Any], train: bool = False) -> dict[str, Any]:
    """Logits of every frame behind those before it.

    Args:
      batch: 'units' int [b, n, g], negative behind the end of a clip.
      train: makes no difference: there is no dropout.

    Returns:
      what `objectives.autoregressive.next_codes` takes: 'logits' float32 [b, n, g, k] and 'targets'
      int [b, n, g], -1 behind the clips; 'states' [b, n, d] behind the last layer, 'real' [b, n].
    """
    del train
    units = jnp.asarray(batch['units'])
    before = jnp.pad(units, ((0, 0), (1, 0), (0, 0)), constant_values=-1)[:, :-1]
    x = self._embed(before, jnp.arange(units.shape[1])[None])
    for block in self.blocks:
      x, _ = block(x)
    real = (units >= 0).all(axis=-1)
    targets = jnp.where(real[..., None], units, -1)
    return {'logits': self._logits(x), 'targets': targets, 'states': x, 'real': real}

  # -- Step by step ----------------------------------------------------------------------------

  def start(self, rows: int) -> Any:
    """The state before the first frame of clips."""
    return tuple(block.empty(rows, self.width) for block in self.blocks)

  def step(self, codes: Int[Array, 'b n g'], state: Any) -> tuple[Float[Array, 'b n g k'], Any]:
    """Frames of codes that come next -> (logits of the frames behind each, the next state).

    The first frame of a clip has no codes, -1 for each. Of fewer codebooks than there are, the
    logits are those of as many.
    """
    order = caches.token_positions(state[0], codes.shape[1], None) - 1  # behind the token of zeros
    x, made = self._embed(codes, order), []
    for block, cache in zip(self.blocks, state, strict=True):
      x, cache = block(x, cache)
      made.append(cache)
    return self._logits(x, codes.shape[2]), tuple(made)

  # -- Parts -----------------------------------------------------------------------------------

  def _embed(self, codes: Int[Array, 'b n g'], order: Int[Array, '#b n']) -> Any:
    """Frames of codes, -1 for none, with their positions."""
    books = jnp.arange(codes.shape[-1])
    x = self.norm(self.tables[books, codes + 1].sum(axis=-2))
    half = self.width // 2
    # In float32 as PyTorch computes them.
    rates = np.float32(PERIOD) ** (np.arange(half, dtype=np.float32) / np.float32(half - 1))
    angles = order[..., None].astype(jnp.float32) / rates
    places = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return (x.astype(jnp.float32) + places).astype(self.dtype)

  def _logits(self, x: Float[Array, 'b n d'], g: int | None = None) -> Float[Array, 'b n g k']:
    kernel = self.kernel[:g].astype(x.dtype)
    y = jnp.einsum('bnd,gdk->bngk', x, kernel, precision='highest')
    return y.astype(jnp.float32) + self.bias[:g]

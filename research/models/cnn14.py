"""Cnn14: convolutions over a log-mel spectrogram (PANNs, Kong et al. 2020, arXiv 1912.10211), as
Microsoft's CLAP of 2022 has it. Upstream: microsoft/CLAP, commit e8a6467 (msclap/models/audio.py).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.errors import InputError
from research.nn import layers
from research.nn.batch_norm import BatchNorm
from research.nn.kernels.convolutions import conv3x3

CHANNELS = (64, 128, 256, 512, 1024, 2048)


def min_frames(channels: Sequence[int]) -> int:
  """The fewest frames that leave a token: every block but the last halves them."""
  return 2 ** (len(channels) - 1)


class ConvPair(nn.Module):
  """Two convolutions 3 x 3 without bias, each with batch norm and ReLU, and a mean over 2 x 2."""

  channels: int
  pools: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b s f c'], train: bool) -> Float[Array, 'b s2 f2 e']:
    for i in (1, 2):
      shape = (3, 3, x.shape[-1], self.channels)
      kernel = self.param(f'conv{i}', layers.xavier(9 * shape[2], 9 * shape[3]), shape)
      y = conv3x3(x.astype(self.dtype), kernel.astype(self.dtype))
      x = nn.relu(BatchNorm(dtype=self.dtype, name=f'norm{i}')(y, train))
    if not self.pools:
      return x
    b, rows, columns, c = x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3]
    squares = x[:, : 2 * rows, : 2 * columns].reshape(b, rows, 2, columns, 2, c)
    return squares.mean((2, 4))


class Cnn14(nn.Module):
  """Log-mel spectrograms to one token for 32 frames.

  Attributes:
    width: of the embedding.
    channels: of the blocks.
    classes: of the tagging head of AudioSet, which CLAP's weights still hold; 0 leaves it out.
  """

  width: int = 2048
  channels: Sequence[int] = CHANNELS
  classes: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b c s f'], train: bool = False) -> dict[str, Any]:
    """'tokens' [b, n, 1, e], 'embedding' [b, d], 'blocks', their outputs, and with classes
    'class_scores' [b, c].

    Raises:
      InputError: a spectrogram of fewer frames than blocks halve.
    """
    if x.shape[2] < min_frames(self.channels):
      raise InputError(f'Cnn14 got {x.shape[2]} frames; it needs {min_frames(self.channels)}.')
    y, blocks = BatchNorm(name='bn0')(x[:, 0], train)[..., None], []
    for i, channels in enumerate(self.channels):
      pools = i < len(self.channels) - 1
      y = ConvPair(channels, pools, self.dtype, name=f'block{i}')(y, train)
      blocks.append(y)
      y = nn.Dropout(0.2, deterministic=not train)(y)
    tokens = y.astype(jnp.float32).mean(axis=2)
    pooled = tokens.max(axis=1) + tokens.mean(axis=1)
    pooled = nn.Dropout(0.5, deterministic=not train)(pooled)
    hidden = nn.relu(layers.Dense(self.width, name='fc1')(pooled))
    out = {
      'tokens': tokens[:, :, None],
      'embedding': nn.Dropout(0.5, deterministic=not train)(hidden),
      'blocks': blocks,
    }
    if self.classes:
      out['class_scores'] = nn.sigmoid(layers.Dense(self.classes, name='tags')(out['embedding']))
    return out

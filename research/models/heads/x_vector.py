"""Speaker vectors by a time-delay network and statistics pooling (x-vectors, Snyder et al. 2018),
as SUPERB's speaker verification has them (s3prl downstream/sv_voxceleb1).

Letters: b batch, n tokens, d width, s speakers.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.errors import InputError
from research.nn import layers

# (frames, step between them) of each layer of the network.
CONTEXTS: tuple[tuple[int, int], ...] = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
SPAN = sum((taps - 1) * dilation for taps, dilation in CONTEXTS)  # 14 frames more than one


class XVector(nn.Module):
  """A projection, five time-delay layers, mean and standard deviation over frames, two layers.

  Training compares vectors with one of each speaker by `objectives.speakers`; what is compared
  later, the vector after the first layer, is of unit length.

  Attributes:
    speakers: s, of training; 0 leaves their vectors out.
    width: of the projection, of the layers and of vectors.
    pooled_width: of the last time-delay layer.
    extra_frame: in a padded batch a shorter clip is pooled over one frame more than it has, as in
      s3prl; alone every clip is the same.
  """

  PARAMETERS: ClassVar[tuple[str, ...]] = (
    'connector',
    *(f'tdnn_{i}' for i in range(len(CONTEXTS))),
    'segment_1',
    'segment_2',
    'speakers_kernel',
  )
  TRAINING: ClassVar[tuple[str, ...]] = ('extra_frame',)
  encoder_args: ClassVar[Mapping[str, Any]] = {}

  speakers: int = 1211
  width: int = 512
  pooled_width: int = 1500
  extra_frame: bool = False

  @property
  def speaker_width(self) -> int:
    """See `capabilities.ComparesSpeakers`."""
    return self.width

  @property
  def speaker_frames(self) -> int:
    """See `capabilities.ComparesSpeakers`."""
    return SPAN + 1

  def setup(self):
    self.connector = layers.Linear(self.width)
    last = len(CONTEXTS) - 1
    widths = [self.pooled_width if i == last else self.width for i in range(last + 1)]
    self.tdnn = [layers.Linear(width) for width in widths]
    self.segment_1 = layers.Linear(self.width)
    self.segment_2 = layers.Linear(self.width)
    if self.speakers:
      normal = nn.initializers.xavier_normal()
      self.speakers_kernel = self.param('speakers_kernel', normal, (self.width, self.speakers))

  def __call__(
    self,
    tokens: Float[Array, 'b n d'],
    mask: Bool[Array, 'b n'],
    encoded: Mapping[str, Any],
    train: bool,
  ) -> dict[str, Array]:
    """'embedding' [b, k] of unit length; 'frames' [b, n - 14, m], 'pooled' [b, 2 m], 'vector'
    [b, k], and 'cosine' [b, s] between it and every speaker's.

    Raises:
      InputError: the batch is shorter than the network's span.
    """
    del encoded, train
    if self.is_initializing():  # shapes are made from the smallest batch of an encoder
      short = max(0, SPAN + 1 - tokens.shape[1])
      tokens = jnp.pad(tokens, ((0, 0), (0, short), (0, 0)))
      mask = jnp.pad(mask, ((0, 0), (0, short)))
    n = tokens.shape[1]
    if n <= SPAN:
      raise InputError(
        f'A speaker vector needs {SPAN + 1} frames, and the longest clip has {n}: give longer ones.'
      )
    x = self.connector(jnp.where(mask[:, :, None], tokens, 0.0))
    for layer, (taps, dilation) in zip(self.tdnn, CONTEXTS):
      rest = x.shape[1] - (taps - 1) * dilation
      x = jnp.concatenate([x[:, i * dilation : i * dilation + rest] for i in range(taps)], axis=-1)
      x = jax.nn.relu(layer(x))
    counts = jnp.maximum(mask.sum(axis=1) - SPAN, 1)
    if self.extra_frame:
      counts = jnp.minimum(counts + (mask.sum(axis=1) < n).astype(counts.dtype), n - SPAN)
    pooled = _statistics(x, counts)
    first = jax.nn.relu(self.segment_1(pooled))
    vector = jax.nn.relu(self.segment_2(first))
    out = {'frames': x, 'pooled': pooled, 'vector': vector, 'embedding': _unit(first, 1)}
    if self.speakers:
      cosine = layers.product(_unit(vector, 1), _unit(self.speakers_kernel, 0), 1, jnp.float32)
      out['cosine'] = cosine
    return out


def _statistics(x: Float[Array, 'b n m'], counts: Array) -> Float[Array, 'b k']:
  """Mean and unbiased standard deviation of the first frames of each clip."""
  real = (jnp.arange(x.shape[1]) < counts[:, None])[:, :, None]
  count = counts[:, None].astype(jnp.float32)
  x = jnp.where(real, x, 0.0)
  mean = x.sum(axis=1) / count
  square = jnp.where(real, (x - mean[:, None]) ** 2, 0.0).sum(axis=1)
  variance = square / jnp.maximum(count - 1.0, 1.0)
  flat = variance == 0.0  # where the derivative of the root is infinite
  deviation = jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, variance)))
  return jnp.concatenate([mean, deviation], axis=-1)


def _unit(x: Array, axis: int) -> Array:
  """x / max(|x|, 1e-12), as torch's normalize."""
  square = jnp.sum(x * x, axis=axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))

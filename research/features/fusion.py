"""The input of LAION-CLAP with feature fusion: four spectrograms of a clip (arXiv 2211.06687,
section 3.2). Upstream: laion_clap 1.1.7 (src/laion_clap/training/data.py).

Letters: b batch, t samples, s spectrogram frames, f mel bins, m frames of a piece.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from research.features import clips, spectral
from research.features.frontend import Frontend
from research.features.spectral import Array


def piece_starts(
  total: Int[Array, 'b'], frames: int, u: Float[Array, 'b 3']
) -> Int[jax.Array, 'b 3']:
  """First frames of the front, middle and back piece.

  The possible starts, 0 to total - frames, are split in three parts as evenly as can be, longer
  parts first; one start comes from each. An empty part gives 0.

  Args:
    total: frames of the clips.
    frames: of a piece.
    u: draws in [0, 1).
  """
  count = jnp.maximum(jnp.asarray(total) - frames + 1, 1)[:, None]
  part = jnp.arange(3, dtype=jnp.int32)
  first = part * (count // 3) + jnp.minimum(part, count % 3)
  size = count // 3 + (part < count % 3).astype(jnp.int32)
  draw = jnp.floor(jnp.asarray(u) * size.astype(jnp.float32)).astype(jnp.int32)
  return jnp.where(size > 0, first + jnp.minimum(draw, jnp.maximum(size - 1, 0)), 0)


def shrunk(
  x: Float[Array, 'b s f'], total: Int[Array, 'b'], frames: int, antialias: bool = True
) -> Float[jax.Array, 'b m f']:
  """The first `total` frames of each clip as `frames` frames, linearly interpolated.

  Args:
    x: spectrograms.
    total: frames of the clips, at least `frames` of them.
    frames: m.
    antialias: average over what a frame covers (torchvision from 0.17 on), or take the two nearest
      frames (before).
  """
  scale = (jnp.asarray(total).astype(jnp.float32) / frames)[:, None, None]
  centre = (jnp.arange(frames, dtype=jnp.float32)[:, None] + 0.5) * scale
  at = jnp.arange(x.shape[1], dtype=jnp.float32) + 0.5
  reach = jnp.maximum(scale, 1.0) if antialias else jnp.ones_like(scale)
  if not antialias:
    # Without averaging the edges repeat.
    last = jnp.asarray(total).astype(jnp.float32)[:, None, None] - 0.5
    centre = jnp.clip(centre, 0.5, last)
  weight = jnp.maximum(0.0, 1.0 - jnp.abs(at - centre) / reach)
  weight = jnp.where(at < jnp.asarray(total).astype(jnp.float32)[:, None, None], weight, 0.0)
  weight = weight / weight.sum(axis=2, keepdims=True)
  return jnp.einsum('bms,bsf->bmf', weight, jnp.asarray(x), precision='highest')


def fusion_spectrograms(
  frontend: Frontend,
  audio: Float[Array, 'b t'],
  audio_mask: Bool[Array, 'b t'],
  u: Float[Array, 'b 3'],
  *,
  samples: int,
  starts: Int[Array, 'b 3'] | None = None,
  antialias: bool = True,
) -> tuple[Float[jax.Array, 'b 4 m f'], Bool[jax.Array, 'b']]:
  """Log-mels of a clip: the whole one shrunk, and its front, middle and back piece.

  Clips of up to `samples` are repeated and padded, and their four spectrograms are equal; so are
  those of a clip that is longer by less than a frame.

  Args:
    frontend: not normalised.
    audio, audio_mask: the clips.
    u: draws in [0, 1) of the starts of the pieces.
    samples: of a piece.
    starts: the starts themselves, in frames; None: by `u`.
    antialias: see `shrunk`.

  Returns:
    the spectrograms, and which clips are longer than a piece.
  """
  frames = frontend.frames(samples)
  filled = clips.repeat_pad(audio, audio_mask, samples=samples)
  short, _ = frontend.raw(filled, jnp.ones(filled.shape, bool))
  short = jnp.repeat(short[:, None], 4, axis=1)
  if audio.shape[1] <= samples:
    return short, jnp.zeros(len(audio), bool)
  whole, mask = frontend.raw(audio, audio_mask)
  total = mask.sum(axis=1).astype(jnp.int32)
  above = spectral.clip_lengths(audio_mask) > samples
  longer = above & (total > frames)
  first = piece_starts(total, frames, u) if starts is None else jnp.asarray(starts)
  first = jnp.where(longer[:, None], first, 0)
  index = first[:, :, None] + jnp.arange(frames, dtype=jnp.int32)
  pieces = jnp.take_along_axis(whole[:, None], index[..., None], axis=2, mode='clip')
  small = shrunk(whole, jnp.maximum(total, frames), frames, antialias)
  small = jnp.where(longer[:, None, None], small, whole[:, :frames])
  four = jnp.concatenate([small[:, None], pieces], axis=1)
  return jnp.where(above[:, None, None, None], four, short), longer

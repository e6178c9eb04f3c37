"""How many frames of a clip reach a head, as s3prl counts them (SUPERB, arXiv 2105.01051).

Sources: s3prl upstream/interfaces.py (the runner of the benchmark) and nn/upstream.py (its newer
interface). Letters: b batch, n frames, d width.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from research.errors import InputError
from research.features.spectral import Array

Counts = TypeVar('Counts', int, np.ndarray)

TOLERANCE = 5  # frames between a model's output and the rounded length that are no longer accepted


def rounded_frames(samples: Counts, rate: int) -> Counts:
  """round(samples / rate), halves to the even number: 16160 / 320 = 50.5 is 50.

  Args:
    samples: of each clip.
    rate: samples from frame to frame, 320 for wav2vec 2.0, HuBERT and WavLM, 160 for wav2vec.
  """
  found = np.rint(np.asarray(samples) / rate).astype(np.int64)
  return int(found) if isinstance(samples, int) else found


def padded_frames(samples: Counts, rate: int) -> Counts:
  """ceil(samples / rate), the count of the newer interface, which repeats the last frame."""
  found = -(-np.asarray(samples) // rate)
  return int(found) if isinstance(samples, int) else found


def batch_frames(samples: np.ndarray, rate: int, frames: int) -> np.ndarray:
  """Frames of each clip of a padded batch that reach the head: the rounded length, as far as there
  are frames. A shorter clip may keep one that its model computed partly on padding.

  Args:
    samples: of each clip [b].
    rate: samples from frame to frame.
    frames: that the model gave for the batch.

  Raises:
    InputError: the model's frames are far from the longest clip's.
  """
  lengths = rounded_frames(np.asarray(samples), rate)
  if abs(int(lengths.max()) - frames) >= TOLERANCE:
    raise InputError(
      f'The model gave {frames} frames for {int(np.max(samples))} samples; with {rate} samples a '
      f'frame about {int(lengths.max())} were expected. Check the rate.'
    )
  return np.minimum(lengths, frames)


def match_frames(
  x: Float[Array, 'b n d'], frames: int, repeat: bool = False
) -> Float[jax.Array, 'b m d']:
  """A batch with another number of frames: cut, or its last frame repeated.

  Args:
    x: features; in a padded batch the last frame of a shorter clip is padding.
    frames: m.
    repeat: as diarization in s3prl, every frame first comes round(m / n) times, halves to the even
      number, where that is above 1: for labels with a finer step than the features.
  """
  x = jnp.asarray(x)
  factor = round(frames / x.shape[1]) if repeat else 1
  x = jnp.repeat(x, factor, axis=1) if factor > 1 else x
  short = frames - x.shape[1]
  return x[:, :frames] if short <= 0 else jnp.pad(x, ((0, 0), (0, short), (0, 0)), mode='edge')

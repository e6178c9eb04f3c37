"""In which order a language model reads and writes the codes of several codebooks.

A pattern lays frames of codes [n, g] out as steps [s, g]: at each step some codebooks have the code
of a frame, the others have none. Letters: b rows, n frames, s steps, g codebooks, k codes.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from research.errors import unknown

# 'delay': codebook q of frame j at step j + q (MusicGen, arXiv 2306.05284, §2.1). 'flat': one code
# a step, those of a frame one behind the other. 'parallel': all codes of a frame at one step.
PATTERNS = ('delay', 'flat', 'parallel')


def steps(pattern: str, frames: int, codebooks: int) -> int:
  """Number of steps of N frames.

  Raises:
    InputError: an unknown pattern.
  """
  if pattern not in PATTERNS:
    raise unknown('pattern of codes', pattern, PATTERNS)
  if pattern == 'flat':
    return frames * codebooks
  return frames + codebooks - 1 if pattern == 'delay' and frames else frames


def frame_of(pattern: str, frames: int, codebooks: int) -> Int[np.ndarray, 's g']:
  """The frame whose code a codebook has at a step; -1 where it has none."""
  s = np.arange(steps(pattern, frames, codebooks))[:, None]
  q = np.arange(codebooks)[None]
  if pattern == 'flat':
    return np.where(s % codebooks == q, s // codebooks, -1)
  at = s - q if pattern == 'delay' else s + 0 * q
  return np.where((at >= 0) & (at < frames), at, -1)


def lay_out(codes, pattern: str, empty: int):
  """Codes [b, n, g] as steps [b, s, g], `empty` where a codebook has none. Of numpy or jax."""
  n, g = codes.shape[1:]
  at = frame_of(pattern, n, g)
  taken = codes[:, np.maximum(at, 0), np.arange(g)[None]]
  where = np.where if isinstance(codes, np.ndarray) else jnp.where
  return where(at[None] >= 0, taken, empty)


def gather(laid, pattern: str, frames: int):
  """The inverse of `lay_out`: steps [b, s, g] to codes [b, n, g]."""
  g = laid.shape[2]
  return laid[:, step_of(pattern, frames, g), np.arange(g)[None]]


def step_of(pattern: str, frames: int, codebooks: int) -> Int[np.ndarray, 'n g']:
  """The step at which a codebook has the code of a frame."""
  j, q = np.arange(frames)[:, None], np.arange(codebooks)[None]
  if pattern == 'flat':
    return j * codebooks + q
  return j + q if pattern == 'delay' else j + 0 * q


def known_steps(pattern: str, frames: int, codebooks: int) -> int:
  """Steps at the beginning of which nothing is left to write, where N frames of a clip are given
  that goes on."""
  if pattern == 'delay':
    return frames
  return steps(pattern, frames, codebooks)

"""Lengths of strided convolutions, and convolutions that see only the past.

Letters: b batch, n frames, i channels in, o channels out, p kernel taps.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def frames_after(
  count: Int[Array, '*b'] | int, layers: tuple[tuple[int, int, int], ...]
) -> Int[Array, '*b'] | int:
  """Frames that (channels, kernel, stride) layers without padding make of `count` samples.

  Only real samples count: a frame is real where its whole receptive field is. Never below 0.
  """
  for _, kernel, stride in layers:
    count = (count - kernel) // stride + 1
  return jnp.maximum(count, 0) if isinstance(count, jax.Array) else max(count, 0)


def receptive_field(layers: tuple[tuple[int, int, int], ...]) -> tuple[int, int]:
  """(samples that one frame sees, samples from frame to frame) of (channels, kernel, stride)
  layers."""
  window, hop = 1, 1
  for _, kernel, stride in layers:
    window += (kernel - 1) * hop
    hop *= stride
  return window, hop

"""SpecAug on learned features: time warp, feature masks, time masks (SpecAugment, arXiv 1904.08779,
as SUPERB's ASR and slot filling have it: s3prl downstream/asr/model.py, ctc/specaug.py).

Letters: b batch, n frames, d width, k masks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from research.features.spectral import Array, clip_lengths

# SUPERB: frames that a warp moves at most; widths are below their limits, which never occur.
WARP_WINDOW, TIME_WIDTH, TIME_MASKS, FEATURE_WIDTH, FEATURE_MASKS = 5, 40, 2, 50, 4
CUBIC = -0.75  # the coefficient of torch's bicubic interpolation


class FeatureDraws(NamedTuple):
  """What is random.

  Attributes:
    warp_center, warp_to: frame that moves, and where; -1 for a clip that is not warped [b].
    feature_start, feature_width: of masks over the width [b, k].
    time_start, time_width: of masks over frames [b, k].
  """

  warp_center: Int[Array, ' b']
  warp_to: Int[Array, ' b']
  feature_start: Int[Array, 'b k']
  feature_width: Int[Array, 'b k']
  time_start: Int[Array, 'b l']
  time_width: Int[Array, 'b l']


def mask_features(
  x: Float[Array, 'b n d'], mask: Bool[Array, 'b n'], draws: FeatureDraws
) -> Float[jax.Array, 'b n d']:
  """Features under given draws; masked values are 0, and so is what is behind the mask."""
  x = jnp.where(jnp.asarray(mask)[:, :, None], jnp.asarray(x), 0.0)
  x = time_warp(x, clip_lengths(mask), draws.warp_center, draws.warp_to)
  bands = _holes(draws.feature_start, draws.feature_width, x.shape[2])
  spans = _holes(draws.time_start, draws.time_width, x.shape[1])
  gone = bands[:, None, :] | spans[:, :, None] | ~jnp.asarray(mask)[:, :, None]
  return jnp.where(gone, 0.0, x)


def draw_feature_masks(
  key: PRNGKeyArray,
  mask: Bool[Array, 'b n'],
  width: int,
  *,
  warp_window: int = WARP_WINDOW,
  time_width: int = TIME_WIDTH,
  time_masks: int = TIME_MASKS,
  feature_width: int = FEATURE_WIDTH,
  feature_masks: int = FEATURE_MASKS,
) -> FeatureDraws:
  """Random draws for a batch.

  Starts leave room for the widest mask of the whole batch, and frames are those of the padded
  batch: a mask may fall in padding. Clips of 2 * warp_window frames or less are not warped.

  Args:
    key: random key.
    mask: real frames.
    width: d.
    warp_window: frames on each side; 0 warps nothing.
    time_width, feature_width: widths are below.
    time_masks, feature_masks: masks a clip.
  """
  rows, frames = mask.shape
  keys = jax.random.split(key, 6)
  lengths = clip_lengths(mask)
  warps = (lengths > 2 * warp_window) & (warp_window > 0)
  top = jnp.maximum(lengths - warp_window, warp_window + 1)
  center = jax.random.randint(keys[0], (rows,), warp_window, top)
  shift = jax.random.randint(keys[1], (rows,), -warp_window, max(warp_window, 1 - warp_window))
  found = [jnp.where(warps, x, -1) for x in (center, center + shift + 1)]
  for limit, count, size, own in (
    (feature_width, feature_masks, width, keys[2:4]),
    (time_width, time_masks, frames, keys[4:6]),
  ):
    widths = jax.random.randint(own[0], (rows, count), 0, max(limit, 1))
    room = jnp.maximum(size - widths.max(initial=0), 1)
    found += [jax.random.randint(own[1], (rows, count), 0, room), widths]
  return FeatureDraws(*found)


def time_warp(
  x: Float[Array, 'b n d'],
  lengths: Int[Array, ' b'],
  center: Int[Array, ' b'],
  to: Int[Array, ' b'],
) -> Float[jax.Array, 'b n d']:
  """Resizes the frames before `center` to `to` frames and the rest to what is left.

  Each part by itself, by cubic interpolation without anti-aliasing, edges repeated (torch's
  interpolate, bicubic, align_corners=False).

  Args:
    x: features; behind a clip's length they stay as they are.
    lengths: frames of each clip.
    center: first frame of the second part; -1: the clip stays as it is.
    to: where it goes, from 1 to the length.
  """
  x, center, to = jnp.asarray(x), jnp.asarray(center), jnp.asarray(to)
  at = jnp.arange(x.shape[1])[None]
  lengths = jnp.asarray(lengths)
  warped = ((center >= 0)[:, None]) & (at < lengths[:, None])
  center, to = jnp.maximum(center, 1), jnp.maximum(to, 1)
  first = at < to[:, None]

  def pick(a, b):  # by part of the clip
    return jnp.where(first, a[:, None], b[:, None])

  start, size = pick(jnp.zeros_like(center), center), pick(center, lengths - center)
  begin, new = pick(jnp.zeros_like(to), to), pick(to, lengths - to)
  scale = size.astype(jnp.float32) / jnp.maximum(new, 1).astype(jnp.float32)
  source = ((at - begin).astype(jnp.float32) + 0.5) * scale - 0.5
  base = jnp.floor(source)
  weights = _cubic(source - base)
  base = base.astype(jnp.int32)
  out = jnp.zeros_like(x)
  for tap in range(4):
    index = start + jnp.clip(base + (tap - 1), 0, jnp.maximum(size - 1, 0))
    index = jnp.where(warped, index, at)
    out += jnp.take_along_axis(x, index[:, :, None], axis=1) * weights[tap][:, :, None]
  return jnp.where(warped[:, :, None], out, x)


def _cubic(t: Float[Array, 'b n']) -> list[Float[Array, 'b n']]:
  """Weights of the frames before, at, and the two after a place t behind the second."""
  a = np.float32(CUBIC)

  def near(u):
    return ((a + 2) * u - (a + 3)) * u * u + 1

  def far(u):
    return ((a * u - 5 * a) * u + 8 * a) * u - 4 * a

  return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _holes(
  start: Int[Array, 'b k'], width: Int[Array, 'b k'], size: int
) -> Bool[jax.Array, 'b size']:
  at = jnp.arange(size)
  start, width = jnp.asarray(start)[..., None], jnp.asarray(width)[..., None]
  return ((at >= start) & (at < start + width)).any(axis=1)

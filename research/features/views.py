"""BYOL-A's augmentations (views) of log-mel spectrograms, and its normalisations; batched.

All functions are pure: draws, the memory bank and the running statistics are arguments. Uniform
draws are in [0, 1); published draws give the published result. Sources: nttcslab/byol-a,
byol_a/augmentations.py and v2/byol_a2/augmentations.py (arXiv 2103.06695 and 2204.07402).

Spectrograms are [b, s, f], frames before bins; the published boxes (i, j, h, w) count bins first.
Dimensions: b batch, r views, s frames, f bins, m clips of the bank.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

EPS = 1.1920928955078125e-07  # np.finfo(np.float32).eps
CUBIC = -0.75  # parameter a of torch's bicubic interpolation


# -- Mixing with past clips ----------------------------------------------------------------------


class Bank(NamedTuple):
  """The last m clips, unmixed; `seen` counts all clips so far."""

  clips: Float[Array, 'm s f']
  seen: Int[Array, '']


def log_mix(
  x: Float[Array, '*shape'], z: Float[Array, '*shape'], alpha: Float[Array, '*#shape']
) -> Float[Array, '*shape']:
  """ln(alpha exp(x) + (1 - alpha) exp(z)): mixes in the linear domain."""
  return jnp.log(alpha * jnp.exp(x) + (1.0 - alpha) * jnp.exp(z) + EPS)


def mix_with_past(
  x: Float[Array, 'b s f'],
  bank: Bank,
  u: Float[Array, 'b r'],
  choice: Float[Array, 'b r'],
  *,
  ratio: float,
) -> tuple[Float[Array, 'b r s f'], Bank]:
  """r mixes of every clip with past clips, and the updated bank.

  The published code processes clips and views one by one: each mix draws uniformly from the last
  r * m inputs, and then its input is added to the bank. So the second view of a clip may draw the
  clip itself, and the very first mix changes nothing.

  Args:
    x: log-mel, normalised.
    bank: past clips.
    u: draws of the mixing weight; the other clip has weight ratio * u.
    choice: draws of the other clip, from the oldest to the newest.
    ratio: maximum mixing weight.
  """
  b, views = u.shape
  m = bank.clips.shape[0]
  clip = jnp.arange(b, dtype=jnp.int32)[:, None]
  view = jnp.arange(views, dtype=jnp.int32)[None]
  # Inputs are numbered in order, r per clip; a mix may draw from the r * m inputs before it.
  before = views * (bank.seen + clip) + view
  known = jnp.minimum(before, views * m)
  drawn = jnp.floor(choice * known.astype(jnp.float32)).astype(jnp.int32)
  drawn = jnp.minimum(drawn, jnp.maximum(known - 1, 0))
  other = (before - known + drawn) // views
  place = jnp.where(other < bank.seen, other % m, m + other - bank.seen)
  z = jnp.concatenate([bank.clips, x])[jnp.clip(place, 0, m + b - 1)]
  alpha = (ratio * u)[:, :, None, None]
  mixed = log_mix(z, jnp.broadcast_to(x[:, None], z.shape), alpha)
  mixed = jnp.where((known > 0)[:, :, None, None], mixed, x[:, None])

  last = x[-m:]
  first = bank.seen + b - last.shape[0]
  slots = (first + jnp.arange(last.shape[0], dtype=jnp.int32)) % m
  return mixed, Bank(bank.clips.at[slots].set(last), bank.seen + b)


def mix_noise(
  x: Float[Array, '*shape'],
  u: Float[Array, '*#shape'],
  noise: Float[Array, '*shape'],
  *,
  ratio: float,
) -> Float[Array, '*shape']:
  """ln((1 - lambda) exp(x) + exp(lambda noise)), lambda = ratio * u; noise is standard normal."""
  weight = ratio * u
  return jnp.log((1.0 - weight) * jnp.exp(x) + jnp.exp(weight * noise) + EPS)


# -- Resize and fade ---------------------------------------------------------------------------


class CropSettings(NamedTuple):
  """Canvas and boxes of the random resize crop, relative to the spectrogram."""

  canvas: tuple[float, float] = (1.0, 1.5)  # bins, frames
  freq: tuple[float, float] = (0.6, 1.5)
  time: tuple[float, float] = (0.6, 1.5)


PUBLISHED = CropSettings()


def canvas_size(bins: int, frames: int, settings: CropSettings) -> tuple[int, int]:
  """(bins, frames) of the zero canvas; the spectrogram is in its centre."""
  return int(bins * settings.canvas[0]), int(frames * settings.canvas[1])


def crop_boxes(
  size: Float[Array, 'n 2'],
  place: Float[Array, 'n 2'],
  *,
  bins: int,
  frames: int,
  settings: CropSettings = PUBLISHED,
) -> Int[Array, 'n 4']:
  """Boxes (i, j, h, w) on the canvas: first bin, first frame, bins, frames.

  Args:
    size: draws of height and width.
    place: draws of the first bin and the first frame, uniform over all positions that fit.
    bins, frames: size of the spectrogram.
    settings: see `CropSettings`.
  """
  tall, wide = canvas_size(bins, frames, settings)

  def extent(u, span, base, limit):
    low, high = span
    return jnp.clip(((low + (high - low) * u) * base).astype(jnp.int32), 1, limit)

  h = extent(size[:, 0], settings.freq, bins, bins)
  w = extent(size[:, 1], settings.time, frames, wide)
  room = jnp.stack([tall - h, wide - w], axis=1)
  first = jnp.floor(place * (room + 1).astype(jnp.float32)).astype(jnp.int32)
  return jnp.concatenate([jnp.minimum(first, room), h[:, None], w[:, None]], axis=1)


def resize_crop(
  x: Float[Array, 'n s f'], boxes: Int[Array, 'n 4'], settings: CropSettings = PUBLISHED
) -> Float[Array, 'n s f']:
  """Resizes every clip's box of the canvas to the size of the clip.

  Bicubic with a = -0.75 and aligned corners (torch's interpolate); taps beyond the box use its
  edge. Computed by two products with matrices of four weights per row: no gather, and boxes of
  different sizes in one batch.
  """
  _, frames, bins = x.shape
  tall, wide = canvas_size(bins, frames, settings)
  top, left = (tall - bins) // 2, (wide - frames) // 2
  i, j, h, w = (boxes[:, k] for k in range(4))
  # The zeros around the spectrogram need no columns.
  rows = _bicubic(j - left, w, frames)
  columns = _bicubic(i - top, h, bins)
  exact = jax.lax.Precision.HIGHEST
  x = jnp.einsum('nos,nsf->nof', rows, x, precision=exact)
  return jnp.einsum('nof,npf->nop', x, columns, precision=exact)


def _bicubic(
  first: Int[Array, 'n'], length: Int[Array, 'n'], size: int
) -> Float[Array, 'n size size']:
  """Weights that resize the box, `length` of `size` positions from `first`, to `size` positions."""
  step = (length - 1).astype(jnp.float32) / max(size - 1, 1)
  at = step[:, None] * jnp.arange(size, dtype=jnp.float32)
  floor = jnp.floor(at)
  t = at - floor
  a = CUBIC

  def near(d):  # distance up to 1
    return ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0

  def far(d):  # distance 1 to 2
    return ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a

  out = jnp.zeros((*at.shape, size), jnp.float32)
  places = jnp.arange(size, dtype=jnp.int32)
  for tap, weight in ((-1, far(t + 1.0)), (0, near(t)), (1, near(1.0 - t)), (2, far(2.0 - t))):
    source = jnp.clip(floor.astype(jnp.int32) + tap, 0, (length - 1)[:, None]) + first[:, None]
    out += jnp.where(source[:, :, None] == places, weight[:, :, None], 0.0)
  return out


def linear_fade(
  x: Float[Array, 'n s f'], u: Float[Array, 'n 2'], *, gain: float = 1.0
) -> Float[Array, 'n s f']:
  """Adds a line over time, from gain (2 u_0 - 1) to gain (2 u_1 - 1)."""
  ends = gain * (2.0 * u - 1.0)
  at = jnp.linspace(0.0, 1.0, x.shape[1], dtype=jnp.float32)
  return x + (ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * at)[:, :, None]


# -- Normalisation -----------------------------------------------------------------------------


class Running(NamedTuple):
  """Mean and mean squared deviation of all clips so far, and their number."""

  mean: Float[Array, '']
  square: Float[Array, '']
  clips: Int[Array, '']


def running_normalise(
  x: Float[Array, 'b s f'], running: Running, limit: int | None = None
) -> tuple[Float[Array, 'b s f'], Running, Float[Array, 'b 2']]:
  """Normalises each clip by the mean and standard deviation of all clips up to it. Also returns the
  updated statistics, and the (mean, deviation) used for each clip.

  As published, statistics are updated clip by clip; a deviation is relative to the mean at that
  clip. They are frozen after `limit` clips.
  """
  b = x.shape[0]
  number = running.clips + 1 + jnp.arange(b, dtype=jnp.int32)
  counts = jnp.ones(b, bool) if limit is None else number <= limit
  number = jnp.where(counts, number, jnp.maximum(running.clips, limit or 0)).astype(jnp.float32)
  gain = jnp.where(counts, 1.0, 0.0)

  def mean_so_far(values, old):
    return old + jnp.cumsum(gain * (values - old)) / number

  means = mean_so_far(x.mean(axis=(1, 2)), running.mean)
  squares = jnp.square(x - means[:, None, None]).mean(axis=(1, 2))
  squares = mean_so_far(squares, running.square)
  stds = jnp.maximum(jnp.sqrt(squares), EPS)
  after = Running(means[-1], squares[-1], running.clips + counts.sum(dtype=jnp.int32))
  normed = (x - means[:, None, None]) / stds[:, None, None]
  return normed, after, jnp.stack([means, stds], axis=1)


def normalise_batch(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """Normalises by the mean and the unbiased standard deviation of the whole batch."""
  centred = x - x.mean()
  variance = jnp.square(centred).sum() / (math.prod(x.shape) - 1)
  return centred / jnp.maximum(jnp.sqrt(variance), EPS)

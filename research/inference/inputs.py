"""Audio of any kind in, embeddings out: the two lines of a notebook."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import soxr
from jaxtyping import Float

from research.audio.decode import decode
from research.audio.example import Example
from research.errors import InputError, unknown
from research.nn import pooling

# Clips are padded to lengths on a geometric grid, so that few programs are compiled.
GROWTH = 1.25
# Samples beyond this were never scaled to [-1, 1].
LOUDEST = 100.0

Audio = np.ndarray | str | os.PathLike


class Embedder:
  """`embed` for what has a `model` (with `embed` and `frontend`) and `variables`."""

  model: Any
  variables: dict[str, Any]

  def embed(
    self,
    audio: Audio | Sequence[Audio],
    sample_rate: float | None = None,
    *,
    layers: str | int = 'last',
    pool: str | None = None,
    batch_size: int = 16,
  ) -> np.ndarray | list[np.ndarray]:
    """Embeddings of one clip or many, of any length.

    Args:
      audio: samples in [-1, 1] ([t] for one clip, [b, t] for several), a path, or a list of either.
      sample_rate: of arrays, Hz; they are resampled to the front-end's. Files know theirs.
      layers: 'last', 'all', or one by number (0 is the stem, negative from the end).
      pool: over a clip's tokens, a key of `models.pooling.POOLS`, or 'none' for every token; None
        for the model's usual one: 'mean', or 'mean+max' for BYOL-A.
      batch_size: clips embedded at once, at most.

    Returns:
      float32. One clip: [k] (k = d, or 2 d for 'mean_std') or [n, d] (pool 'none'); several:
      [b, k], or a list of [n, d], in the order given. With layers='all' each has a leading layer
      axis per clip: [l, k], [b, l, k] ….

    Raises:
      InputError: a clip is too short for one frame (with both numbers), not finite, not readable,
        or an array comes without its sample rate.
    """
    pool = pool or self.model.EMBEDDING.pool
    if pool not in (*pooling.POOLS, 'none'):
      raise unknown('pool', pool, (*pooling.POOLS, 'none'))
    single, clips = self._clips(audio, sample_rate)
    results: list[Any] = [None] * len(clips)
    order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
    for start in range(0, len(order), batch_size):
      rows = order[start : start + batch_size]
      # A short last batch has its own size rather than many fillers.
      size = batch_size if len(rows) > batch_size // 2 else 2 ** (len(rows) - 1).bit_length()
      for row, value in zip(rows, self._batch([clips[i] for i in rows], size, layers, pool)):
        results[row] = value
    if single:
      return results[0]
    return np.stack(results) if pool != 'none' and results else results

  # -- Parts -----------------------------------------------------------------------------------

  def _clips(self, audio, sample_rate) -> tuple[bool, list[np.ndarray]]:
    single, clips = several(audio, sample_rate)
    return single, [self._clip(x, sample_rate, i) for i, x in enumerate(clips)]

  def _clip(self, audio: Audio, sample_rate: float | None, index: int) -> Float[np.ndarray, 't']:
    frontend = self.model.frontend
    if isinstance(audio, (str, os.PathLike)):
      where = str(Path(audio))
      samples = decode(Example(where, {}, path=where), sample_rate=frontend.sample_rate)
    else:
      where = f'clip {index}'
      samples = at_rate(audio, sample_rate, frontend.sample_rate, where)
    if len(samples) < frontend.min_samples:
      raise InputError(f'{where} {too_short(len(samples), frontend)}.')
    most = self.model.EMBEDDING.max_seconds
    if most is not None and len(samples) > most * frontend.sample_rate:
      raise InputError(
        f'{where} has {len(samples) / frontend.sample_rate:.0f} s, more than the {most:.0f} s that '
        'the model takes in one piece: cut it, for instance into pieces of 30 s.'
      )
    return samples

  def _batch(self, clips: list[np.ndarray], size: int, layers: str | int, pool: str):
    longest = max(len(clip) for clip in clips)
    width = bucket(longest, self.model.frontend.min_samples)
    audio, mask = np.zeros((size, width), np.float32), np.zeros((size, width), bool)
    for row, clip in enumerate(clips):
      audio[row, : len(clip)] = clip
      mask[row, : len(clip)] = True
    tokens, token_mask = _embed(self.model, layers, pool, self.variables, audio, mask)
    tokens, token_mask = np.asarray(tokens), np.asarray(token_mask)
    for row in range(len(clips)):
      yield tokens[row] if pool != 'none' else tokens[row][..., token_mask[row], :]


# -- Audio from a notebook -------------------------------------------------------------------


def several(audio: Audio | Sequence[Audio], sample_rate: float | None) -> tuple[bool, list[Audio]]:
  """Whether it is one clip, and the list of clips.

  Raises:
    InputError: neither a path nor samples nor several of either, or no sample rate.
  """
  single = isinstance(audio, (str, os.PathLike)) or (
    isinstance(audio, np.ndarray) and audio.ndim == 1
  )
  if not single and (audio is None or not np.iterable(audio)):
    raise InputError(
      f'Audio is {type(audio).__name__}; expected a path, samples [t], or several of either.'
    )
  if isinstance(audio, np.ndarray) and audio.ndim == 2 and audio.shape[1] <= 8:
    raise InputError(
      f'Audio is an array of shape {audio.shape}, which looks like [samples, channels]: give '
      'one channel, or the mean over channels.'
    )
  if sample_rate is not None and not _is_rate(sample_rate):
    raise InputError(f'sample_rate is {sample_rate!r}; expected one number of Hz, at least 1.')
  return single, [cast(Audio, audio)] if single else list(cast(Sequence[Audio], audio))


def at_rate(
  audio: Any, sample_rate: float | None, wanted: int, where: str
) -> Float[np.ndarray, 't']:
  """Samples that were checked, as float32 at `wanted` Hz; `where` names them in messages.

  Raises:
    InputError: they come without their rate, or are no finite float samples in [-1, 1].
  """
  samples = np.asarray(audio)
  if sample_rate is None:
    raise InputError(
      f"{where} comes without sample_rate: give it in Hz ({wanted} if it is at the model's own)."
    )
  if samples.ndim != 1 or samples.dtype.kind != 'f':
    raise InputError(
      f'{where} has shape {samples.shape} and type {samples.dtype}; expected float samples '
      '[t] in [-1, 1] (16-bit integers divided by 32768), one array a clip.'
    )
  if not np.isfinite(samples).all():
    raise InputError(f'{where} holds samples that are not numbers (NaN or infinite).')
  if samples.size and np.abs(samples).max() > LOUDEST:
    raise InputError(
      f'{where} has samples up to {np.abs(samples).max():g}; expected [-1, 1]: divide 16-bit '
      'integers by 32768.'
    )
  samples = samples.astype(np.float32)
  if sample_rate != wanted:
    samples = soxr.resample(samples, sample_rate, wanted, quality='HQ')
  return samples


def too_short(samples: int, frontend: Any) -> str:
  """What to say of a clip below one frame, with both numbers."""
  return (
    f'is too short: {samples} samples at {frontend.sample_rate} Hz, and one frame takes '
    f'{frontend.min_samples} ({1000 * frontend.min_samples / frontend.sample_rate:g} ms)'
  )


def _is_rate(value: Any) -> bool:
  number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
  return bool(number and np.isfinite(value) and value >= 1)


def bucket(samples: int, least: int) -> int:
  """The next length of the geometric grid that starts at `least` samples."""
  length = float(least)
  while int(length) < samples:
    length *= GROWTH
  return int(length)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _embed(model: nn.Module, layers: str | int, pool: str, variables, audio, audio_mask):
  """Tokens of the asked layers, [b, (l,) d] pooled or [b, (l,) n, d], and the mask [b, n]."""
  out = model.apply(variables, audio, audio_mask, method='embed')
  tokens, mask = cast(tuple[jax.Array, jax.Array], out)
  tokens = tokens.astype(jnp.float32)
  depth = tokens.shape[0]
  if layers == 'last':
    tokens = tokens[-1:]
  elif isinstance(layers, int) and -depth <= layers < depth:
    tokens = tokens[layers][None]
  elif layers != 'all':
    raise InputError(
      f"layers={layers!r} was given; this model has 'last', 'all' and 0 (stem) to {depth - 1}."
    )
  if pool != 'none':
    tokens = pooling.POOLS[pool](tokens, mask)
  return tokens[0] if layers != 'all' else jnp.moveaxis(tokens, 0, 1), mask

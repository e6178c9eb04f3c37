"""Audio as a person gives it, paths or arrays at any rate, to samples that a model takes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import soxr
from jaxtyping import Bool, Float

from research.audio.decode import decode
from research.audio.example import Example
from research.errors import InputError

# Samples beyond this were never scaled to [-1, 1].
LOUDEST = 100.0

Audio = np.ndarray | str | os.PathLike


def several(audio: Audio | Sequence[Audio], sample_rate: float | None) -> tuple[bool, list[Audio]]:
  """Whether it is one clip, and the list of clips.

  Raises:
    InputError: neither a path nor samples nor several of either, no sample rate that can be, or
      one with nothing but paths.
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
  clips = [cast(Audio, audio)] if single else list(cast(Sequence[Audio], audio))
  if sample_rate is not None and clips and all(isinstance(c, (str, os.PathLike)) for c in clips):
    raise InputError(
      f'sample_rate={sample_rate} was given with a path: it is for arrays, a file has its own; '
      'leave it out.'
    )
  return single, clips


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


def samples_of(
  audio: Audio, sample_rate: float | None, frontend: Any, index: int, max_seconds: float | None
) -> Float[np.ndarray, 't']:
  """A path or samples as samples at the rate of a front-end; clip `index` of a call.

  Raises:
    InputError: it cannot be read or used, has less than a frame, or more than `max_seconds`.
  """
  if isinstance(audio, (str, os.PathLike)):
    where = str(Path(audio))
    samples = decode(Example(where, {}, path=where), sample_rate=frontend.sample_rate)
  else:
    where = f'clip {index}'
    samples = at_rate(audio, sample_rate, frontend.sample_rate, where)
  if len(samples) < frontend.min_samples:
    raise InputError(f'{where} {too_short(len(samples), frontend)}.')
  if max_seconds is not None and len(samples) > max_seconds * frontend.sample_rate:
    raise InputError(
      f'{where} has {len(samples) / frontend.sample_rate:.0f} s, more than the {max_seconds:.0f} s '
      'that the model takes in one piece: cut it, for instance into pieces of 30 s.'
    )
  return samples


def padded(
  clips: Sequence[np.ndarray], size: int, width: int
) -> tuple[Float[np.ndarray, 'b t'], Bool[np.ndarray, 'b t']]:
  """Clips as a batch of `size` rows of `width` samples, and which samples are real."""
  audio, mask = np.zeros((size, width), np.float32), np.zeros((size, width), bool)
  for row, clip in enumerate(clips):
    audio[row, : len(clip)] = clip
    mask[row, : len(clip)] = True
  return audio, mask

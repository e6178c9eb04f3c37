"""Audio files to float32 samples: open, seek, mix to mono, resample.

Formats are those of libsndfile: WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, AU, CAF, W64, SPHERE,
detected by content, not by extension; others (AAC, AMR, WMA, WebM, …) with the extra `[media]`.
A header's length is checked against what the file holds, and joined files are read to their end
(`audio/formats/`). A window is the slice of the whole, bit for bit where nothing is resampled.
Resampling is soxr's 'HQ' (linear phase, 20 bit).
"""

import functools
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import soxr
from jaxtyping import Float

from research.audio import trouble
from research.audio.example import Example
from research.audio.formats.raw import Fault
from research.audio.formats.streams import Streams, mono
from research.errors import InputError

# Input samples read on both sides of a crop, so that the resampler gives the samples of the whole
# file: soxr HQ's impulse response is shorter than this at any ratio in use.
CONTEXT = 2048
# A file of this many bytes may be too large for the memory, whatever else fills it.
LARGE = 2**28
# Seconds by which a segment may end behind its file, as Kaldi's extract-segments lets it.
BEYOND = 0.5

Read = TypeVar('Read', bound=Callable[..., Any])


class AudioError(InputError):
  """A file whose audio cannot be used. `where` is its path or id, `reason` one sentence."""

  def __init__(self, where: str, reason: str):
    super().__init__(where, reason)
    self.where, self.reason = where, reason

  def __str__(self) -> str:
    return f'{self.where}: {self.reason}'


class AudioMismatch(AudioError):
  """Audio that does not match the units or the target made from it."""


def _patient(read: Read) -> Read:
  """Reads a file again where the machine is in trouble; InputError if that lasts."""

  @functools.wraps(read)
  def reading(example: Example, **how: Any) -> Any:
    def attempt() -> Any:
      try:
        return _bad_files(read, example, how)
      except AudioError:
        # libsndfile takes a failed read for the end of the file: the disk knows better.
        if example.path is None or not trouble.probe(example.path):
          raise
      return _bad_files(read, example, how)

    return trouble.patiently(attempt)

  return cast(Read, reading)


def _bad_files(read: Callable[..., Any], example: Example, how: dict[str, Any]) -> Any:
  """Whatever goes wrong with a file while it is decoded makes it a bad file."""
  try:
    return read(example, **how)
  except (InputError, trouble.Trouble):
    raise
  except Fault as fault:
    reason = str(fault)
  except OSError as error:
    if why := trouble.reason(error):
      raise trouble.Trouble(example.where, why) from None
    reason = f'It cannot be opened: {error.strerror or error}.'
  except MemoryError:
    # Of a small file, memory is short for another reason.
    if example.path is None or os.path.getsize(example.path) < LARGE:
      raise trouble.Trouble(example.where, 'Out of memory') from None
    reason = 'It is too large for the memory of this machine; cut it into pieces.'
  except Exception as error:
    text = ' '.join(str(error).split())[:200].rstrip('. ')
    reason = f'It cannot be decoded ({type(error).__name__}: {text}).'
  raise AudioError(example.where, reason)


@_patient
def decode(
  example: Example,
  *,
  sample_rate: int,
  start_seconds: float | None = None,
  seconds: float | None = None,
) -> Float[np.ndarray, 't']:
  """The samples of a clip, mono float32 at `sample_rate` Hz. Only the requested part is read.

  Args:
    example: the clip.
    sample_rate: of the result, Hz.
    start_seconds: offset from the beginning of the clip, seconds.
    seconds: maximum duration; None reads to the end of the clip.

  Returns:
    Samples [t]; integer PCM of full scale becomes [-1, 1).

  Raises:
    AudioError: the audio is missing, unreadable, truncated, empty, or not finite.
  """
  with _clip(example) as clip:
    total = _length(clip, sample_rate)
    first = round((start_seconds or 0.0) * sample_rate)
    if first >= total:
      raise AudioError(clip.where, f'It ends before {start_seconds} s.')
    count = total if seconds is None else round(seconds * sample_rate)
    return _amplified(example, _read(clip, sample_rate, first, min(count, total - first)))


class Crop(NamedTuple):
  """A part of a clip.

  Attributes:
    audio: its samples, [t].
    start: offset of the crop in the clip, samples.
    total: length of the whole clip, samples. All at the requested sample rate.
  """

  audio: Float[np.ndarray, 't']
  start: int
  total: int


@_patient
def crop(example: Example, *, sample_rate: int, samples: int, place: float, step: int = 1) -> Crop:
  """Decodes a crop of `samples` of a clip, as `decode`; a shorter clip is returned whole.

  Args:
    example: the clip.
    sample_rate: of the result, Hz.
    samples: maximum length.
    place: position of the crop in a longer clip: 0 at its start, 0.5 in the middle, 1 at its end.
    step: crops start at multiples of N samples.

  Raises:
    AudioError: see `decode`.
  """
  with _clip(example) as clip:
    total = _length(clip, sample_rate)
    start = offset(total, samples, place, step)
    audio = _read(clip, sample_rate, start, min(samples, total - start))
  return Crop(_amplified(example, audio), start, total)


def offset(total: int, samples: int, place: float, step: int = 1) -> int:
  """Where a crop of `samples` of a clip of `total` starts; `place` and `step` as in `crop`."""
  last = max(0, total - samples) // step
  return min(int(place * (last + 1)), last) * step


def clip_stats(example: Example, *, sample_rate: int) -> tuple[float, float]:
  """Mean and variance of all samples of a clip at `sample_rate` Hz; raises as `decode`."""
  whole = decode(example, sample_rate=sample_rate)
  return float(whole.mean(dtype=np.float64)), float(whole.var(dtype=np.float64))


@_patient
def duration(example: Example) -> float:
  """Duration of a clip in seconds: from the header where that is right, else by scanning the file.

  Raises:
    AudioError: the file cannot be opened.
  """
  with _clip(example) as clip:
    return clip.frames / clip.rate


class Kind(NamedTuple):
  """A clip as it is written: its sample rate in Hz, its length in samples, its channels (1 where
  only their mean can be read)."""

  rate: int
  frames: int
  channels: int


@_patient
def kind(example: Example) -> Kind:
  """Rate, length and channels of a clip; raises as `duration`."""
  with _clip(example) as clip:
    return Kind(clip.rate, clip.frames, clip.channels)


@_patient
def part(example: Example, *, first: int, count: int) -> Float[np.ndarray, 't a']:
  """Samples `first` to `first + count` of every channel of a clip, float32 at its own rate; raises
  as `decode`. Long clips go through in such parts."""
  with _clip(example) as clip:
    audio = clip.read(first, min(count, clip.frames - first), mix=False)
    if not clip.exact and not np.isfinite(audio).all():
      raise AudioError(clip.where, 'It holds samples that are not numbers (NaN or infinite).')
  return _amplified(example, audio)


def output_length(frames: int, rate: int, sample_rate: int) -> int:
  """Number of samples at `sample_rate` Hz of `frames` samples at `rate` Hz."""
  return frames if rate == sample_rate else round(frames * sample_rate / rate)


class _Array:
  """Reads parts of an array of samples."""

  def __init__(self, example: Example):
    array = np.asarray(example.array)
    if example.sample_rate is None:
      raise AudioError(example.where, 'Its sample rate is missing.')
    self.rate = int(example.sample_rate)
    low = min(round(example.start * self.rate), len(array))
    high = len(array)
    if example.seconds is not None:
      high = min(low + round(example.seconds * self.rate), high)
    self._array, self.frames, self.channels = array[low:high], high - low, 1
    self.exact = array.dtype in (np.int8, np.int16, np.int32)
    self.where = example.where
    if not self.exact and array.dtype.kind != 'f':
      raise AudioError(example.where, f'Its samples have type {array.dtype}, which is not PCM.')
    if not self.frames:
      raise AudioError(example.where, 'It holds no samples.')

  def __enter__(self):
    return self

  def __exit__(self, *_) -> None:
    pass

  def read(self, first: int, count: int, mix: bool = True) -> Float[np.ndarray, 't *a']:
    """Samples `first` to `first + count` as mono float32, [t, 1] without `mix`."""
    part = self._array[first : first + count]
    if self.exact:
      scale = np.float32(2.0 ** (1 - 8 * part.dtype.itemsize))
      part = np.multiply(part, scale, dtype=np.float32)
    audio = mono(part.astype(np.float32, copy=False))
    return audio if mix else audio[:, None]


class _File:
  """Reads parts of an audio file on disk or in memory."""

  def __init__(self, example: Example):
    self.where = example.where
    if example.data is None:
      _check_path(example.where)
    self._streams = Streams(
      example.path if example.data is None else None, example.data, self.where
    )
    try:
      self.rate, self.exact = self._streams.rate, self._streams.exact
      self.channels = self._streams.channels
      self._offset, self.frames = self._limits(example)
    except BaseException:
      self._streams.close()
      raise

  def __enter__(self):
    return self

  def __exit__(self, *_) -> None:
    self._streams.close()

  def read(self, first: int, count: int, mix: bool = True) -> Float[np.ndarray, 't *a']:
    """Samples `first` to `first + count` of the clip as mono float32, or of every channel."""
    return self._streams.read(first + self._offset, count, mix)

  def _limits(self, example: Example) -> tuple[int, int]:
    frames = self._streams.frames
    low = round(example.start * self.rate)
    if low >= frames:
      raise AudioError(
        self.where, f'It ends at {frames / self.rate:.2f} s, before the clip at {example.start} s.'
      )
    high = frames
    if example.seconds is not None:
      high = low + max(1, round(example.seconds * self.rate))
      if high - frames > BEYOND * self.rate:
        raise AudioError(
          self.where,
          f'It ends at {frames / self.rate:.2f} s, within the clip of {example.start} s to '
          f'{high / self.rate:.2f} s.',
        )
      high = min(high, frames)
    return low, high - low


def _clip(example: Example) -> _File | _Array:
  return _Array(example) if example.array is not None else _File(example)


def _check_path(path: str) -> None:
  """Raises AudioError for what is no file."""
  if trouble.special(path):
    raise AudioError(path, 'It is a pipe, a socket or a device, not an audio file.')
  if os.path.islink(path) and not os.path.exists(path):
    raise AudioError(path, f'It is a link to {os.readlink(path)!r}, which does not exist.')
  if os.path.isdir(path):
    raise AudioError(path, 'It is a directory, not an audio file.')


def _length(clip: _File | _Array, sample_rate: int) -> int:
  """Length of the clip in samples at `sample_rate`."""
  return max(1, output_length(clip.frames, clip.rate, sample_rate))


def _read(clip: _File | _Array, sample_rate: int, first: int, count: int) -> Float[np.ndarray, 't']:
  """Samples `first` to `first + count` of the resampled clip; rejects NaN and infinity."""
  audio = _resampled(clip, sample_rate, first, count)
  if not clip.exact and not np.isfinite(audio).all():
    raise AudioError(clip.where, 'It holds samples that are not numbers (NaN or infinite).')
  return audio


def _amplified(example: Example, audio: Float[np.ndarray, 't *a']) -> Float[np.ndarray, 't *a']:
  return audio if example.gain == 1.0 else audio * np.float32(example.gain)


def _resampled(
  clip: _File | _Array, sample_rate: int, first: int, count: int
) -> Float[np.ndarray, 't']:
  """Samples `first` to `first + count` of the resampled clip; reads only what they depend on.

  Input sample i and output sample j coincide where i * up == j * down, so a piece that starts at a
  multiple of `down` is resampled on the same grid as the whole clip.
  """
  if clip.rate == sample_rate:
    return np.ascontiguousarray(clip.read(first, count))
  common = math.gcd(clip.rate, sample_rate)
  up, down = sample_rate // common, clip.rate // common
  low = max(0, first * down // up - CONTEXT) // down * down
  high = min(clip.frames, -(-(first + count) * down // up) + CONTEXT)
  piece = soxr.resample(clip.read(low, high - low), clip.rate, sample_rate, quality='HQ')
  skip = first - low * up // down
  audio = piece[skip : skip + count]
  if len(audio) < count:  # For clips of a few samples the resampler stops early.
    audio = np.pad(audio, (0, count - len(audio)))
  return np.ascontiguousarray(audio)

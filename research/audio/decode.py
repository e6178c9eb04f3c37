"""Audio files to float32 samples: open, seek, mix to mono, resample.

Formats are those of libsndfile: WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, AU, CAF, W64, SPHERE,
detected by content, not by extension. Resampling is soxr's 'HQ' (linear phase, 20 bit).
"""

import functools
import io
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Shaped

from research.audio import trouble
from research.audio.example import Example
from research.errors import InputError

# Input samples read on both sides of a crop, so that the resampler gives the samples of the whole
# file: soxr HQ's impulse response is shorter than this at any ratio in use.
CONTEXT = 2048
# Seeking in a lossy file is not bit-exact, so short ones are decoded from the beginning.
EXACT_SECONDS = 30.0
_LOSSY = ('OGG', 'MP3')
_EXACT = ('PCM_', 'ULAW', 'ALAW')

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
        return read(example, **how)
      except AudioError:
        # libsndfile takes a failed read for the end of the file: the disk knows better.
        if example.path is None or not trouble.probe(example.path):
          raise
      return read(example, **how)

    return trouble.patiently(attempt)

  return cast(Read, reading)


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
    return _read(clip, sample_rate, first, min(count, total - first))


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
    last = max(0, total - samples) // step
    start = min(int(place * (last + 1)), last) * step
    audio = _read(clip, sample_rate, start, min(samples, total - start))
  return Crop(audio, start, total)


def clip_stats(example: Example, *, sample_rate: int) -> tuple[float, float]:
  """Mean and variance of all samples of a clip at `sample_rate` Hz; raises as `decode`."""
  whole = decode(example, sample_rate=sample_rate)
  return float(whole.mean(dtype=np.float64)), float(whole.var(dtype=np.float64))


@_patient
def duration(example: Example) -> float:
  """Duration of a clip in seconds, from the header only.

  Raises:
    AudioError: the file cannot be opened.
  """
  with _clip(example) as clip:
    return clip.frames / clip.rate


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
    self._array, self.frames = array[low:high], high - low
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

  def read(self, first: int, count: int) -> Float[np.ndarray, 't']:
    """Samples `first` to `first + count` as mono float32."""
    part = self._array[first : first + count]
    if self.exact:
      scale = np.float32(2.0 ** (1 - 8 * part.dtype.itemsize))
      part = np.multiply(part, scale, dtype=np.float32)
    return _mono(part.astype(np.float32, copy=False))


class _File:
  """Reads parts of an audio file on disk or in memory."""

  def __init__(self, example: Example):
    self.where = example.where
    self._file = _open(example)
    self.rate = self._file.samplerate
    self.exact = self._file.subtype.startswith(_EXACT)
    self._lossy = self._file.format in _LOSSY
    try:
      self._offset, self.frames = self._limits(example)
      if self._file.format in ('WAV', 'WAVEX', 'RF64'):
        self._check_wav()
      elif self._file.format == 'OGG':
        self._check_ogg(example)
    except BaseException:
      self._file.close()
      raise

  def __enter__(self):
    return self

  def __exit__(self, *_) -> None:
    self._file.close()

  def read(self, first: int, count: int) -> Float[np.ndarray, 't']:
    """Samples `first` to `first + count` of the clip as mono float32."""
    first += self._offset
    skip = first if self._lossy and first < EXACT_SECONDS * self.rate else 0
    try:
      if first > skip:
        self._file.seek(first - skip)
      audio = self._file.read(skip + count, dtype='float32')
    except (soundfile.LibsndfileError, RuntimeError) as error:
      raise AudioError(self.where, f'Its audio is damaged or truncated ({_text(error)}).') from None
    missing = skip + count - len(audio)
    # The length in an MP3 header is only an estimate.
    if missing > (0.1 * self.rate + 0.02 * self._file.frames if self._file.format == 'MP3' else 0):
      raise AudioError(
        self.where, f'It is truncated: {missing} samples are missing of {self._file.frames}.'
      )
    return _mono(audio[skip:])

  def _limits(self, example: Example) -> tuple[int, int]:
    frames = self._file.frames
    if frames <= 0:
      raise AudioError(self.where, 'It holds no samples.')
    low = round(example.start * self.rate)
    if low >= frames:
      raise AudioError(
        self.where, f'It ends at {frames / self.rate:.2f} s, before the clip at {example.start} s.'
      )
    high = frames
    if example.seconds is not None:
      high = min(low + max(1, round(example.seconds * self.rate)), frames)
    return low, high - low

  def _check_wav(self) -> None:
    """Rejects a truncated WAV file: libsndfile reads the rest; only its log has the full size."""
    for line in self._file.extra_info.splitlines():
      if line.startswith('data :') and 'should be' in line:
        claimed = int(line.split()[2])
        # Streams of unknown length write 0 or the maximum.
        if 0 < claimed < 0x7FFFF000:
          real = line.rsplit('should be', 1)[1].strip(' )')
          raise AudioError(self.where, f'It is truncated: it has {real} of {claimed} bytes.')

  def _check_ogg(self, example: Example) -> None:
    """Rejects an Ogg file that ends in the middle of a page."""
    if example.data is not None:
      tail = example.data[-65307:]
    else:
      try:
        with open(example.where, 'rb') as file:
          file.seek(max(0, os.fstat(file.fileno()).st_size - 65307))
          tail = file.read()
      except OSError as error:
        raise AudioError(self.where, f'It cannot be read: {error.strerror or error}.') from None
    at = tail.rfind(b'OggS')
    segments = tail[at + 27 : at + 27 + tail[at + 26]] if 0 <= at < len(tail) - 26 else b''
    if at < 0 or not segments or at + 27 + len(segments) + sum(segments) > len(tail):
      raise AudioError(self.where, 'It is truncated in the middle of an Ogg page.')


def _clip(example: Example) -> _File | _Array:
  return _Array(example) if example.array is not None else _File(example)


def _open(example: Example) -> soundfile.SoundFile:
  """Opens the audio; raises AudioError with the reason if that fails."""
  if example.data is not None and not example.data:
    raise AudioError(example.where, 'It is empty (0 bytes).')
  if example.data is None and trouble.special(example.where):
    raise AudioError(example.where, 'It is a pipe, a socket or a device, not an audio file.')
  try:
    # The library takes only UTF-8 names, so other files are opened here.
    whence = os.fsencode(str(example.path)) if example.data is None else io.BytesIO(example.data)
    return soundfile.SoundFile(whence)
  except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError) as error:
    head = example.data[:16] if example.data is not None else _head(example.where)
    if head[4:8] == b'ftyp':
      reason = 'MP4/M4A (AAC) cannot be read; convert it to FLAC, WAV, OGG or MP3.'
    elif _looks_like_audio(head):
      reason = f'Its audio is damaged or truncated ({_text(error)}).'
    else:
      reason = f'It is not an audio file that can be read: it begins with {bytes(head)!r}.'
    raise AudioError(example.where, reason) from None


def _head(path: str) -> bytes:
  """The first bytes of a file that could not be decoded; raises AudioError if it is unreadable."""
  try:
    if os.path.islink(path) and not os.path.exists(path):
      raise AudioError(path, f'It is a link to {os.readlink(path)!r}, which does not exist.')
    if os.path.isdir(path):
      raise AudioError(path, 'It is a directory, not an audio file.')
    with open(path, 'rb') as file:
      head = file.read(16)
  except OSError as error:
    raise AudioError(path, f'It cannot be opened: {error.strerror or error}.') from None
  if not head:
    raise AudioError(path, 'It is empty (0 bytes).')
  return head


def _looks_like_audio(head: bytes) -> bool:
  known = (b'RIFF', b'RIFX', b'RF64', b'fLaC', b'OggS', b'ID3', b'FORM', b'.snd', b'caff', b'NIST')
  return head.startswith(known) or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)


def _text(error: Exception) -> str:
  text = getattr(error, 'error_string', None) or str(error)
  return text.removeprefix('Error : ').rstrip('. \n')


def _mono(audio: Shaped[np.ndarray, 't *channels']) -> Float[np.ndarray, 't']:
  if audio.ndim == 1:
    return audio
  return audio[:, 0] if audio.shape[1] == 1 else audio.mean(axis=1, dtype=np.float32)


def _length(clip: _File | _Array, sample_rate: int) -> int:
  """Length of the clip in samples at `sample_rate`."""
  return max(1, output_length(clip.frames, clip.rate, sample_rate))


def _read(clip: _File | _Array, sample_rate: int, first: int, count: int) -> Float[np.ndarray, 't']:
  """Samples `first` to `first + count` of the resampled clip; rejects NaN and infinity."""
  audio = _resampled(clip, sample_rate, first, count)
  if not clip.exact and not np.isfinite(audio).all():
    raise AudioError(clip.where, 'It holds samples that are not numbers (NaN or infinite).')
  return audio


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

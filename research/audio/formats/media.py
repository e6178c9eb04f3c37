"""Audio that libsndfile cannot read, by PyAV (the libraries of ffmpeg); the extra `[media]`."""

import functools
import importlib.util
import io
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from research.audio.formats.raw import Fault

# Seconds that a header may claim more than there is: encoders round up to whole packets.
TOLERANCE = 0.25
INSTALL = "pip install 'oido[media]'"


@functools.cache
def available() -> bool:
  """Whether PyAV is installed; it is imported when a file needs it."""
  return importlib.util.find_spec('av') is not None


class Media:
  """The first audio stream of a file, mono; decoded from the beginning, for seeking is not exact.

  Attributes:
    rate: Hz.
    frames: length in samples, counted by decoding.
  """

  exact = False

  def __init__(self, path: str | None, data: bytes | None):
    """Raises `Fault` if there is no audio that can be decoded."""
    self._path, self._data = path, data
    if path is not None:
      state = os.stat(path)
      self.rate, self.frames = _counted(path, state.st_size, state.st_mtime_ns)
    else:
      self.rate, self.frames = _count(path, data)

  def read(self, first: int, count: int) -> Float[np.ndarray, 't']:
    """Samples `first` to `first + count`, fewer at the end."""
    found, at = [], 0
    for block in _blocks(self._path, self._data, self.rate):
      if at + len(block) > first:
        found.append(block[max(0, first - at) : first + count - at])
      at += len(block)
      if at >= first + count:
        break
    return np.concatenate(found) if found else np.zeros(0, np.float32)

  def close(self) -> None:
    """Nothing is held open."""


def _count(path: str | None, data: bytes | None) -> tuple[int, int]:
  rate = _rate(path, data)
  return rate, sum(map(len, _blocks(path, data, rate)))


@functools.lru_cache(maxsize=4096)
def _counted(path: str, size: int, changed: int) -> tuple[int, int]:
  del size, changed
  return _count(path, None)


def _open(path: str | None, data: bytes | None) -> Any:
  import av

  av.logging.set_level(None)
  source: Any = io.BytesIO(data) if data is not None else path
  try:
    container = av.open(source, metadata_errors='replace')
  except (av.FFmpegError, ValueError) as error:
    raise Fault(f'It cannot be decoded by PyAV ({_text(error)}).') from None
  if not container.streams.audio:
    container.close()
    raise Fault('It holds no audio stream.')
  return container


def _rate(path: str | None, data: bytes | None) -> int:
  with _open(path, data) as container:
    for frame in _frames(container):
      return int(frame.sample_rate)
  raise Fault('It holds no samples.')


def _frames(container: Any) -> Iterator[Any]:
  import av

  stream = container.streams.audio[0]
  stream.thread_type = 'NONE'
  try:
    yield from container.decode(stream)
  except (av.FFmpegError, ValueError) as error:
    raise Fault(f'Its audio is damaged or truncated ({_text(error)}).') from None


def _blocks(path: str | None, data: bytes | None, rate: int) -> Iterator[Float[np.ndarray, 't']]:
  """Mono samples, a packet at a time."""
  total = 0
  with _open(path, data) as container:
    for frame in _frames(container):
      total += frame.samples
      if frame.sample_rate != rate:
        raise Fault(
          f'Its sample rate changes from {rate} to {frame.sample_rate} Hz; convert it to FLAC.'
        )
      yield _mono(frame)
    claimed = _claimed(container)
  if total < (claimed - TOLERANCE) * rate:
    raise Fault(f'It is truncated: it has {total / rate:.2f} of {claimed:.2f} s.')


def _claimed(container: Any) -> float:
  """Seconds that the header claims; 0 of formats without a length, of which ffmpeg guesses it."""
  stream = container.streams.audio[0]
  if not {'mp4', 'matroska', 'asf'}.intersection(container.format.name.split(',')):
    return 0.0
  if stream.duration is not None and stream.time_base is not None:
    return float(stream.duration * stream.time_base)
  # Of all streams: a video may be longer than its sound.
  alone = len(container.streams) == 1 and container.duration is not None
  return container.duration / 1e6 if alone else 0.0


def _mono(frame: Any) -> Float[np.ndarray, 't']:
  """Samples of a frame [t], float32; integers of full scale become [-1, 1)."""
  samples, channels = frame.to_ndarray(), frame.layout.nb_channels
  samples = samples if frame.format.is_planar else samples.reshape(-1, channels).T
  if samples.dtype == np.uint8:
    samples = (samples.astype(np.float32) - 128) / np.float32(128)
  elif samples.dtype.kind == 'i':
    samples = samples.astype(np.float32) / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
  samples = samples.astype(np.float32, copy=False)
  return samples[0] if channels == 1 else samples.mean(axis=0, dtype=np.float32)


def _text(error: Exception) -> str:
  return (getattr(error, 'strerror', None) or str(error)).rstrip('. \n')

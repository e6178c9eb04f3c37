"""Opens the audio of a file: the right length, windows that are slices of the whole, all of it."""

import functools
import os
from typing import Any

import numpy as np
import soundfile
from absl import logging
from jaxtyping import Float, Shaped

from research.audio.formats import chunks, codecs, flac, media, mpeg, ogg
from research.audio.formats.raw import AS_IT_IS, Fault, Layout, Link, Raw, Spliced, behind_id3

# Samples decoded at once where a length is counted.
BLOCK = 2**18
# Opus is exact behind a seek only when its filters have forgotten the beginning.
WARM_SECONDS = 2.0
RATES = (50, 10_000_000)
# A length that would be more is counted before memory is taken for it.
MAX_SAMPLES_PER_BYTE = 200
_EXACT = ('PCM_', 'ULAW', 'ALAW')
_ERRORS = (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError, OSError, AssertionError)
# Of a file without a marker, this much has to be MPEG frames.
CAPTURED = 0.9
MAX_NOTES = 20
_noted: set[str] = set()


class Streams:
  """The streams of a file, one behind the other, as one.

  Attributes:
    rate: Hz.
    frames: length in samples.
    channels: that can be read one by one; 1 where only their mean can.
    exact: whether samples cannot be NaN or infinite.
  """

  def __init__(self, path: str | None, data: bytes | None, where: str):
    """`where` names the file in messages.

    Raises:
      OSError: it cannot be opened.
      Fault: its audio cannot be used.
    """
    self._raw = Raw(path, data)
    try:
      self._open(path, data, where)
    except BaseException:
      self.close()
      raise

  def _open(self, path: str | None, data: bytes | None, where: str) -> None:
    if not self._raw.size:
      raise Fault('It is empty (0 bytes).')
    self._parts: list[Any] = []
    if name := codecs.foreign(self._raw):
      self._parts = [_foreign(name, path, data)]
    else:
      if path is None:
        found = _layout(self._raw)
      else:
        state = os.stat(path)
        found = _known(path, state.st_size, state.st_mtime_ns)
      try:
        self._parts = [_part(self._raw, link, path, data) for link in found.links]
      except _Refused as error:
        name, captured = codecs.inside(self._raw), _captured(self._raw)
        if name is None and captured is None:
          raise Fault(_damage(self._raw, error.reason)) from None
        if captured is not None:
          found = captured
          self._parts = [_Mpeg(self._raw, link) for link in found.links]
        elif len(found.links) > 1:
          raise Fault(f'{found.note} But {name} is not; split it, or convert it to FLAC.') from None
        else:
          self._parts = [_foreign(str(name), path, data)]
      _note(where, found.note)
    rates = sorted({part.rate for part in self._parts})
    if len(rates) > 1:
      listed = ' and '.join(map(str, rates))
      raise Fault(f'Its streams have rates of {listed} Hz; resample them and join them again.')
    self.rate, self.exact = rates[0], all(part.exact for part in self._parts)
    if not RATES[0] <= self.rate <= RATES[1]:
      raise Fault(f'Its header claims {self.rate} Hz, which is no sample rate of audio.')
    self.frames = sum(part.frames for part in self._parts)
    counts = {getattr(part, 'channels', 1) for part in self._parts}
    self.channels = counts.pop() if len(counts) == 1 else 1

  def read(self, first: int, count: int, mix: bool = True) -> Float[np.ndarray, 't *a']:
    """Samples `first` to `first + count`, float32: the mean of the channels [t], or without `mix`
    all of them [t, a].

    Raises:
      Fault: they are not there, or cannot be decoded.
    """
    found, start = [], 0
    for part in self._parts:
      low, high = max(first - start, 0), min(first + count - start, part.frames)
      if low < high:
        every = not mix and self.channels > 1
        piece = part.read(low, high - low, mix=False) if every else part.read(low, high - low)
        piece = piece if mix else piece.reshape(len(piece), -1)
        if len(piece) < high - low:
          missing = high - low - len(piece)
          raise Fault(f'It is truncated: {missing} samples are missing of {self.frames}.')
        found.append(piece)
      start += part.frames
    if first + count > start:
      raise Fault(f'It is truncated: {first + count - start} samples are missing of {self.frames}.')
    if not found:
      return np.zeros(0 if mix else (0, self.channels), np.float32)
    return found[0] if len(found) == 1 else np.concatenate(found)

  def close(self) -> None:
    """Closes the file."""
    for part in getattr(self, '_parts', ()):
      part.close()
    self._raw.close()


class _Refused(Exception):
  """libsndfile does not open it; its reason."""

  def __init__(self, reason: str):
    super().__init__(reason)
    self.reason = reason


def _layout(raw: Raw) -> Layout:
  """How a file is read, from its bytes."""
  head = raw.read(0, 64)
  if start := behind_id3(head):
    head = raw.read(start, 64)
  if head[:4] == b'fLaC':
    return flac.layout(raw, start)
  if head[:4] == b'OggS':
    return ogg.layout(raw)
  found = chunks.layout(raw, head) if not start else None
  if found is not None:
    return found
  if start or head[:1] in (b'\0', b'\xff'):
    return mpeg.layout(raw, start) or AS_IT_IS
  return AS_IT_IS


# An hour of MPEG frames takes 2 MB.
@functools.lru_cache(maxsize=128)
def _known(path: str, size: int, changed: int) -> Layout:
  """The layout of a file on disk; one that changes is looked at again."""
  del size, changed
  raw = Raw(path)
  try:
    return _layout(raw)
  finally:
    raw.close()


def _captured(raw: Raw) -> Layout | None:
  """A stream of MPEG frames that begins in the middle of one, as of a radio; None if it is not."""
  if _known_marker(raw.read(0, 16)):
    return None
  try:
    found = mpeg.layout(raw, 0)
  except Fault:
    return None
  streams: list[Any] = [link.mpeg for link in found.links] if found else []
  held = sum(int((frames.ends - frames.starts).sum()) for frames in streams)
  return found if held > CAPTURED * raw.size else None


def _part(raw: Raw, link: Link, path: str | None, data: bytes | None) -> Any:
  if link.mpeg is not None:
    return _Mpeg(raw, link)
  return _Sound(raw, link, path, data)


class _Sound:
  """One stream that libsndfile reads."""

  def __init__(self, raw: Raw, link: Link, path: str | None, data: bytes | None):
    self._raw, self._link, self._path, self._data = raw, link, path, data
    self._file, self._used = self._open(), False
    self.rate, self.frames = self._file.samplerate, link.frames or self._file.frames
    self.exact, self.channels = self._file.subtype.startswith(_EXACT), self._file.channels
    self._warm = round(WARM_SECONDS * self.rate) if self._file.format == 'OGG' else 0
    if self.frames > MAX_SAMPLES_PER_BYTE * raw.size:
      self.frames = _count(self._file)
      self._reopen()
    if self.frames <= 0:
      self.close()
      raise Fault('It holds no samples.')

  def _open(self) -> soundfile.SoundFile:
    if self._link.parts is not None:
      return _sndfile(Spliced(self._raw, self._link.parts))
    # The library takes only UTF-8 names, so others are given as bytes.
    if self._data is not None:
      return _sndfile(Spliced(self._raw, ((0, self._raw.size),)))
    return _sndfile(os.fsencode(str(self._path)))

  def _reopen(self) -> None:
    self._file.close()
    self._file = self._open()

  def read(self, first: int, count: int, mix: bool = True) -> Float[np.ndarray, 't *a']:
    """Samples `first` to `first + count`, fewer if they are not there."""
    skip = min(first, self._warm)
    if self._used:
      self._reopen()
    self._used = True
    try:
      if first > skip:
        self._file.seek(first - skip)
    except _ERRORS:
      self._reopen()  # It cannot seek: it is decoded from the beginning.
      skip = first
    try:
      return _take(self._file, skip, count, mix)
    except _ERRORS as error:
      raise Fault(f'Its audio is damaged or truncated ({_text(error)}).') from None

  def close(self) -> None:
    """Closes the stream."""
    self._file.close()


class _Mpeg:
  """One stream of MPEG frames; a window is a stream of its own."""

  exact = False

  def __init__(self, raw: Raw, link: Link):
    self._raw, self._mpeg = raw, link.mpeg
    self.rate, self.frames = link.mpeg.rate, link.frames or 0  # type: ignore[attr-defined]
    if self.frames <= 0:
      raise Fault('It holds no samples.')

  def read(self, first: int, count: int) -> Float[np.ndarray, 't']:
    """Samples `first` to `first + count`, fewer if they are not there."""
    parts, skip = self._mpeg.window(self._raw, first, count)  # type: ignore[attr-defined]
    try:
      with _sndfile(Spliced(self._raw, parts)) as file:
        return _take(file, skip, count)
    except _ERRORS as error:
      raise Fault(f'Its audio is damaged or truncated ({_text(error)}).') from None
    except _Refused as error:
      raise Fault(f'Its audio is damaged or truncated ({error.reason}).') from None

  def close(self) -> None:
    """Nothing is held open."""


def _sndfile(whence: Any) -> soundfile.SoundFile:
  try:
    return soundfile.SoundFile(whence)
  except _ERRORS as error:
    raise _Refused(_text(error)) from None


def _count(file: soundfile.SoundFile) -> int:
  """The length of a stream in samples, by decoding it in blocks."""
  found = 0
  while block := len(file.read(BLOCK, dtype='float32')):
    found += block
  return found


def _take(
  file: soundfile.SoundFile, skip: int, count: int, mix: bool = True
) -> Float[np.ndarray, 't *a']:
  """`count` samples behind `skip`, read at once: soundfile seeks after every read."""
  audio = file.read(skip + count, dtype='float32')
  return (mono(audio) if mix else audio)[skip:]


def mono(audio: Shaped[np.ndarray, 't *channels']) -> Float[np.ndarray, 't']:
  """The mean of the channels."""
  if audio.ndim == 1:
    return audio
  return audio[:, 0] if audio.shape[1] == 1 else audio.mean(axis=1, dtype=np.float32)


def _foreign(name: str, path: str | None, data: bytes | None) -> media.Media:
  if not media.available():
    raise Fault(
      f'{name} cannot be read; convert it to FLAC, WAV, OGG or MP3, or install PyAV: '
      f'{media.INSTALL}.'
    )
  try:
    found = media.Media(path, data)
  except Fault as fault:
    raise Fault(f'{name}: {fault}') from None
  if not found.frames:
    raise Fault('It holds no samples.')
  return found


def _damage(raw: Raw, reason: str) -> str:
  head = raw.read(0, 16)
  if _known_marker(head) or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0):
    return f'Its audio is damaged or truncated ({reason}).'
  return f'It is not an audio file that can be read: it begins with {bytes(head)!r}.'


def _known_marker(head: bytes) -> bool:
  known = (b'RIFF', b'RIFX', b'RF64', b'BW64', b'riff', b'fLaC', b'OggS', b'ID3', b'FORM', b'.snd')
  return head.startswith((*known, b'dns.', b'caff', b'NIST'))


def _note(where: str, note: str) -> None:
  """Says once of a file what its header claims wrongly; of the first files only."""
  if note and where not in _noted and len(_noted) < MAX_NOTES:
    _noted.add(where)
    more = ' Further ones are not reported.' if len(_noted) == MAX_NOTES else ''
    logging.warning('%s: %s%s', where, note, more)


def _text(error: Exception) -> str:
  text = getattr(error, 'error_string', None) or str(error)
  return text.removeprefix('Error : ').rstrip('. \n')

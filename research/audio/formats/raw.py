"""Bytes of a file or of memory; a file put together from parts of another."""

import dataclasses
import io
import os
from collections.abc import Sequence

# A part of `Spliced`: bytes, or (first byte, byte behind the last) of the original.
Part = bytes | tuple[int, int]


class Fault(Exception):
  """What is wrong with a file; the reason as one sentence."""


class Raw:
  """Random access to the bytes of a file on disk or in memory."""

  def __init__(self, path: str | None, data: bytes | None = None):
    """Opens the file.

    Raises:
      OSError: it cannot be opened.
    """
    self._data = data
    self._file = None if data is not None else open(os.fsencode(str(path)), 'rb', buffering=0)  # noqa: SIM115
    self.size = len(data) if data is not None else os.fstat(self._file.fileno()).st_size  # type: ignore[union-attr]

  def read(self, at: int, count: int) -> bytes:
    """Bytes `at` to `at + count`, fewer at the end."""
    if self._data is not None:
      return bytes(self._data[at : at + count])
    descriptor, found = self._file.fileno(), []  # type: ignore[union-attr]
    while count > 0 and (part := os.pread(descriptor, count, at)):
      found.append(part)
      at, count = at + len(part), count - len(part)
    return b''.join(found)

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      self._file.close()


def behind_id3(head: bytes) -> int:
  """Bytes of an ID3 version 2 tag that begins with these ten, with its footer; 0 if none does."""
  if head[:3] != b'ID3' or len(head) < 10:
    return 0
  size = 0
  for byte in head[6:10]:  # seven bits each
    size = size << 7 | byte & 0x7F
  return 10 + size + 10 * bool(head[5] & 0x10)


def end_of_audio(raw: Raw) -> int:
  """The place where tags begin that may follow the audio: ID3 version 1, and APE."""
  end = raw.size
  if raw.read(max(0, end - 128), 3) == b'TAG':
    end -= 128
  footer = raw.read(max(0, end - 32), 32)
  if footer[:8] == b'APETAGEX':
    size = int.from_bytes(footer[12:16], 'little')
    header = int.from_bytes(footer[20:24], 'little') >> 31
    end -= size + 32 * header
  return max(0, end)


class Spliced:
  """A file for libsndfile: parts of `raw` and other bytes, one behind the other."""

  def __init__(self, raw: Raw, parts: Sequence[Part]):
    self._raw, self._parts = raw, parts
    self._starts = [0]
    for part in parts:
      size = len(part) if isinstance(part, bytes) else part[1] - part[0]
      self._starts.append(self._starts[-1] + size)
    self._at = 0

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    """As of files."""
    base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
    self._at = max(0, base + offset)
    return self._at

  def tell(self) -> int:
    """As of files."""
    return self._at

  def read(self, count: int = -1) -> bytes:
    """As of files."""
    left = self._starts[-1] - self._at
    left = left if count < 0 else min(count, left)
    found = []
    for part, start, end in zip(self._parts, self._starts, self._starts[1:]):
      if left <= 0 or self._at >= end:
        continue
      first, size = self._at - start, min(left, end - self._at)
      if isinstance(part, bytes):
        found.append(part[first : first + size])
      else:
        found.append(self._raw.read(part[0] + first, size))
      self._at, left = self._at + size, left - size
    return b''.join(found)


@dataclasses.dataclass(frozen=True)
class Link:
  """One stream of a file; joined files have several.

  Attributes:
    parts: what of the file is opened; None is the file as it is.
    frames: its length, samples; None is what libsndfile says.
    mpeg: the frames of an MPEG stream (`mpeg.Frames`), which is read by them.
  """

  parts: tuple[Part, ...] | None = None
  frames: int | None = None
  mpeg: object = None


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a file is read: its streams in order, and what its header claims wrongly, or ''."""

  links: tuple[Link, ...] = (Link(),)
  note: str = ''


AS_IT_IS = Layout()

"""Records of ArrayRecord shards in an object store, read by range.

The array_record package opens files of a disk alone. Shards as `launch/prepare_data.py` writes them
(`group_size:1,uncompressed`) need little of the format: a file is a sequence of Riegeli chunks,
interrupted every 64 KiB by a header of 24 bytes; each chunk holds one record; the last chunks name
the places of all (https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md).
"""

import collections
import itertools
import struct
import threading
from typing import Any

import numpy as np

from research.audio.decode import AudioError
from research.audio.trouble import Trouble
from research.errors import InputError
from research.jobs import blocks, paths

BLOCK, BLOCK_HEADER = 2**16, 24
_CHUNK = struct.Struct('<QQQQQ')  # hash, size of the data, its hash, type and records, decoded size
_MAGIC = 0x71930E704FDAE05E  # ArrayRecord's, in its postscript
# Shards whose places of records are kept: 8 bytes a record.
MAX_OPEN = 1024


class _Shard:
  """A shard: where its records are."""

  def __init__(self, path: str):
    self.object = blocks.Object(paths.path(path))
    post = self._values(self.object.size - BLOCK)
    place, magic = _numbers(post[0], 2)
    if magic != _MAGIC:
      raise ValueError('its end is no ArrayRecord')
    # The first value says how the shard was written.
    entries = [_numbers(value, 3) for value in self._values(place)[1:]]
    if any(count != 1 for _, _, count in entries):
      raise ValueError('it was written with several records in a group')
    self.places = np.array([at for at, _, _ in entries], np.int64)
    # A record ends where the next begins, the last where the footer does.
    self.ends = np.append(self.places[1:], place)

  def record(self, number: int) -> bytes:
    (found,) = self._values(int(self.places[number]), int(self.ends[number]))
    return found

  def _values(self, at: int, end: int | None = None) -> list[bytes]:
    """The values of the chunk at a place, which ends before `end`, if that is known."""
    if at < 0 or at >= self.object.size:
      raise ValueError(f'no chunk at {at}')
    data = _without_headers(self.object.read(at, at + BLOCK if end is None else end), at)
    _, size, _, kind, decoded = _CHUNK.unpack_from(data)
    if len(data) < _CHUNK.size + size and end is None:
      # Room for the headers in between.
      length = (_CHUNK.size + size) * BLOCK // (BLOCK - BLOCK_HEADER) + 2 * BLOCK_HEADER
      data = _without_headers(self.object.read(at, at + length), at)
    content = data[_CHUNK.size : _CHUNK.size + size]
    if len(content) != size or chr(kind & 255) != 'r':
      raise ValueError(f'no chunk of records at {at}')
    if content[0] != 0:
      raise ValueError('it is compressed')
    length, place = _varint(content, 1)
    values_at, sizes = place + length, []
    while place < values_at:
      one, place = _varint(content, place)
      sizes.append(one)
    if len(sizes) != kind >> 8 or sum(sizes) != decoded or values_at + decoded != size:
      raise ValueError(f'the chunk at {at} is damaged')
    edges = np.cumsum([values_at, *sizes])
    return [content[a:b] for a, b in itertools.pairwise(edges)]


def _without_headers(data: bytes, at: int) -> bytes:
  """What lies from place `at` of a file on, without the headers of blocks."""
  found, place = [], 0
  while place < len(data):
    if (at + place) % BLOCK == 0:
      place += BLOCK_HEADER
    until = place + BLOCK - (at + place) % BLOCK
    found.append(data[place:until])
    place = until
  return b''.join(found)


def _varint(data: bytes, at: int) -> tuple[int, int]:
  """(number, place behind it)."""
  value = shift = 0
  while True:
    byte = data[at]
    value |= (byte & 127) << shift
    at, shift = at + 1, shift + 7
    if byte < 128:
      return value, at


def _numbers(message: bytes, count: int) -> list[int]:
  """The first `count` fields of a protocol buffer of numbers, 0 where one is absent."""
  found, at = [0] * count, 0
  while at < len(message):
    tag, at = _varint(message, at)
    value, at = _varint(message, at)
    if tag % 8 or not 1 <= tag // 8 <= count:
      raise ValueError(f'field {tag} was not expected')
    found[tag // 8 - 1] = value
  return found


class RemoteReaders:
  """Reads records of shards at addresses, as `readers.Readers` does of files. Thread-safe."""

  def __init__(self) -> None:
    self._open: collections.OrderedDict[str, _Shard] = collections.OrderedDict()
    self._lock = threading.Lock()

  def read(self, path: str, number: int) -> bytes:
    """Record `number` of a shard.

    Raises:
      AudioError: the record is damaged.
      InputError: the shard is not there, may not be read, or is of another kind.
      Trouble: the store cannot be reached now.
    """
    shard = self._told(path, lambda: self._shard(path))
    try:
      return self._told(path, lambda: shard.record(number))
    except (ValueError, IndexError, struct.error) as error:
      raise AudioError(f'{path}#{number}', f'The record cannot be read ({error}).') from None

  def _shard(self, path: str) -> _Shard:
    with self._lock:
      if path in self._open:
        self._open.move_to_end(path)
        return self._open[path]
    try:
      made = _Shard(path)
    except (ValueError, IndexError, struct.error) as error:
      raise InputError(
        f'{path} is no shard that can be read from a store ({error}): prepare the data again, or '
        'copy that file again.'
      ) from None
    with self._lock:
      self._open[path] = made
      while len(self._open) > MAX_OPEN:
        self._open.popitem(last=False)
    return made

  def _told(self, path: str, read: Any) -> Any:
    try:
      return read()
    except (InputError, ValueError, IndexError, struct.error):
      raise
    except Exception as error:
      if paths.passing(error):
        raise Trouble(path, paths.reason(error)) from None
      raise InputError(f'{path} cannot be read: {paths.reason(error)}.') from error

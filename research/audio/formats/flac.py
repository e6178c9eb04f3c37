"""Lengths of FLAC files (RFC 9639): the header against the number in the last frame."""

import functools
import itertools
import re

import numpy as np

from research.audio.formats.raw import AS_IT_IS, Fault, Layout, Link, Raw, end_of_audio

# Files up to this size are searched for a second stream; longer ones are probed at three places.
SMALL = 2**16
_BLOCK = 4096
_SYNC = re.compile(rb'\xff[\xf8\xf9]')
_SECOND = re.compile(rb'fLaC[\x00\x80]\x00\x00\x22')
_BLOCKS = {1: 192, **{i: 576 << (i - 2) for i in range(2, 6)}, **{i: 1 << i for i in range(8, 16)}}


def _table(polynomial: int, bits: int) -> list[int]:
  top, mask, found = 1 << (bits - 1), (1 << bits) - 1, []
  for value in range(256):
    value <<= bits - 8
    for _ in range(8):
      value = (value << 1 ^ (polynomial if value & top else 0)) & mask
    found.append(value)
  return found


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)


def layout(raw: Raw, start: int) -> Layout:
  """How a FLAC file is read whose stream begins at byte `start`.

  Raises:
    Fault: it is truncated.
  """
  if len(raw.read(start, 42)) < 42:
    return AS_IT_IS
  edges = _streams(raw, start, _end(raw))
  links, notes = [], []
  for a, b in itertools.pairwise(edges):
    link, note = _link(raw, a, b)
    links.append(link)
    notes.append(note)
  if len(links) > 1:
    notes.append(f'It is {len(links)} FLAC streams in one; all of them are read.')
  elif not notes[0]:
    return AS_IT_IS
  return Layout(tuple(links), ' '.join(filter(None, notes)))


def _info(raw: Raw, start: int) -> tuple[int, int, int]:
  """Samples that the header claims, largest frame in bytes, largest block in samples."""
  info = raw.read(start + 8, 34)
  claimed = int.from_bytes(info[13:18], 'big') & (1 << 36) - 1
  largest = int.from_bytes(info[7:10], 'big') or 2**16
  return claimed, largest, int.from_bytes(info[2:4], 'big')


def _link(raw: Raw, start: int, end: int) -> tuple[Link, str]:
  """The stream from byte `start` to `end` with its real length in its header."""
  claimed, largest, fixed = _info(raw, start)
  tail = max(start + 42, end - largest - 64)
  data = raw.read(tail, end - tail)
  ends, frames, note = _ends(data, fixed), claimed, ''
  whole = [samples for at, samples in ends.items() if not _crc16(data[at:])]
  if not claimed or claimed not in whole:
    if not whole and claimed > (most := max(ends.values(), default=claimed)):
      raise Fault(f'It is truncated: {claimed - most} samples or more are missing of {claimed}.')
    if not whole:
      raise Fault('It is damaged or truncated: it ends in the middle of a FLAC frame.')
    frames = whole[-1]
    if claimed > frames:
      raise Fault(f'It is truncated: {claimed - frames} samples are missing of {claimed}.')
    said = f'claims {claimed} samples' if claimed else 'leaves its length open'
    note = f'Its header {said}; all of its {frames} samples are read.'
  head = raw.read(start, 42)
  total = int.from_bytes(head[21:26], 'big') >> 36 << 36 | frames
  head = head[:21] + total.to_bytes(5, 'big') + head[26:]
  return Link((head, (start + 42, end)), frames), note


def _end(raw: Raw) -> int:
  """The place behind the last frame: tags of other formats and zeros may follow."""
  end = end_of_audio(raw)
  tail = raw.read(max(0, end - 4096), min(end, 4096))
  zeros = len(tail) - len(tail.rstrip(b'\0'))
  # The last bytes of a frame are its checksum, which may end in a zero byte.
  return end - zeros if zeros > 16 else end


def _streams(raw: Raw, start: int, end: int) -> list[int]:
  """Where the streams of the file begin, and the end of the last."""
  _, largest, fixed = _info(raw, start)
  if end - start > SMALL:
    places = [start + (end - start) * k // 4 for k in (1, 2, 3)]
    numbers = [min(_ends(raw.read(at, largest + 64), fixed).values(), default=0) for at in places]
    last = max(_ends(raw.read(end - largest - 64, largest + 64), fixed).values(), default=0)
    if numbers == sorted(numbers) and last >= numbers[-1] > 0:
      return [start, end]
  data = raw.read(start, end - start)
  found = [start + m.start() for m in _SECOND.finditer(data)]
  return [*found, end] if found and found[0] == start else [start, end]


def _ends(data: bytes, fixed: int) -> dict[int, int]:
  """{place of a frame in `data`: samples up to its end}, by the headers of frames."""
  found = {}
  for match in _SYNC.finditer(data):
    samples = _frame(data, match.start(), fixed)
    if samples:
      found[match.start()] = samples
  return found


def _frame(data: bytes, at: int, fixed: int) -> int:
  """Samples up to the end of the frame that begins here; 0 if none does."""
  head = data[at : at + 16]
  if len(head) < 6 or head[3] & 1 or head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] >> 4 > 10:
    return 0
  # The number of the frame or of its first sample, coded as UTF-8 of up to 36 bits.
  first, place = head[4], 5
  length = 0
  while length < 8 and first & (0x80 >> length):
    length += 1
  if length in (1, 8):
    return 0
  number = first & (0x7F >> length)
  for _ in range(max(0, length - 1)):
    if place >= len(head) or head[place] >> 6 != 2:
      return 0
    number, place = number << 6 | head[place] & 63, place + 1
  code, rate = head[2] >> 4, head[2] & 15
  if code in (6, 7):
    size = int.from_bytes(head[place : place + code - 5], 'big') + 1
    place += code - 5
  else:
    size = _BLOCKS[code]
  place += {12: 1, 13: 2, 14: 2}.get(rate, 0)
  check = 0
  for byte in head[: place + 1]:
    check = _CRC8[check ^ byte]
  if place >= len(head) or check:
    return 0
  return number + size if head[1] & 1 else number * fixed + size


@functools.cache
def _weights() -> np.ndarray:
  """What a byte adds to the checksum when i further bytes follow it, uint16 [_BLOCK, 256]."""
  table = np.array(_CRC16, np.uint16)
  found = np.zeros((_BLOCK, 256), np.uint16)
  found[0] = table
  for i in range(1, _BLOCK):
    found[i] = found[i - 1] << 8 ^ table[found[i - 1] >> 8]
  return found


def _crc16(data: bytes) -> int:
  """0 for a whole frame with its checksum."""
  check, at = 0, 0
  size = len(data) % _BLOCK or _BLOCK
  while at < len(data):
    block = np.frombuffer(data, np.uint8, min(size, len(data) - at), at).copy()
    if check:  # Only before a full block.
      block[0] ^= check >> 8
      block[1] ^= check & 255
    places = np.arange(len(block) - 1, -1, -1)
    check = int(np.bitwise_xor.reduce(_weights()[places, block]))
    at, size = at + len(block), _BLOCK
  return check

"""Lengths that the headers of uncompressed formats claim: WAV, RF64, W64, AIFF, AU, CAF, SPHERE."""

import itertools
import re
import struct

from research.audio.formats import mpeg
from research.audio.formats.raw import AS_IT_IS, Fault, Layout, Link, Raw

# Of streams whose length was unknown: 0, the maximum of 31 or 32 bits less a header or a block, or
# a round number as servers of speech write it.
MAXIMUM, ROUND, BINARY, HEADER = 0x7FFF0000, 100_000_000, 2**24, 64
MAX_CHUNKS = 10_000
_MPEG = (0x50, 0x55)  # format tags of MPEG audio in WAV
# Size of the data in bytes is at this place, in this byte order; after the marker of the format.
_W64_DATA = b'data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a'


def placeholder(claimed: int) -> bool:
  """Whether a length was written before the end was known."""
  near = (claimed + HEADER) % BINARY <= 2 * HEADER and claimed > BINARY // 2
  return claimed <= 0 or claimed >= MAXIMUM or claimed % ROUND == 0 or near


def judge(claimed: int, there: int, header: int) -> str:
  """Compares the bytes of audio that a header claims with those that are there.

  Args:
    claimed: bytes of audio by the header.
    there: bytes from the beginning of the audio to the end of the file.
    header: bytes before the audio; a size that counts them too is forgiven.

  Returns:
    a sentence about a wrong claim that does no harm, else ''.

  Raises:
    Fault: the file is truncated.
  """
  if claimed <= there:
    return ''
  if not placeholder(claimed) and claimed - there > header:
    raise Fault(f'It is truncated: it has {there} of {claimed} bytes.')
  return f'Its header claims {claimed} bytes of audio, {there} are there, and all of them are read.'


def layout(raw: Raw, head: bytes) -> Layout | None:
  """How a file of one of these formats is read; None if it is another one."""
  if head[:4] in (b'RIFF', b'RIFX', b'RF64', b'BW64') and head[8:12] == b'WAVE':
    return _wave(raw, head)
  if head[:4] == b'FORM' and head[8:12] in (b'AIFF', b'AIFC', b'8SVX', b'16SV'):
    return _aiff(raw)
  if head[:4] == b'riff' and head[24:28] == b'wave':
    return _w64(raw)
  if head[:4] in (b'.snd', b'dns.'):
    order = '>' if head[:4] == b'.snd' else '<'
    offset, claimed = struct.unpack(order + '2I', head[4:12])
    return _judged(raw, offset, 0 if claimed == 0xFFFFFFFF else claimed)
  if head[:4] == b'caff':
    return _caf(raw)
  if head[:7] == b'NIST_1A':
    return _sphere(raw)
  return _fixed(raw, head)


def _note(note: str) -> Layout:
  return Layout(note=note) if note else AS_IT_IS


def _judged(raw: Raw, at: int, claimed: int, header: int = HEADER) -> Layout:
  """Refuses a file whose audio, from byte `at` on, is cut off, or is followed by another file."""
  note, there = judge(claimed, raw.size - at, header), raw.size - at
  if claimed > 0 and claimed < there:
    marker, behind = raw.read(0, 4), raw.read(at + claimed, 12)
    if marker in (behind[i : i + 4] for i in range(9)):
      raise Fault(f'It is several files in one: another begins at byte {at + claimed}; split it.')
  return _note(note)


def _chunks(raw: Raw, at: int, order: str):
  """(name, beginning of the content, size) of the chunks of a RIFF or IFF file."""
  for _ in range(MAX_CHUNKS):
    header = raw.read(at, 8)
    if len(header) < 8:
      return
    name, size = struct.unpack(order + '4sI', header)
    yield name, at + 8, size
    at += 8 + size + (size & 1)


def _wave(raw: Raw, head: bytes) -> Layout:
  order = '>' if head[:4] == b'RIFX' else '<'
  wide, tag = None, 0
  for name, at, size in _chunks(raw, 12, order):
    if name == b'fmt ':
      (tag,) = struct.unpack(order + 'H', raw.read(at, 2).ljust(2, b'\0'))
    if name == b'ds64':
      _, wide = struct.unpack('<2Q', raw.read(at, 16).ljust(16, b'\0'))
    if name != b'data':
      continue
    there = raw.size - at
    if wide is not None and size == 0xFFFFFFFF:
      # 64 bits have no round maximum; 0 and -1 are placeholders.
      claimed = wide if 0 < wide < 2**63 else 0
      note = judge(claimed, there, at)
      return _note(note) if claimed else _patched(raw, head, order, at, there)
    if not size and there and not _only_chunks(raw, at, order):
      return _patched(raw, head, order, at, there)
    if tag in _MPEG:
      judge(size, there, at)
      return mpeg.layout(raw, at) or AS_IT_IS
    if size < there and (second := _joined(raw, at + size)):
      return _two(raw, second)
    return _judged(raw, at, size, at)
  return AS_IT_IS


def _only_chunks(raw: Raw, at: int, order: str) -> bool:
  """Whether only further chunks follow: the chunk of the audio is then really empty."""
  for name, start, size in _chunks(raw, at, order):
    if not re.fullmatch(rb'[A-Za-z0-9_ ]{4}', name) or start + size > raw.size:
      return False
    at = start + size + (size & 1)
  return at >= raw.size


def _patched(raw: Raw, head: bytes, order: str, at: int, there: int) -> Layout:
  """A WAV file with the size of what is there, where the header has 0."""
  top = struct.pack(order + '4sI', b'RIFX' if order == '>' else b'RIFF', 0xFFFFFFFF)
  size = struct.pack(order + 'I', min(there, 0xFFFFFFFF))
  parts = (top, (8, at - 4), size, (at, raw.size))
  note = f'Its header leaves its length open; all of its {there} bytes of audio are read.'
  return Layout((Link(parts),), note)


def _joined(raw: Raw, end: int) -> int:
  """Where a second WAV file begins behind the audio of the first; 0 if there is none."""
  for _, at, size in _chunks(raw, end + (end & 1), '<'):
    if raw.read(at - 8, 4) in (b'RIFF', b'RIFX') and raw.read(at, 4) == b'WAVE':
      return at - 8
    if at + size > raw.size:
      return 0
  return 0


def _two(raw: Raw, at: int) -> Layout:
  """All of the WAV files that lie behind one another in one file."""
  edges = [0]
  while at:
    edges.append(at)
    found = next((c for c in _chunks(raw, at + 12, '<') if c[0] == b'data'), None)
    if found and found[1] + found[2] > raw.size:
      judge(found[2], raw.size - found[1], found[1] - at)
    at = _joined(raw, found[1] + found[2]) if found else 0
  edges.append(raw.size)
  links = tuple(Link(((a, b),)) for a, b in itertools.pairwise(edges))
  return Layout(links, f'It is {len(links)} WAV files in one; all of them are read.')


def _aiff(raw: Raw) -> Layout:
  for name, at, size in _chunks(raw, 12, '>'):
    if name in (b'SSND', b'BODY'):
      return _judged(raw, at, size)
  return AS_IT_IS


def _w64(raw: Raw) -> Layout:
  at = 40
  for _ in range(MAX_CHUNKS):
    header = raw.read(at, 24)
    if len(header) < 24:
      break
    (size,) = struct.unpack('<q', header[16:])
    if header[:16] == _W64_DATA:
      return _judged(raw, at + 24, size - 24)
    if size < 24:
      break
    at += (size + 7) // 8 * 8
  return AS_IT_IS


def _caf(raw: Raw) -> Layout:
  at = 8
  for _ in range(MAX_CHUNKS):
    header = raw.read(at, 12)
    if len(header) < 12:
      break
    name, size = struct.unpack('>4sq', header)
    if name == b'data' and size <= 0:
      there = raw.size - at - 12
      parts = ((0, at + 4), struct.pack('>q', there), (at + 12, raw.size))
      return Layout(
        (Link(parts),), f'Its header leaves its length open; all {there} bytes are read.'
      )
    if name == b'data':
      return _judged(raw, at + 12, size)
    if size < 0:
      break
    at += 12 + size
  return AS_IT_IS


def _sphere(raw: Raw) -> Layout:
  text = raw.read(0, 1024).decode('latin-1')
  start = re.match(r'NIST_1A\n\s*(\d+)', text)
  found = dict(re.findall(r'^(sample_count|channel_count|sample_n_bytes) -i (\d+)', text, re.M))
  coding = re.search(r'^sample_coding -s\d+ (\S+)', text, re.M)
  if start is None or 'sample_count' not in found or (coding and 'embedded' in coding[1]):
    return AS_IT_IS
  width = int(found.get('channel_count', 1)) * int(found.get('sample_n_bytes', 2))
  header = int(start[1])
  return _judged(raw, header, int(found['sample_count']) * width)


def _fixed(raw: Raw, head: bytes) -> Layout | None:
  """Old formats that libsndfile reads, with their length at a fixed place."""
  if head[:4] == b'2BIT':  # AVR
    head = raw.read(0, 128)
    (bits,), (frames,) = struct.unpack('>H', head[14:16]), struct.unpack('>I', head[26:30])
    stereo = head[12:14] == b'\xff\xff'
    return _judged(raw, 128, frames * (bits // 8) * (1 + stereo))
  if head[:19] == b'Creative Voice File':
    (at,) = struct.unpack('<H', head[20:22])
    block = raw.read(at, 4)
    if block[:1] in (b'\1', b'\x09'):
      return _judged(raw, at + 4, int.from_bytes(block[1:4], 'little'))
    return AS_IT_IS
  return None

"""Frames of MPEG audio (MP1, MP2, MP3): where they are, how many, and what is cut off their ends.

A decoder that seeks in an MP3 lacks what earlier frames left it: the bit reservoir, the overlap of
the filter bank, and the phase of its buffer. A stream that begins as many frames earlier, at a
multiple of GRID frames, gives the same bits as the whole.
"""

import dataclasses
import itertools

import numpy as np

from research.audio.formats.raw import Fault, Layout, Link, Part, Raw, behind_id3, end_of_audio

# Frames decoded for the overlap, behind those that fill the bit reservoir of 511 bytes.
WARM, RESERVOIR = 2, 511
# mpg123's synthesis turns a buffer of 16 places by 18 or 36 places a frame.
GRID = 8
# Samples that the decoder itself delays, which encoders do not count.
DECODER_DELAY = 529
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_BITS = {
  (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
  (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
  (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
  (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
  (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
  (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _lengths() -> dict[int, int]:
  """Bytes 1 and 2 of the header of a frame -> its length in bytes."""
  found = {}
  for second in range(0xE0, 0x100):
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    if version == 1 or layer == 4:
      continue
    low = version != 3
    for third in range(256):
      index, rate, pad = third >> 4, third >> 2 & 3, third >> 1 & 1
      if index in (0, 15) or rate == 3:
        continue
      bits, hertz = _BITS[1 + low, layer][index - 1] * 1000, _RATES[version][rate]
      if layer == 1:
        length = (12 * bits // hertz + pad) * 4
      else:
        length = (72 if low and layer == 3 else 144) * bits // hertz + pad
      found[second << 8 | third] = length
  return found


_LENGTHS = _lengths()


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
  """The frames of one MPEG stream.

  Attributes:
    starts: the first byte of each, int64 [frames].
    ends: the byte behind each, int64 [frames]; others may lie between two frames.
    samples: samples of a frame.
    rate: Hz.
    skip: samples that are cut off the beginning.
    head: header of a frame, 4 bytes.
    layer: 1, 2 or 3.
  """

  starts: np.ndarray
  ends: np.ndarray
  samples: int
  rate: int
  skip: int
  head: bytes
  layer: int

  def window(self, raw: Raw, first: int, count: int) -> tuple[tuple[Part, ...], int]:
    """A stream that holds samples `first` to `first + count`, and where in it they begin."""
    first += self.skip
    # Where whole frames are cut off the beginning, the buffer of mpg123 is turned by as many more.
    phase = self.skip // self.samples % GRID
    heard = max(0, first // self.samples - WARM)
    begin = max(0, (self._reservoir(heard) + phase) // GRID * GRID - phase)
    # One more, for the last samples of a frame.
    end = min(len(self.ends), -(-(first + count) // self.samples) + 1)
    place = first - begin * self.samples
    if self.layer != 3:
      # The length is taken from the size: more than there is.
      return (*self._parts(begin, end), bytes(4 * 1800)), place
    # mpg123 drops its own delay where a header says the length: of silence, if audio begins there.
    silent = 0 if begin else GRID + phase
    # A frame whose reservoir is missing would be left out, and turn the buffer by one less.
    heard = min(heard if begin else self._first(raw), end)
    head = self._info(end - begin + silent) + self._frame(b'', 0) * silent
    head += self._muted(raw, begin, heard)
    parts = (head, *self._parts(heard, end))
    return parts, place + silent * self.samples - DECODER_DELAY

  def _parts(self, begin: int, end: int) -> list[Part]:
    """The bytes of frames `begin` to `end`, without what lies between them."""
    if begin >= end:
      return []
    breaks = np.flatnonzero(self.starts[begin + 1 : end] != self.ends[begin : end - 1]) + begin + 1
    edges = itertools.pairwise([begin, *breaks.tolist(), end])
    return [(int(self.starts[a]), int(self.ends[b - 1])) for a, b in edges]

  def _reservoir(self, frame: int) -> int:
    """The first of the frames that hold the audio of `frame`."""
    needed, at = RESERVOIR, frame
    while self.layer == 3 and at > 0 and needed > 0:
      at -= 1
      needed -= self._audio(at)
    return at

  def _first(self, raw: Raw) -> int:
    """The first frame that needs no audio of earlier ones: 0, unless a stream was cut."""
    there = 0
    for frame in range(min(len(self.ends), 100)):
      if _reach(raw.read(int(self.starts[frame]), 8)) <= there:
        return frame
      there += self._audio(frame)
    return 0

  def _audio(self, frame: int) -> int:
    """Bytes of audio in a frame: what is not header, checksum or side information."""
    return max(0, int(self.ends[frame] - self.starts[frame]) - 6 - _side(self.head))

  def _muted(self, raw: Raw, begin: int, end: int) -> bytes:
    """Frames `begin` to `end` without sound: their audio is there for those that follow."""
    found, there = [], 0
    for frame in range(begin, end):
      start = int(self.starts[frame])
      data = raw.read(start, int(self.ends[frame]) - start)
      at = 4 + _side(self.head)
      # mpg123 hands the reservoir on from frame to frame, as far as each reaches back.
      reach = min(_reach(data), there)
      side = bytes([reach]) if _low(data) else (reach << 7).to_bytes(2, 'big')
      head = bytes([0xFF, data[1] | 1, *data[2:4]]) + side
      found.append(head.ljust(at, b'\0') + data[at:])
      there += self._audio(frame)
    return b''.join(found)

  def _info(self, frames: int) -> bytes:
    """A frame that says how many follow, so that no length is guessed."""
    return self._frame(b'Xing' + (1).to_bytes(4, 'big') + frames.to_bytes(4, 'big'), 12)

  def _frame(self, content: bytes, room: int) -> bytes:
    """The smallest frame with this content behind its side information; without any, of silence."""
    at, second = 4 + _side(self.head), self.head[1] | 1
    for index in range(1, 15):
      third = index << 4 | self.head[2] & 0x0C
      size = _LENGTHS[second << 8 | third]
      if size >= at + room:
        break
    return (bytes([0xFF, second, third, self.head[3]]).ljust(at, b'\0') + content).ljust(
      size, b'\0'
    )


def _low(head: bytes) -> bool:
  """Whether a frame is of MPEG 2 or 2.5, at 24 kHz or less."""
  return head[1] >> 3 & 3 != 3


def _side(head: bytes) -> int:
  """Bytes of side information of a frame of layer III."""
  mono = head[3] >> 6 == 3
  return (9 if mono else 17) if _low(head) else (17 if mono else 32)


def _reach(frame: bytes) -> int:
  """How many bytes of its audio lie before a frame of layer III (main_data_begin)."""
  side = frame[4:6] if frame[1] & 1 else frame[6:8]
  return side[0] if _low(frame) else side[0] << 1 | side[1] >> 7


def layout(raw: Raw, start: int) -> Layout | None:
  """How a file of MPEG frames is read; None if there are none from byte `start` on.

  Raises:
    Fault: it is damaged or truncated.
  """
  data = raw.read(0, raw.size)
  links: list[Link] = []
  notes: list[str] = []
  starts: list[int] = []
  kind = info = None
  at, end = start, end_of_audio(raw)

  def close() -> None:
    if starts or info is not None:
      link, note = _link(data, starts, info)
      if link is not None:
        links.append(link)
      notes.extend(filter(None, [note]))

  while at + 4 <= end:
    length = _LENGTHS.get(data[at + 1] << 8 | data[at + 2]) if data[at] == 0xFF else None
    if length is None:
      behind = _behind_tag(data, at) or _next(data, at, end, kind, bool(starts))
      if behind is None:
        break
      at = behind
      continue
    # Version, layer, rate, and mono or not.
    same = (data[at + 1] & 0xFE, data[at + 2] & 0x0C, data[at + 3] >> 6 == 3)
    if at + length > end:
      if kind is not None and same == kind:
        raise Fault('It is truncated in the middle of an MPEG frame.')
      break
    about = _about(data[at : at + length])
    if same != kind or about is not None:
      if same != kind and not _follows(data, at + length, end, same):
        at += 1
        continue
      close()
      kind, starts, info = same, [], about
      if about is None:
        starts.append(at)
    else:
      starts.append(at)
    at += length
  close()
  if not links:
    return None
  if len(links) > 1:
    notes.append(f'It is {len(links)} MPEG streams in one; all of them are read.')
  return Layout(tuple(links), ' '.join(notes))


def _link(data: bytes, starts: list[int], info: dict | None) -> tuple[Link | None, str]:
  if not starts:
    claimed = (info or {}).get('frames') or 0
    if claimed > 1:
      raise Fault(f'It is truncated: it has 0 of {claimed} MPEG frames.')
    return None, ''
  head = data[starts[0] : starts[0] + 4]
  version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
  samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
  begins = np.array(starts, np.int64)
  ends = np.array([s + _LENGTHS[data[s + 1] << 8 | data[s + 2]] for s in starts], np.int64)
  skip = pad = 0
  note = ''
  if info is not None:
    claimed = info.get('frames') or len(starts)
    # Some encoders count the frame with the number too.
    if claimed > len(starts) + 1:
      raise Fault(f'It is truncated: it has {len(starts)} of {claimed} MPEG frames.')
    skip, pad = info['skip'], info['pad']
    if claimed < len(starts):
      note, pad = f'Its header claims {claimed} of its {len(starts)} MPEG frames; all are read.', 0
  frames = max(0, len(starts) * samples - skip - pad)
  mpeg = Frames(begins, ends, samples, _RATES[version][head[2] >> 2 & 3], skip, head, layer)
  return Link(frames=frames, mpeg=mpeg), note


def _about(frame: bytes) -> dict | None:
  """What a frame of the kind Xing, Info or VBRI says of the stream; None if it holds audio."""
  if 4 - (frame[1] >> 1 & 3) != 3:
    return None
  if frame[36:40] == b'VBRI':
    return {'frames': int.from_bytes(frame[50:54], 'big'), 'skip': 0, 'pad': 0}
  for at in (4 + _side(frame), 6 + _side(frame)):  # With a checksum, 2 bytes later in some.
    if frame[at : at + 4] not in (b'Xing', b'Info'):
      continue
    flags = int.from_bytes(frame[at + 4 : at + 8], 'big')
    found = {'skip': 0, 'pad': 0}
    if flags & 1:
      found['frames'] = int.from_bytes(frame[at + 8 : at + 12], 'big')
    lame = at + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
    delays = int.from_bytes(frame[lame + 21 : lame + 24], 'big')
    if frame[lame : lame + 1].isalpha() and delays:
      found['skip'] = (delays >> 12) + DECODER_DELAY
      found['pad'] = max(0, (delays & 0xFFF) - DECODER_DELAY)
    return found
  return None


def _follows(data: bytes, at: int, end: int, same: tuple) -> bool:
  """Whether a frame of the same kind, a tag or the end follows."""
  if at + 4 > end:
    return True
  if _behind_tag(data, at):
    return True
  return (
    data[at] == 0xFF
    and (data[at + 1] << 8 | data[at + 2]) in _LENGTHS
    and (data[at + 1] & 0xFE, data[at + 2] & 0x0C, data[at + 3] >> 6 == 3) == same
  )


def _next(data: bytes, at: int, end: int, kind: tuple | None, begun: bool) -> int | None:
  """Where frames go on behind bytes that are none; None if they do not.

  Raises:
    Fault: those bytes are no padding, and frames of the same stream follow.
  """
  place = at
  while (place := data.find(b'\xff', place, end - 3)) >= 0:
    length = _LENGTHS.get(data[place + 1] << 8 | data[place + 2])
    if length is not None:
      same = (data[place + 1] & 0xFE, data[place + 2] & 0x0C, data[place + 3] >> 6 == 3)
      if place + length < end and _follows(data, place + length, end, same):
        junk = data[at:place]
        if begun and same == kind and junk.strip(b'\0') and _about(data[place:]) is None:
          raise Fault(f'It is damaged: {len(junk)} bytes at {at} are no MPEG frames.')
        return place
    place += 1
  return None


def _behind_tag(data: bytes, at: int) -> int:
  """The place behind a tag that begins here; 0 if none does."""
  if size := behind_id3(data[at : at + 10]):
    return at + size
  if data[at : at + 3] == b'TAG':
    return at + 128
  if data[at : at + 8] == b'APETAGEX':
    size = int.from_bytes(data[at + 12 : at + 16], 'little')
    header = int.from_bytes(data[at + 20 : at + 24], 'little') & (1 << 29)
    return at + 32 + (size if header else 0)
  return 0

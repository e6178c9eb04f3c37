"""Files of EnCodec, `.ecdc`: codes of one clip as packed bits, or by an arithmetic coder.

Byte for byte those of encodec's compress.py: a header ('ECDC', version 0, length of the JSON that
follows, all big-endian; JSON with 'm' model, 'al' samples, 'nc' codebooks, 'lm' whether a language
model was used), then for every segment its loudness (float32, big-endian) where the codec takes it
away, and its codes, frame by frame.
Letters: n frames, q codebooks, k codes.
"""

import json
import math
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from research.errors import InputError

HEADER = struct.Struct('!4sBI')
MAGIC = b'ECDC'
SCALE = struct.Struct('!f')
RANGE_BITS = 24  # of the arithmetic coder
ROUNDOFF = 1e-8  # to which probabilities are rounded down
MIN_RANGE = 2  # of 2^24, for every code
# Bits of a code by the arithmetic coder, at least: those of the likeliest one of 1024.
LEAST_BITS = 1e-4
MAX_HEADER = 2**16


class Header(NamedTuple):
  """What a file says.

  Attributes:
    model: name of the codec, 'encodec_24khz' or 'encodec_48khz' of the published ones.
    samples: of the clip.
    codebooks: q.
    language_model: whether codes were packed with its probabilities.
  """

  model: str
  samples: int
  codebooks: int
  language_model: bool


# -- Header ------------------------------------------------------------------------------------


def write_header(header: Header) -> bytes:
  """The bytes before the codes."""
  keys = dict(zip(('m', 'al', 'nc', 'lm'), header, strict=True))
  text = json.dumps(keys).encode()
  return HEADER.pack(MAGIC, 0, len(text)) + text


def read_header(data: bytes, where: str) -> tuple[Header, int]:
  """(header, where the codes begin).

  Raises:
    InputError: another kind of file, another version, or one that is cut off or damaged.
  """
  if data[: len(MAGIC)] != MAGIC:
    raise InputError(f'{where} is not an .ecdc file: it does not begin with {MAGIC.decode()}.')
  if len(data) < HEADER.size:
    raise _short(where)
  _, version, length = HEADER.unpack_from(data)
  if version != 0:
    raise InputError(f'{where} has version {version} of .ecdc; version 0 can be read.')
  if length > MAX_HEADER:
    raise InputError(f'{where} is damaged: its header would have {length} bytes.')
  if len(data) < HEADER.size + length:
    raise _short(where)
  try:
    found = json.loads(data[HEADER.size : HEADER.size + length])
    header = Header(*(found[key] for key in ('m', 'al', 'nc', 'lm')))
    known = tuple(type(x) for x in header) == (str, int, int, bool)
  except (ValueError, KeyError, TypeError, RecursionError):
    known = False
  if not known or header.samples < 1 or header.codebooks < 1:
    raise InputError(f'{where} is damaged: its header does not say what the codes are of.')
  return header, HEADER.size + length


def check_length(wanted: float, data: bytes, where: str) -> None:
  """Raises InputError where a file is smaller than the codes that its header names, `wanted` bytes,
  before anything of that size is made."""
  if wanted > len(data) + 1:
    raise _short(where)


def _short(where: str) -> InputError:
  return InputError(f'{where} is cut off: it ends before the last code. Get it again.')


# -- Bits --------------------------------------------------------------------------------------


def pack(values: Int[np.ndarray, ' m'], bits: int) -> bytes:
  """Numbers of `bits` bits, the lowest first; the last byte is filled up with zeros."""
  spread = (values[:, None].astype(np.int64) >> np.arange(bits)) & 1
  return np.packbits(spread.astype(np.uint8).reshape(-1), bitorder='little').tobytes()


def unpack(data: bytes, count: int, bits: int) -> Int[np.ndarray, ' m']:
  """The inverse of `pack`."""
  flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder='little')[: count * bits]
  return (flat.reshape(count, bits).astype(np.int64) << np.arange(bits)).sum(axis=1)


def packed_bytes(count: int, bits: int) -> int:
  """Bytes that `pack` gives for N numbers."""
  return -(-count * bits // 8)


# -- Arithmetic coder --------------------------------------------------------------------------


def cumulative(probabilities: Float[np.ndarray, '*q k']) -> Int[np.ndarray, '*q k']:
  """Ends of the ranges of codes among 2^24, each at least 2 wide, of float32 probabilities that are
  rounded down to 1e-8."""
  p = np.asarray(probabilities, np.float32)
  step = np.float32(ROUNDOFF)
  p = np.floor(p / step) * step
  total = 2**RANGE_BITS
  alpha = MIN_RANGE * p.shape[-1] / total
  ranges = np.floor(np.float32((1 - alpha) * total) * p).astype(np.int64) + MIN_RANGE
  return np.cumsum(ranges, axis=-1)


class Coder:
  """Codes to bits, one after the other, by their probabilities (range coding with 24 bits)."""

  def __init__(self) -> None:
    self._low, self._high, self._top = 0, 0, -1
    self._bits: list[int] = []

  def push(self, code: int, ends: Int[np.ndarray, ' k']) -> None:
    """Adds a code whose ranges are `ends`, see `cumulative`."""
    while self._high - self._low + 1 < 2**RANGE_BITS:
      self._low, self._high, self._top = 2 * self._low, 2 * self._high + 1, self._top + 1
    low, high = _bounds(code, ends, self._high - self._low + 1)
    self._low, self._high = self._low + low, self._low + high
    while self._top >= 0 and (bit := self._low >> self._top) == self._high >> self._top:
      self._low -= bit << self._top
      self._high -= bit << self._top
      self._top -= 1
      self._bits.append(bit)

  def finish(self) -> bytes:
    """All bits."""
    rest = [(self._low >> i) & 1 for i in range(self._top, -1, -1)]
    return pack(np.asarray([*self._bits, *rest], np.int64), 1)


class Decoder:
  """Bits to codes; `used` is how many bytes were read."""

  def __init__(self, data: bytes) -> None:
    self._data, self._bit = data, 0
    self._low, self._high, self._now, self._top = 0, 0, 0, -1

  @property
  def used(self) -> int:
    return -(-self._bit // 8)

  def pull(self, ends: Int[np.ndarray, ' k']) -> int | None:
    """The next code; None where the bits are at their end, or fit no code."""
    while self._high - self._low + 1 < 2**RANGE_BITS:
      if self._bit >= 8 * len(self._data):
        return None
      bit = self._data[self._bit // 8] >> self._bit % 8 & 1
      self._bit += 1
      self._low, self._high, self._top = 2 * self._low, 2 * self._high + 1, self._top + 1
      self._now = 2 * self._now + bit
    first, last, delta = 0, len(ends) - 1, self._high - self._low + 1
    while first <= last:
      code = (first + last) // 2
      low, high = _bounds(code, ends, delta)
      if self._now < self._low + low:
        last = code - 1
      elif self._now > self._low + high:
        first = code + 1
      else:
        self._low, self._high = self._low + low, self._low + high
        break
    else:
      return None
    while self._top >= 0 and (bit := self._low >> self._top) == self._high >> self._top:
      self._low -= bit << self._top
      self._high -= bit << self._top
      self._now -= bit << self._top
      self._top -= 1
    return code


def _bounds(code: int, ends: Int[np.ndarray, ' k'], delta: int) -> tuple[int, int]:
  """First and last place of a code in a range `delta` wide, in float64 as encodec computes it."""
  start = 0 if code == 0 else int(ends[code - 1])
  part = delta / 2**RANGE_BITS
  return math.ceil(start * part), math.floor((int(ends[code]) - 1) * part)


# -- Segments ----------------------------------------------------------------------------------


class Segment(NamedTuple):
  """Codes [n, q] of a segment, and its loudness or None."""

  codes: Int[np.ndarray, 'n q']
  scale: float | None


@runtime_checkable
class Packer(Protocol):
  """A language model that packs codes, see `inference.entropy`."""

  def pack(self, codes: Int[np.ndarray, 'n q']) -> bytes:
    """The bits of a segment."""
    ...

  def unpack(
    self, data: bytes, frames: int, codebooks: int, where: str
  ) -> tuple[Int[np.ndarray, 'n q'], int]:
    """(codes of a segment, how many bytes they took)."""
    ...


def write(
  header: Header, segments: Iterable[Segment], bits: int, packer: Packer | None = None
) -> Iterator[bytes]:
  """The bytes of a file, in parts; codes are packed by `packer`, or as they are."""
  yield write_header(header)
  for codes, scale in segments:
    if scale is not None:
      yield SCALE.pack(scale)
    yield pack(codes.reshape(-1), bits) if packer is None else packer.pack(codes)


def read_segments(
  data: bytes,
  at: int,
  frames: Iterable[int],
  codebooks: int,
  bits: int,
  scaled: bool,
  where: str,
  packer: Packer | None = None,
) -> Iterator[Segment]:
  """The segments of a file.

  Args:
    data: all bytes.
    at: where the codes begin.
    frames: of every segment.
    codebooks: q.
    bits: of a code.
    scaled: whether segments have a loudness.
    where: the file, for messages.
    packer: of a file with a language model.

  Raises:
    InputError: the file ends before the last code.
  """
  for n in frames:
    scale = None
    if scaled:
      if len(data) < at + SCALE.size:
        raise _short(where)
      (scale,) = SCALE.unpack_from(data, at)
      if not math.isfinite(scale) or scale < 0:
        raise InputError(f'{where} is damaged: the loudness of a segment is {scale}.')
      at += SCALE.size
    if packer is not None:
      codes, used = packer.unpack(data[at:], n, codebooks, where)
      yield Segment(codes, scale)
      at += used
      continue
    size = packed_bytes(n * codebooks, bits)
    if len(data) < at + size:
      raise _short(where)
    yield Segment(unpack(data[at : at + size], n * codebooks, bits).reshape(n, codebooks), scale)
    at += size

"""Pages of Ogg files (RFC 3533): chained streams and truncation."""

import itertools

from research.audio.formats.raw import AS_IT_IS, Fault, Layout, Link, Raw

# Files up to this size are read page by page; longer ones are probed at three places.
SMALL = 2**16
LARGEST = 65307  # bytes of a page
_BLOCK = 2**20


def layout(raw: Raw) -> Layout:
  """How an Ogg file is read.

  Raises:
    Fault: it ends in the middle of a page.
  """
  tail_at = max(0, raw.size - LARGEST)
  tail = raw.read(tail_at, LARGEST)
  at = tail.rfind(b'OggS')
  last = tail[at : at + 27] if at >= 0 else b''
  if len(last) < 27:
    raise Fault('It is truncated in the middle of an Ogg page.')
  lacing = tail[at + 27 : at + 27 + last[26]]
  if len(lacing) < last[26] or at + 27 + len(lacing) + sum(lacing) > len(tail):
    raise Fault('It is truncated in the middle of an Ogg page.')
  starts = [0] if _single(raw, last) else _links(raw)
  if len(starts) < 2:
    return AS_IT_IS
  edges = [*starts, raw.size]
  links = tuple(Link(((a, b),)) for a, b in itertools.pairwise(edges))
  return Layout(links, f'It is a chain of {len(links)} Ogg streams; all of them are read.')


def _single(raw: Raw, last: bytes) -> bool:
  """Whether pages of four places are of one stream and in order."""
  if raw.size <= SMALL:
    return False
  pages = [raw.read(0, 27)]
  for k in (1, 2, 3):
    part = raw.read(raw.size * k // 4, LARGEST + 27)
    at = part.find(b'OggS')
    if at < 0:
      return False
    pages.append(part[at : at + 27])
  pages.append(last)
  numbers = [int.from_bytes(page[18:22], 'little') for page in pages]
  return len({page[14:18] for page in pages}) == 1 and numbers == sorted(numbers)


def _links(raw: Raw) -> list[int]:
  """Where the links of a chain begin: at a first page that follows one that is none."""
  starts, at, begun = [0], 0, True
  block, block_at = b'', 0
  while at + 27 <= raw.size:
    if not block_at <= at <= block_at + len(block) - 282:
      block, block_at = raw.read(at, _BLOCK), at
    i = at - block_at
    if block[i : i + 4] != b'OggS':
      found = block.find(b'OggS', i)
      at = block_at + found if found >= 0 else block_at + max(i + 1, len(block) - 3)
      continue
    first = bool(block[i + 5] & 2)
    if first and not begun:
      starts.append(at)
    begun = first
    segments = block[i + 26]
    at += 27 + segments + sum(block[i + 27 : i + 27 + segments])
  return starts

"""Windows of a recording that are decoded without regard to each other, and their texts as one.

'voice' cuts in pauses, so that a window holds whole utterances (faster-whisper's batched mode).
'fixed' are windows of one length; neighbours share an overlap, where their texts are joined at the
middle of what both have heard (transformers' pipeline, `_find_longest_common_sequence`).
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from research.errors import InputError
from research.inference import voice
from research.inference.whisper_segments import Segment


def cut(
  kind: str, audio: Float[np.ndarray, ' t'], rate: int, longest: float, overlap: float
) -> list[tuple[int, int]]:
  """(first sample, end) of every window, of `longest` seconds at most.

  Raises:
    InputError: an overlap of half a window or more.
  """
  if kind == 'voice':
    return voice.cut(audio, rate, longest)
  if not 0 <= overlap < longest / 2:
    raise InputError(
      f'An overlap of {overlap:g} s was given: windows of {longest:g} s share 0 s to less than '
      'half of them.'
    )
  return voice.fixed(len(audio), rate, longest, overlap)


def joined(
  windows: Sequence[tuple[float, float]],
  found: Sequence[Sequence[Segment]],
  decode: Callable[[Sequence[int]], str],
  eot: int,
  rate: float,
) -> list[Segment]:
  """The segments of windows as those of their recording.

  Args:
    windows: (start, end) of each, in seconds.
    found: its segments, whose times are changed.
    decode: tokens to text.
    eot: tokens of text are below it.
    rate: mel frames a second.
  """
  every: list[Segment] = []
  last = 0.0
  for (start, end), segments in zip(windows, found, strict=True):
    for segment in segments:
      _shift(segment, start, round(start * rate))
    own = list(segments)
    if start < last:
      every, own = _without_repetition(every, own, start, last, decode, eot)
    every, last = every + own, end
  for i, segment in enumerate(every):
    segment.id = i
  return every


# -- Overlaps ----------------------------------------------------------------------------------


def _without_repetition(
  left: list[Segment],
  right: list[Segment],
  start: float,
  end: float,
  decode: Callable[[Sequence[int]], str],
  eot: int,
) -> tuple[list[Segment], list[Segment]]:
  """Both without what the other one has of the overlap from `start` to `end`."""
  tail = [s for s in left if s.end > start]
  head = [s for s in right if s.start < end]
  texts = [[t for s in side for t in s.tokens if t < eot] for side in (tail, head)]
  keep, drop = middle(*texts)
  kept = _parts(tail, 0, keep, decode, eot)
  behind = _parts(head, drop, len(texts[1]), decode, eot)
  return left[: len(left) - len(tail)] + kept, behind + right[len(head) :]


def middle(left: Sequence[int], right: Sequence[int]) -> tuple[int, int]:
  """(tokens of the left side that stay, tokens of the right side that go): the middle of the place
  where the end of one and the beginning of the other agree best; all stay where nothing does."""
  best, found = 0.0, (len(left), 0)
  for i in range(1, len(left) + len(right)):
    a = max(0, len(left) - i), min(len(left), len(left) + len(right) - i)
    b = max(0, i - len(left)), min(len(right), i)
    same = sum(x == y for x, y in zip(left[slice(*a)], right[slice(*b)]))
    score = same / i + i / 10_000.0
    if same > 1 and score > best:
      best, found = score, (sum(a) // 2, sum(b) // 2)
  return found


def _parts(
  segments: Sequence[Segment],
  first: int,
  last: int,
  decode: Callable[[Sequence[int]], str],
  eot: int,
) -> list[Segment]:
  """The tokens of text from `first` to `last` of a row of segments, as segments; times of a part
  are those of its words, or in proportion to its tokens."""
  found, place = [], 0
  for segment in segments:
    text = [t for t in segment.tokens if t < eot]
    low, high = max(first - place, 0), min(last - place, len(text))
    place += len(text)
    if low >= high:
      continue
    if (low, high) != (0, len(text)):
      segment = _part(segment, text, low, high, decode)
    found.append(segment)
  return found


def _part(
  segment: Segment, text: list[int], low: int, high: int, decode: Callable[[Sequence[int]], str]
) -> Segment:
  span = (segment.end - segment.start) / len(text)
  start, end = segment.start + low * span, segment.start + high * span
  words = None
  if segment.words is not None:
    ends = np.cumsum([len(w.tokens) for w in segment.words]).tolist()
    words = [w for w, e in zip(segment.words, ends) if low < e <= high]
    if words:
      start, end = words[0].start, words[-1].end
  tokens = text[low:high]
  return dataclasses.replace(
    segment, start=start, end=end, text=decode(tokens), tokens=tokens, words=words
  )


def _shift(segment: Segment, seconds: float, frames: int) -> None:
  segment.start, segment.end = segment.start + seconds, segment.end + seconds
  segment.seek += frames
  for word in segment.words or ():
    word.start, word.end = word.start + seconds, word.end + seconds

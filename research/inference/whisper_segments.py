"""What was said, in segments and words with their times."""

import dataclasses
from collections.abc import Sequence

PREPENDED = '"\'“¿([{-'
APPENDED = '"\'.。,，!！?？:：”)]}、'
PUNCTUATION = PREPENDED + APPENDED


@dataclasses.dataclass
class Word:
  """A word with its tokens, seconds and mean probability of its tokens."""

  word: str
  tokens: list[int]
  start: float
  end: float
  probability: float


@dataclasses.dataclass
class Segment:
  """What was said from `start` to `end` (seconds); `seek` is the first mel frame of its window."""

  id: int
  seek: int
  start: float
  end: float
  text: str
  tokens: list[int]
  temperature: float
  avg_logprob: float
  compression_ratio: float
  no_speech_prob: float
  words: list[Word] | None = None


@dataclasses.dataclass(frozen=True)
class Transcript:
  """What was said in a recording, in which language."""

  text: str
  segments: list[Segment]
  language: str


def end_of(segments: Sequence[Segment]) -> float | None:
  """Where the last word ends, or the last segment where there is none."""
  words = [word for segment in segments for word in segment.words or ()]
  return words[-1].end if words else (segments[-1].end if segments else None)


def with_words(segments: Sequence[Segment]) -> Segment | None:
  """The first segment that has words."""
  return next((segment for segment in segments if segment.words), None)


def improbable(segment: Segment) -> bool:
  """Whether words are too short, too long or too improbable to have been said."""
  words = [w for w in segment.words or () if w.word not in PUNCTUATION][:8]
  score = 0.0
  for word in words:
    duration = word.end - word.start
    score += float(word.probability < 0.15)
    score += max(0.0, 0.133 - duration) * 15 + max(0.0, duration - 2.0)
  return bool(segment.words) and (score >= 3 or score + 0.01 >= len(words))

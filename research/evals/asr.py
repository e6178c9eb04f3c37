"""From the logits of a CTC model to words with times, and how wrong they are.

A decoder gives a *path*: one symbol of the vocabulary for each frame [n]. Repeats collapse, blanks
vanish, and what is left spells the words (Graves et al. 2006, section 3.1). Letters: n frames, v
symbols, u letters.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from research.audio import text
from research.errors import InputError


class Word(NamedTuple):
  """A word and its times in seconds from the start of the clip."""

  word: str
  start: float
  end: float


class Letters(NamedTuple):
  """What a path spells: ids [u], and the first and last frame of each."""

  ids: Int[np.ndarray, 'u']
  first: Int[np.ndarray, 'u']
  last: Int[np.ndarray, 'u']


@dataclasses.dataclass(frozen=True)
class Transcript:
  """What was said in a clip.

  Attributes:
    text: the words with one space between them.
    words: each with its times.
    seconds: length of the clip.
  """

  text: str
  words: tuple[Word, ...]
  seconds: float


@runtime_checkable
class Decoder(Protocol):
  """What chooses the path of a clip."""

  def __call__(self, logits: Float[np.ndarray, 'n v']) -> Int[np.ndarray, 'n']:
    """The path of the logits of a clip's real frames."""
    ...

  def about(self) -> dict[str, Any]:
    """What the result depends on, JSON-able."""
    ...


@dataclasses.dataclass(frozen=True)
class Greedy:
  """The most probable symbol of every frame; the decoder without a search."""

  blank: int = 0

  def __call__(self, logits: Float[np.ndarray, 'n v']) -> Int[np.ndarray, 'n']:
    """The path of the logits of a clip's real frames."""
    return np.argmax(logits, axis=1).astype(np.int32)

  def about(self) -> dict[str, Any]:
    """What the result depends on, JSON-able."""
    return {'decoder': 'greedy'}


def demand_ctc(model: Any) -> None:
  """Raises InputError unless a model gives letters: `vocabulary`, `blank` and a `frontend`."""
  has_all = all(hasattr(model, name) for name in ('vocabulary', 'blank', 'frontend'))
  if not has_all or not model.vocabulary:
    raise InputError(
      f'{type(model).__name__} gives no letters: to transcribe, a model with a CTC head is needed '
      '(one that was fine-tuned on transcripts, as wav2vec2_ctc).'
    )


def collapse(path: Int[np.ndarray, 'n'], blank: int = 0) -> Letters:
  """Runs of one symbol become one letter, and blanks vanish.

  Args:
    path: a symbol a frame.
    blank: the symbol that is none, and that keeps equal letters apart.
  """
  path = np.asarray(path, np.int32)
  starts = np.flatnonzero(np.diff(path, prepend=-1))
  ends = np.append(starts[1:], len(path))[: len(starts)] - 1
  kept = path[starts] != blank
  return Letters(path[starts][kept], starts[kept].astype(np.int32), ends[kept].astype(np.int32))


def words_of(letters: Letters, symbols: Sequence[str], frame_seconds: float) -> tuple[Word, ...]:
  """Words and their times: from the first frame of the first letter to the end of the last's last.

  Frame i lasts from i to i + 1 times `frame_seconds`. Specials ('<unk>' …) spell nothing.
  """
  found: list[Word] = []
  spelt: list[int] = []

  def close() -> None:
    if spelt:
      start = float(letters.first[spelt[0]]) * frame_seconds
      end = float(letters.last[spelt[-1]] + 1) * frame_seconds
      found.append(Word(text.spell(letters.ids[spelt], symbols), start, end))
      spelt.clear()

  for place, i in enumerate(letters.ids):
    if symbols[int(i)] == text.BOUNDARY:
      close()
    elif not text.is_special(symbols[int(i)]):
      spelt.append(place)
  close()
  return tuple(found)


def transcript(
  path: Int[np.ndarray, 'n'],
  symbols: Sequence[str],
  blank: int,
  frame_seconds: float,
  seconds: float,
) -> Transcript:
  """What a path says.

  Args:
    path: a symbol a frame.
    symbols: the vocabulary.
    blank: the id of CTC's blank.
    frame_seconds: time between frames.
    seconds: length of the clip.
  """
  letters = collapse(path, blank)
  words = words_of(letters, symbols, frame_seconds)
  return Transcript(text.spell(letters.ids, symbols), words, seconds)


# -- Error rates -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Errors:
  """Edits from references to hypotheses, counted over a whole corpus.

  Attributes:
    hits: reference units that are right.
    substitutions: that became another.
    deletions: that are missing.
    insertions: hypothesis units that no reference has.
  """

  hits: int
  substitutions: int
  deletions: int
  insertions: int

  @property
  def reference(self) -> int:
    """Units of all references."""
    return self.hits + self.substitutions + self.deletions

  @property
  def rate(self) -> float:
    """Errors over reference units: 0 for the best, above 1 with many insertions.

    Where the references are all empty: 0 without an insertion, else infinite.
    """
    wrong = self.substitutions + self.deletions + self.insertions
    if self.reference:
      return wrong / self.reference
    return float('inf') if wrong else 0.0


def word_errors(references: Iterable[str], hypotheses: Iterable[str]) -> Errors:
  """Word errors of a corpus; WER is their `rate`. Case and punctuation count as they are.

  An empty reference adds no words, and what was heard there counts as insertions.

  Raises:
    InputError: not as many hypotheses as references.
  """
  import jiwer

  return _errors(jiwer.process_words, references, hypotheses)


def character_errors(references: Iterable[str], hypotheses: Iterable[str]) -> Errors:
  """Character errors of a corpus, the single spaces between words included; CER is their `rate`.

  Raises:
    InputError: not as many hypotheses as references.
  """
  import jiwer

  return _errors(jiwer.process_characters, references, hypotheses)


def _errors(process: Any, references: Iterable[str], hypotheses: Iterable[str]) -> Errors:
  given = [[' '.join(line.split()) for line in lines] for lines in (references, hypotheses)]
  if len(given[0]) != len(given[1]):
    raise InputError(
      f'{len(given[0])} references cannot be compared with {len(given[1])} hypotheses: give one '
      'for each.'
    )
  if not given[0]:
    return Errors(0, 0, 0, 0)
  found = process(*given)
  return Errors(found.hits, found.substitutions, found.deletions, found.insertions)

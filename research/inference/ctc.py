"""From the logits of a CTC model to words with times, and how wrong they are.

A decoder gives a *path*: one symbol of the vocabulary for each frame [n]. Repeats collapse, blanks
vanish, and what is left spells the words (Graves et al. 2006, section 3.1). Letters: n frames, v
symbols, u letters.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from research.capabilities import spells
from research.errors import InputError
from research.text import characters


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
    segments: sentences or parts of them with their times, where the system gives some.
    language: its code, where the system says so.
  """

  text: str
  words: tuple[Word, ...]
  seconds: float
  segments: tuple[Word, ...] = ()
  language: str | None = None


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


def check_ctc(model: Any) -> None:
  """Raises InputError unless a model gives letters: `vocabulary`, `blank` and a `frontend`."""
  if not spells(model):
    raise InputError(
      f'{type(model).__name__} gives no letters: to transcribe, a model with a CTC head is needed '
      '(one that was fine-tuned on transcripts, as finetuned with the head ctc).'
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
      found.append(Word(characters.spell(letters.ids[spelt], symbols), start, end))
      spelt.clear()

  for place, i in enumerate(letters.ids):
    if symbols[int(i)] == characters.BOUNDARY:
      close()
    elif not characters.is_special(symbols[int(i)]):
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
  return Transcript(characters.spell(letters.ids, symbols), words, seconds)


# -- Error rates -------------------------------------------------------------------------------

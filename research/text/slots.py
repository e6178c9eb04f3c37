"""Characters with the marks of slots, the targets of SUPERB's slot filling (Audio SNIPS; s3prl
text encoders CharacterTextEncoder and CharacterTextSlotEncoder).

A line is 'BOS words EOS<TAB>labels', as 'BOS PLAY THE BEATLES NOW EOS<TAB>O O artist artist O
AddToPlaylist'; the first and the last of both sides are no words. A text has the marks of its slots
around their words: 'PLAY B-artist THE BEATLES E-artist NOW'.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from research.errors import InputError

# The characters of s3prl's character.txt: the text has capital letters.
CHARACTERS: tuple[str, ...] = (
  '<pad>', '<eos>', '<unk>', ' ', *'ABCDEFGHIJKLMNOPQRSTUVWXYZ', "'",
)  # fmt: skip
BLANK, END, UNKNOWN, SPACE = 0, 1, 2, 3
SILENT = '?!.,;-'  # words that are a part of this are no words
NONE = 'O'


def vocabulary(slots: Iterable[str]) -> tuple[str, ...]:
  """Symbols: characters, then 'B-slot' and 'E-slot' of every slot, in order."""
  return (*CHARACTERS, *(f'{mark}-{slot}' for slot in slots for mark in 'BE'))


def read_slots(lines: Iterable[str]) -> list[str]:
  """The slots of a file that names one a line after its first line (slots.txt, which begins with
  'O')."""
  return [line.strip() for line in list(lines)[1:] if line.strip()]


def spell(text: str, symbols: Sequence[str] = CHARACTERS) -> Int[np.ndarray, ' u']:
  """Ids of the characters of a text without marks, unknown ones as '<unk>', and the end."""
  ids = {symbol: i for i, symbol in enumerate(symbols)}
  return np.array([*(ids.get(c, UNKNOWN) for c in text.strip()), END], np.int32)


def encode(line: str, symbols: Sequence[str]) -> Int[np.ndarray, ' u']:
  """Ids of a line: characters, a space after every word but the last, the end after that, and marks
  around neighbouring words of one slot.

  Punctuation is left out and '&' becomes AND. Where the last word is left out the text ends with a
  space and without an end, as the official targets do.

  Raises:
    InputError: the line has no labels, not as many as words, or one of an unknown slot.
  """
  sides = line.rstrip('\n').split('\t')
  words, labels = sides[0].split(), sides[1].split() if len(sides) == 2 else []
  if len(words) < 3 or len(labels) != len(words):
    raise InputError(
      f'Expected "BOS words EOS<TAB>label of each", with as many labels as words, found {line!r}.'
    )
  ids = {symbol: i for i, symbol in enumerate(symbols)}
  words, labels = words[1:-1], labels[1:-1]
  found: list[int] = []
  for i, (word, label) in enumerate(zip(words, labels)):
    if word in SILENT:
      continue
    if label != NONE and f'B-{label}' not in ids:
      raise InputError(f'The slot {label!r} of {line!r} is not in the vocabulary: add it.')
    if label != NONE and (i == 0 or labels[i - 1] != label):
      found.append(ids[f'B-{label}'])
    found += [ids.get(c, UNKNOWN) for c in ('AND' if word == '&' else word)]
    if label != NONE and (i == len(words) - 1 or labels[i + 1] != label):
      found.append(ids[f'E-{label}'])
    found.append(END if i == len(words) - 1 else SPACE)
  return np.array(found, np.int32)


def decode(ids: Iterable[int], symbols: Sequence[str]) -> str:
  """The text of ids, padding and ends left out, with 'B-x ' and ' E-x' as marks."""
  found = []
  for i in ids:
    if i not in (BLANK, END):
      symbol = symbols[i]
      mark = symbol[:2] if i >= len(CHARACTERS) else ''
      found.append(f'{symbol} ' if mark == 'B-' else f' {symbol}' if mark == 'E-' else symbol)
  return ''.join(found)

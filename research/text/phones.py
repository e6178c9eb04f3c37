"""Phones of SUPERB's phone recognition: the symbols, and texts by a lexicon (s3prl
downstream/ctc/vocab/phoneme.txt, text/phoneme encoders)."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from research.errors import InputError

_VOWELS = (
  'AA', 'AE', 'AH', 'AO', 'AW', 'AY', 'EH', 'ER', 'EY', 'IH', 'IY', 'OW', 'OY', 'UH', 'UW',
)  # fmt: skip
_CONSONANTS = (
  'B', 'CH', 'D', 'DH', 'F', 'G', 'HH', 'JH', 'K', 'L', 'M', 'N', 'NG', 'P', 'R', 'S', 'SH', 'T',
  'TH', 'V', 'W', 'Y', 'Z', 'ZH',
)  # fmt: skip
# CMU's phones, vowels with their stress, after silence and spoken noise.
PHONES: tuple[str, ...] = (
  '<pad>', '<eos>', '<unk>', 'SIL', 'SPN',
  *sorted([*(f'{v}{stress}' for v in _VOWELS for stress in range(3)), *_CONSONANTS]),
)  # fmt: skip
BLANK, END, UNKNOWN = 0, 1, 2


def read_lexicon(lines: Iterable[str]) -> dict[str, tuple[str, ...]]:
  """{word: phones} of lines 'WORD PH ON ES'; the first pronunciation of a word counts.

  Words are taken as they are written; lines without phones are left out.
  """
  found: dict[str, tuple[str, ...]] = {}
  for line in lines:
    word, *phones = line.split() or ('',)
    if phones:
      found.setdefault(word, tuple(phones))
  return found


def pronounce(text: str, lexicon: Mapping[str, Sequence[str]]) -> list[str]:
  """The phones of the words of a text, one after the other.

  Raises:
    InputError: the lexicon lacks a word.
  """
  found: list[str] = []
  for word in text.split():
    if word not in lexicon:
      raise InputError(
        f'The lexicon has no pronunciation of {word!r} (it has {len(lexicon)} words): add it.'
      )
    found += lexicon[word]
  return found


def encode(phones: Iterable[str], symbols: Sequence[str] = PHONES) -> Int[np.ndarray, ' u']:
  """Ids of phones, unknown ones as '<unk>', and the end."""
  ids = {symbol: i for i, symbol in enumerate(symbols)}
  return np.array([*(ids.get(p, UNKNOWN) for p in phones), END], np.int32)


def decode(ids: Iterable[int], symbols: Sequence[str] = PHONES) -> str:
  """Phones with a space between; padding and ends are left out."""
  return ' '.join(symbols[i] for i in ids if i not in (BLANK, END))

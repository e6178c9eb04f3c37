"""Transcripts to the symbols of a letter vocabulary, and back."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from research.errors import InputError

# fairseq's dict.ltr.txt behind its four specials; '<s>' doubles as the blank of CTC (wav2vec 2.0,
# HuBERT). transformers calls row 0 '<pad>' and row 1 '<s>', in the same order otherwise.
LETTERS: tuple[str, ...] = ('<s>', '<pad>', '</s>', '<unk>', '|', *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
UNKNOWN = '<unk>'
# Ends every word, the last one too.
BOUNDARY = '|'
_SPECIAL = re.compile(r'<.+>|\[.+\]')


def is_special(symbol: str) -> bool:
  """Whether a symbol stands for no letter: '<s>', '<pad>', '[UNK]' …."""
  return _SPECIAL.fullmatch(symbol) is not None


def encode(text: str, symbols: Sequence[str] = LETTERS) -> Int[np.ndarray, 'u']:
  """The ids of a transcript: the letters of every word, each word closed by '|'.

  Where the vocabulary has letters of one case only, the text is put into that case. A character
  that it lacks becomes '<unk>' if it has that; a literal '|' counts as lacking.

  Args:
    text: words with any white space between them.
    symbols: the vocabulary; a symbol's place is its id.

  Returns:
    int32 [u]; [0] for a text without words.

  Raises:
    InputError: the vocabulary has no '|', or neither a character of the text nor '<unk>'.
  """
  ids = {symbol: i for i, symbol in enumerate(symbols)}
  if BOUNDARY not in ids:
    raise InputError(
      f'A vocabulary for text needs {BOUNDARY!r}, which ends words; this one has '
      f'{" ".join(symbols)}.'
    )
  found: list[int] = []
  for word in in_case(text, symbols).split():
    for letter in word:
      place = None if letter == BOUNDARY else ids.get(letter)
      place = ids.get(UNKNOWN) if place is None else place
      if place is None:
        raise InputError(
          f'The vocabulary has neither {letter!r} (in {word!r}) nor {UNKNOWN!r}; it has '
          f'{" ".join(symbols)}. Leave the character out of the text.'
        )
      found.append(place)
    found.append(ids[BOUNDARY])
  return np.array(found, np.int32)


def spell(ids: Iterable[int] | Int[np.ndarray, 'u'], symbols: Sequence[str] = LETTERS) -> str:
  """The text of ids: specials dropped, '|' to one space, no space at the ends.

  Raises:
    InputError: an id outside of the vocabulary.
  """
  found = []
  for i in ids:
    if not 0 <= int(i) < len(symbols):
      raise InputError(f'The id {int(i)} is not one of a vocabulary of {len(symbols)} symbols.')
    symbol = symbols[int(i)]
    if not is_special(symbol):
      found.append(' ' if symbol == BOUNDARY else symbol)
  return ' '.join(''.join(found).split())


def in_case(text: str, symbols: Sequence[str] = LETTERS) -> str:
  """The text in the one case that the vocabulary's letters have; as it is if they have both."""
  letters = [s for s in symbols if not is_special(s)]
  upper, lower = any(s.lower() != s for s in letters), any(s.upper() != s for s in letters)
  if upper == lower:
    return text
  return text.upper() if upper else text.lower()

"""Transcripts to the ids of a character vocabulary, and back."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from research.errors import InputError

# fairseq's four special symbols, then dict.ltr.txt. '<s>' is also the blank of CTC (wav2vec 2.0,
# HuBERT). transformers calls row 0 '<pad>' and row 1 '<s>'; the order is the same.
CHARACTERS: tuple[str, ...] = ('<s>', '<pad>', '</s>', '<unk>', '|', *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
# The same in the order of s3prl's downstream/asr/char.dict, SUPERB's.
SUPERB_CHARACTERS: tuple[str, ...] = (*CHARACTERS[:5], *"ETAONIHSRDLUMCWFGYPBVK'XJQZ")
UNKNOWN = '<unk>'
# Ends every word, including the last.
BOUNDARY = '|'
_SPECIAL = re.compile(r'<.+>|\[.+\]')


def is_special(symbol: str) -> bool:
  """Whether a symbol is not a character: '<s>', '<pad>', '[UNK]' …."""
  return _SPECIAL.fullmatch(symbol) is not None


def encode(text: str, symbols: Sequence[str] = CHARACTERS) -> Int[np.ndarray, 'u']:
  """The ids of a transcript: the characters of every word, followed by '|'.

  If the vocabulary has characters of one case only, the text is converted to it. Text and
  vocabulary are compared in Unicode's form NFC. Characters that are not in the vocabulary become
  '<unk>', and so does a literal '|'.

  Args:
    text: words separated by white space.
    symbols: the vocabulary; the index of a symbol is its id.

  Returns:
    int32 [u]; u is 0 for a text without words.

  Raises:
    InputError: the vocabulary has no '|', or has neither a character of the text nor '<unk>'.
  """
  ids = ids_of(symbols)
  if BOUNDARY not in ids:
    raise InputError(
      f'A character vocabulary needs {BOUNDARY!r}, which ends words; this one has '
      f'{" ".join(symbols)}.'
    )
  found: list[int] = []
  for word in in_case(text, symbols).split():
    for character in word:
      own = spelt(character, ids)
      if own is None and UNKNOWN in ids:
        own = [ids[UNKNOWN]]
      if own is None:
        raise InputError(
          f'The vocabulary has neither {character!r} (in {word!r}) nor {UNKNOWN!r}; it has '
          f'{" ".join(symbols)}. Remove the character from the text.'
        )
      found += own
    found.append(ids[BOUNDARY])
  return np.array(found, np.int32)


def spell(ids: Iterable[int] | Int[np.ndarray, 'u'], symbols: Sequence[str] = CHARACTERS) -> str:
  """The text of ids: drops special symbols, turns '|' into spaces, and normalises spaces.

  Raises:
    InputError: an id is outside of the vocabulary.
  """
  found = []
  for i in ids:
    if not 0 <= int(i) < len(symbols):
      raise InputError(f'Id {int(i)} is outside of the vocabulary of {len(symbols)} symbols.')
    symbol = symbols[int(i)]
    if not is_special(symbol):
      found.append(' ' if symbol == BOUNDARY else symbol)
  return ' '.join(''.join(found).split())


def ids_of(symbols: Sequence[str]) -> dict[str, int]:
  """{symbol: id}, and of symbols in NFC where that is another form."""
  composed = {unicodedata.normalize('NFC', symbol): i for i, symbol in enumerate(symbols)}
  return composed | {symbol: i for i, symbol in enumerate(symbols)}


def spelt(character: str, ids: Mapping[str, int]) -> list[int] | None:
  """The ids of a character, or of its parts where the vocabulary has only those; None if it has
  neither, or it is '|'."""
  if character == BOUNDARY:
    return None
  if character in ids:
    return [ids[character]]
  parts = unicodedata.normalize('NFD', character)
  return [ids[part] for part in parts] if all(part in ids for part in parts) else None


def in_case(text: str, symbols: Sequence[str] = CHARACTERS) -> str:
  """The text in upper or lower case if all characters of the vocabulary are, and in NFC."""
  own = [s for s in symbols if not is_special(s)]
  upper, lower = any(s.lower() != s for s in own), any(s.upper() != s for s in own)
  text = unicodedata.normalize('NFC', text)
  if upper != lower:
    # The lower case of the Turkish İ is two characters in Unicode, i and a dot above.
    text = text.upper() if upper else text.replace('\u0130', 'i').lower()
  return unicodedata.normalize('NFC', text)

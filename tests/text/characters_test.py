"""Character vocabularies: ids of fairseq's dict.ltr.txt, case, unknown characters, decoding."""

import unicodedata

import numpy as np
import pytest

from research.errors import InputError
from research.text import characters


def test_the_vocabulary_is_that_of_the_published_models():
  assert len(characters.CHARACTERS) == 32
  assert characters.CHARACTERS[:5] == ('<s>', '<pad>', '</s>', '<unk>', '|')
  assert ''.join(characters.CHARACTERS[5:]) == "ETAONIHSRDLUMWCFGYPBVK'XJQZ"


def test_every_word_ends_in_a_boundary():
  ids = characters.encode(" It's\tat \n", characters.CHARACTERS)
  assert ids.dtype == np.int32
  # I T ' S | A T |, counted in the list above.
  assert ids.tolist() == [10, 6, 27, 12, 4, 7, 6, 4]
  assert characters.spell(ids) == "IT'S AT"


def test_no_words_give_no_ids():
  for nothing in ('', '  \n'):
    ids = characters.encode(nothing)
    assert ids.shape == (0,) and ids.dtype == np.int32
  assert characters.spell(np.zeros(0, np.int32)) == ''


def test_text_takes_the_case_of_the_vocabulary():
  upper, lower, both = ('|', 'A', 'B'), ('|', 'a', 'b'), ('|', 'a', 'B')
  assert characters.encode('aB', upper).tolist() == [1, 2, 0]
  assert characters.encode('aB', lower).tolist() == [1, 2, 0]
  assert characters.encode('aB', both).tolist() == [1, 2, 0]
  with pytest.raises(InputError, match="'A'"):
    characters.encode('AB', both)
  # Special symbols are not characters: '<unk>' does not make this a lower-case vocabulary.
  assert characters.encode('ab', ('<unk>', '|', 'A', 'B')).tolist() == [2, 3, 1]


def test_a_character_that_the_vocabulary_lacks():
  assert characters.encode('A1|A').tolist() == [7, 3, 3, 7, 4]
  assert characters.spell(characters.encode('A1A B')) == 'AA B'
  with pytest.raises(InputError, match=r"neither '1' \(in 'A1'\) nor '<unk>'"):
    characters.encode('B A1', ('|', 'A', 'B'))
  with pytest.raises(InputError, match=r"needs '\|'"):
    characters.encode('A', ('A', 'B'))


def test_spelling_drops_specials_and_superfluous_boundaries():
  assert characters.spell([4, 0, 7, 1, 4, 4, 2, 6, 3, 4]) == 'A T'
  assert characters.spell([0, 2, 1, 2], ('[PAD]', '|', 'x')) == 'x x'
  for wrong in (32, -1):
    with pytest.raises(InputError, match=str(wrong)):
      characters.spell([5, wrong])


def test_spelling_inverts_encoding():
  for line in ("THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG'S BACK", 'A', 'Z Z Z'):
    assert characters.spell(characters.encode(line)) == line


NFD = ('cafe\u0301', 'e\u0300 c\u0327a', 'A\u030angstro\u0308m')


def test_unicode_forms_of_text_and_vocabulary_are_one():
  own = ('<s>', '<pad>', '</s>', '<unk>', '|', *'abcdefghijklmnopqrstuvwxyzéèàçåö')
  apart = tuple(unicodedata.normalize('NFD', s) for s in own)
  for text in NFD:
    composed = unicodedata.normalize('NFC', text)
    ids = characters.encode(text, own).tolist()
    assert ids == characters.encode(composed, own).tolist()
    assert 3 not in ids
    assert characters.encode(composed, apart).tolist() == ids
    assert unicodedata.normalize('NFC', characters.spell(ids, own)) == composed.lower()


def test_a_vocabulary_of_parts_spells_composed_characters():
  parts = ('<unk>', '|', 'e', '\u0301')
  assert characters.encode('é', parts).tolist() == [2, 3, 1]


def test_turkish_capital_i_becomes_one_character():
  own = ('<s>', '<pad>', '</s>', '<unk>', '|', *'abcdefghijklmnopqrstuvwxyz')
  assert characters.spell(characters.encode('İstanbul', own), own) == 'istanbul'
  assert characters.spell(characters.encode('I\u0307zmir', own), own) == 'izmir'
  assert 3 not in characters.encode('DİYARBAKIR', own)

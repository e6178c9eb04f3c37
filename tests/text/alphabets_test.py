"""Texts as they are said: numbers and signs in words, characters, phones."""

import importlib.util

import pytest

from research.errors import InputError
from research.text import alphabets, number_words


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('7', 'seven'),
    ('0 10 21 110 1,000,005', 'zero ten twenty one one hundred ten one million five'),
    ('1984 1900 2000 2007 2024', 'nineteen eighty four nineteen hundred two thousand two thousand '
     'seven twenty twenty four'),
    ('1,984', 'one thousand nine hundred eighty four'),
    ('3.14, 007', 'three point one four, zero zero seven'),
    ('$5.20 £1 $0.07 €2', 'five dollars, twenty cents one pound seven cents two euros'),
    ('1st 2nd 12th 20th 101st', 'first second twelfth twentieth one hundred first'),
    ('mp3 4k', 'mp three four k'),
    ('1000000000000000', 'one zero' + ' zero' * 14),
  ],
)  # fmt: skip
def test_numbers_in_words(text, said):
  assert number_words.words(text) == said


def test_english_is_normalised_and_spelt():
  alphabet = alphabets.get('english')
  for text, said in (
    ('Dr. Smith, 21 (or so)!', 'doctor smith, twenty one, or so!'),
    ('“Crème brûlée” & 50%…', 'creme brulee and fifty percent...'),
    ('It’s — well —\nfine', "it's - well - fine"),
  ):
    assert alphabet.normalised(text) == said
    assert ''.join(alphabet.symbols[i] for i in alphabet.encode(text)) == said
  ids = alphabet.encode("it's 2.")
  assert alphabet.sounding[ids].tolist() == [
    True,
    True,
    False,
    True,
    False,
    True,
    True,
    True,
    False,
  ]
  assert alphabet.encode('aжb', strict=False).tolist() == alphabet.encode('ab').tolist()
  for text, match in (
    (' ', 'text is empty'),
    ('!?', 'nothing that is spoken'),
    ('a жук', "has 'ж' 'к' 'у', which the alphabet 'english'"),
  ):
    with pytest.raises(InputError, match=match):
      alphabet.encode(text)
  for name in ('latin', 'ipa', 'ipa:', 'ipa:EN US'):
    with pytest.raises(InputError, match="give 'english'"):
      alphabets.get(name)


def test_phones():
  alphabet = alphabets.get('ipa:en-us')
  if importlib.util.find_spec('phonemizer') is None:
    with pytest.raises(InputError, match=r"pip install -e '\.\[tts\]'"):
      alphabet.encode('one')
    return
  assert alphabet.normalised('Dr. Jones paid $5, didn’t he?').startswith('dˈɑːktɚ')
  assert 'fˈaɪv dˈɑːlɚz' in alphabet.normalised('$5')
  for language, text in (('de', 'Zwölf Boxkämpfer, ich'), ('fr-fr', 'un bon vin'), ('hi', 'नमस्ते')):
    alphabets.get(f'ipa:{language}').encode(text)
  with pytest.raises(InputError, match='xx-yy'):
    alphabets.get('ipa:xx-yy').encode('one')

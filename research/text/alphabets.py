"""Alphabets of models that speak: a text as symbols, characters or phones.

    alphabet = alphabets.get('english')
    alphabet.encode('Dr. Smith, 21')  # ids of 'doctor smith, twenty one'

'english' has the characters of normalised English; 'ipa:en-us', 'ipa:de', … the phones that
espeak-ng gives for a language, for which the extra `[tts]` has to be installed.
"""

import dataclasses
import functools
import importlib.util
import logging
import os
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from research.errors import InputError
from research.text import number_words

PUNCTUATION = '!,-.:;?'
_ENGLISH = (' ', *PUNCTUATION, "'", *'abcdefghijklmnopqrstuvwxyz')
# Letters and marks of the International Phonetic Alphabet (chart of 2020), as espeak-ng writes
# them: vowels, consonants, clicks and implosives, stress and length, diacritics, tones.
_IPA = (
  ' ', *PUNCTUATION, *'abcdefhijklmnopqrstuvwxyz', *'ɑɐɒæɔəɘɚɛɜɝɞɤɨɪɯɵøœɶʉʊʌʏᵻ',
  *'βçðɕɖɟɡɢɣɥɦɧħɫɬɭɮɰɱɲɳɴŋɸɹɺɻɽɾʀʁʂʃʈʋⱱʍʎʐʑʒʔʕʙθχʝʟʜʡʢ', *'ʘǀǁǂǃɓɗʄɠʛ',
  *'ˈˌːˑ', *'ʰʱʲʷˠˤ˞ʼ', *'\u0303\u0329\u032f\u0325\u032a\u0361\u030d\u0306', *'˥˦˧˨˩↗↘', *'123456',
)  # fmt: skip
# Before a point.
_ABBREVIATIONS = dict(
  mr='mister', mrs='missus', ms='miz', dr='doctor', st='saint', co='company', jr='junior',
  sr='senior', maj='major', gen='general', drs='doctors', rev='reverend', lt='lieutenant',
  hon='honorable', sgt='sergeant', capt='captain', esq='esquire', ltd='limited', col='colonel',
  ft='fort', prof='professor', vs='versus', etc='et cetera',
)  # fmt: skip
_ABBREVIATION = re.compile(rf'\b({"|".join(_ABBREVIATIONS)})\.', re.IGNORECASE)
_SIGNS = {'%': 'percent', '&': 'and', '@': 'at', '+': 'plus', '=': 'equals', '#': 'number'}
# Marks of one kind are one; brackets are pauses, quotation marks are not said.
_MARKS = str.maketrans({
  '’': "'", '‘': "'", 'ʼ': "'", '`': "'", '–': '-', '—': '-', '‐': '-', '‑': '-', '−': '-',
  '(': ', ', ')': ', ', '[': ', ', ']': ', ', '“': None, '”': None, '"': None, '«': None,
  '»': None, '„': None, '/': ' ', '_': ' ', '*': ' ', 'œ': 'oe', 'æ': 'ae', 'ø': 'o', 'ß': 'ss',
})  # fmt: skip
NEEDED = "Phones of 'ipa:…' need phonemizer and espeak-ng: pip install -e '.[tts]'"


@dataclasses.dataclass(frozen=True)
class Alphabet:
  """How a model spells what it says.

  Attributes:
    name: see `get`.
    symbols: in the order of their ids.
  """

  name: str
  symbols: tuple[str, ...]

  def normalised(self, text: str) -> str:
    """What is spelt of a text: of 'english' words for numbers, signs and abbreviations, lower case;
    of phones what espeak-ng says.

    Raises:
      InputError: phones without the packages, or in a language that espeak-ng has not.
    """
    if self.name == 'english':
      return english(text)
    return phones(text, self.name.partition(':')[2])

  def encode(self, text: str, strict: bool = True) -> Int[np.ndarray, ' u']:
    """Ids of the symbols of a text, int32 [u], u at least 1.

    Args:
      text: as it is written.
      strict: refuses characters that are not in the alphabet; else they are left out.

    Raises:
      InputError: no text, nothing in it that is spoken, or characters that are not in the alphabet.
    """
    if not text.strip():
      raise InputError('A text is empty: give words to say.')
    ids = _ids(self.symbols)
    said = self.normalised(text)
    lacking = sorted({c for c in said if c not in ids})
    if lacking and strict:
      raise InputError(
        f'The text {_short(text)!r} has {" ".join(map(repr, lacking[:8]))}, which the alphabet '
        f'{self.name!r} of the model has not: write it in other words.'
      )
    kept = ''.join(c for c in said if c in ids).strip()
    found = np.array([ids[c] for c in kept], np.int32)
    if not len(found) or not self.sounding[found].any():
      raise InputError(f'The text {_short(text)!r} has nothing that is spoken: give words to say.')
    return found

  @functools.cached_property
  def sounding(self) -> Bool[np.ndarray, ' v']:
    """Which symbols are sounds, and neither spaces nor marks."""
    return np.array([any(unicodedata.category(c)[0] == 'L' for c in s) for s in self.symbols])


def get(name: str) -> Alphabet:
  """The alphabet of a name, 'english' or 'ipa:LANGUAGE'.

  Raises:
    InputError: there is no such alphabet.
  """
  if name == 'english':
    return Alphabet(name, _ENGLISH)
  if re.fullmatch(r'ipa:[a-z0-9-]+', name):
    return Alphabet(name, _IPA)
  raise InputError(
    f"There is no alphabet {name!r}: give 'english', or 'ipa:LANGUAGE' as 'ipa:en-us' for phones."
  )


@functools.cache
def _ids(symbols: Sequence[str]) -> dict[str, int]:
  return {symbol: i for i, symbol in enumerate(symbols)}


def _short(text: str) -> str:
  return text if len(text) <= 60 else f'{text[:57]}…'


# -- English -----------------------------------------------------------------------------------


def english(text: str) -> str:
  """English as it is said: abbreviations, numbers and signs in words, no diacritics, lower case,
  single spaces."""
  text = unicodedata.normalize('NFKC', text)
  text = _ABBREVIATION.sub(lambda found: _ABBREVIATIONS[found[1].lower()], text)
  text = number_words.words(text)
  for sign, word in _SIGNS.items():
    text = text.replace(sign, f' {word} ')
  text = text.lower().translate(_MARKS)
  kept = (c for c in unicodedata.normalize('NFKD', text) if unicodedata.category(c) != 'Mn')
  text = ' '.join(''.join(kept).split())
  # A pause of a bracket beside another mark is one pause.
  text = re.sub(r'\s+([!,.:;?])', r'\1', text)
  return re.sub(r',(?=[!,.:;?])', '', text).strip(' ,') if text.strip(" ,'") else text


# -- Phones ------------------------------------------------------------------------------------


def phones(text: str, language: str) -> str:
  """Phones of a text by espeak-ng, with stress and punctuation; words are separated by a space.

  Raises:
    InputError: the packages are missing, or espeak-ng has no such language.
  """
  backend = _backend(language)
  if language.partition('-')[0] == 'en':
    text = number_words.words(text)  # '$5' is 'dollar five' to espeak-ng.
  (said,) = backend.phonemize([' '.join(text.split())], strip=True)
  # Diacritics by themselves, but for the letter ç.
  said = unicodedata.normalize('NFD', said).replace('c\u0327', 'ç')
  return ' '.join(said.split())


@functools.cache
def _backend(language: str):
  if importlib.util.find_spec('phonemizer') is None:
    raise InputError(f'{NEEDED}.')
  from phonemizer.backend import EspeakBackend
  from phonemizer.backend.espeak.wrapper import EspeakWrapper

  if importlib.util.find_spec('espeakng_loader') is not None:
    import espeakng_loader

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    os.environ.setdefault('ESPEAK_DATA_PATH', espeakng_loader.get_data_path())
  try:
    return EspeakBackend(
      language, preserve_punctuation=True, with_stress=True, language_switch='remove-flags',
      logger=logging.getLogger('phonemizer'),
    )  # fmt: skip
  except RuntimeError as error:
    reason = ' '.join(str(error).split())
    raise InputError(f'{NEEDED}, and a language it has, not {language!r} ({reason}).') from None

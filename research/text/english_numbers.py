"""English numbers in words to digits: 'twenty one dollars' -> '$21'.

The rules are those of Whisper's `EnglishNumberNormalizer` (`whisper/normalizers/english.py`,
release 20250625; Whisper paper, appendix C), its oddities included, because published word error
rates depend on them: numbers next to each other are joined ('nine ninety nine' -> '999'), and a
lone 1 is written 'one'.
"""

import dataclasses
import re
from fractions import Fraction

_ONES = dict(one=1, two=2, three=3, four=4, five=5, six=6, seven=7, eight=8, nine=9, ten=10)
_ONES |= dict(eleven=11, twelve=12, thirteen=13, fourteen=14, fifteen=15, sixteen=16)
_ONES |= dict(seventeen=17, eighteen=18, nineteen=19)
_TENS = dict(twenty=20, thirty=30, forty=40, fifty=50, sixty=60, seventy=70, eighty=80, ninety=90)
_ZEROS = frozenset(('o', 'oh', 'zero'))
# A thousand, a million …: powers of a thousand.
_POWERS: tuple[str, ...] = ('thousand', 'million', 'billion', 'trillion', 'quadrillion')
_POWERS += ('quintillion', 'sextillion', 'septillion', 'octillion', 'nonillion', 'decillion')
_MULTIPLIERS = {'hundred': 100} | {word: 1000**i for i, word in enumerate(_POWERS, 1)}
_IRREGULAR = dict(zeroth=(0, 'th'), first=(1, 'st'), second=(2, 'nd'), third=(3, 'rd'))
_IRREGULAR |= dict(fifth=(5, 'th'), twelfth=(12, 'th'))


def _ordinal(word: str) -> str:
  return word + ('h' if word.endswith('t') else 'th')


# {plural or ordinal: (number, its ending)}.
_ENDED: dict[str, tuple[int, str]] = {
  **{word + ('es' if word == 'six' else 's'): (n, 's') for word, n in _ONES.items()},
  **{_ordinal(w): (n, 'th') for w, n in _ONES.items() if n not in (1, 2, 3, 5, 12)},
  **_IRREGULAR,
  **{word[:-1] + 'ies': (n, 's') for word, n in _TENS.items()},
  **{word[:-1] + 'ieth': (n, 'th') for word, n in _TENS.items()},
}
_ENDED_MULTIPLIERS = {
  word + ending: (n, ending) for word, n in _MULTIPLIERS.items() for ending in ('s', 'th')
}
_SIGNS = dict(minus='-', negative='-', plus='+', positive='+')
_CURRENCIES = dict(pound='£', pounds='£', euro='€', euros='€', dollar='$', dollars='$')
_CURRENCIES |= dict(cent='¢', cents='¢')
_PREFIXES = frozenset('-+£€$¢')
_REPEATS = dict(double=2, triple=3)
_DIGITS = frozenset((*_ONES, *_TENS, *_ZEROS))
_WORDS = frozenset(
  (*_DIGITS, *_MULTIPLIERS, *_ENDED, *_ENDED_MULTIPLIERS, *_SIGNS, *_CURRENCIES, *_REPEATS)
) | {'per', 'percent', 'and', 'point'}
_FIGURES = re.compile(r'^\d+(\.\d+)?$')


def digits(text: str) -> str:
  """Writes the numbers of an English text in digits.

  Args:
    text: lower-case words.
  """
  text = ' '.join(_Reader(_spaced(text).split()).read())
  # '$2 and ¢7' -> '$2.07'; '$0.07' -> '¢7'.
  text = re.sub(
    r'([€£$])([0-9]+) (?:and )?¢([0-9]{1,2})\b',
    lambda found: f'{found[1]}{found[2]}.{int(found[3]):02d}',
    text,
  )
  text = re.sub(r'[€£$]0.([0-9]{1,2})\b', lambda found: f'¢{int(found[1])}', text)
  return re.sub(r'\b1(s?)\b', r'one\1', text)


def _spaced(text: str) -> str:
  """Halves as decimals ('two and a half' -> 'two point five'); a space between figures and letters
  ('4k' -> '4 k'), none before their ending ('4 th' -> '4th')."""
  *before, last = re.split(r'\band\s+a\s+half\b', text)
  parts: list[str] = []
  for part in before:
    if part.strip():
      is_number = part.split()[-1] in _DIGITS or part.split()[-1] in _MULTIPLIERS
      parts += [part, 'point five' if is_number else 'and a half']
  text = ' '.join([*parts, *([last] if last.strip() else [])])
  text = re.sub(r'([a-z])([0-9])', r'\1 \2', text)
  text = re.sub(r'([0-9])([a-z])', r'\1 \2', text)
  return re.sub(r'([0-9])\s+(st|nd|rd|th|s)\b', r'\1\2', text)


@dataclasses.dataclass
class _Reader:
  """Reads words from left to right and holds the number that they have made up so far.

  Attributes:
    words: the words.
    value: the number, int; as text where its digits are spoken one by one or behind a point.
    prefix: the sign or currency that goes before it.
    written: the words that are finished.
  """

  words: list[str]
  value: int | str | None = None
  prefix: str = ''
  written: list[str] = dataclasses.field(default_factory=list)

  def read(self) -> list[str]:
    at = 0
    while at < len(self.words):
      before = self.words[at - 1] if at else ''
      after = self.words[at + 1] if at + 1 < len(self.words) else ''
      at += self._word(self.words[at], before, after)
    self._finish()
    return self.written

  def _word(self, word: str, before: str, after: str) -> int:
    """Takes a word; returns how many words are used up."""
    bare = word[1:] if word[0] in _PREFIXES else word
    if _FIGURES.match(bare):
      self._figures(word, bare)
    elif word not in _WORDS:
      self._write(word)
    elif word in _ZEROS:
      self.value = f'{self.value or ""}0'
    elif word in _ONES or word in _TENS:
      self.value = _joined(self.value, _ONES.get(word) or _TENS[word], before)
    elif word in _ENDED:
      number, ending = _ENDED[word]
      self.value = f'{_joined(self.value, number, before)}{ending}'
      self._finish()
    elif word in _MULTIPLIERS:
      self.value = self._times(_MULTIPLIERS[word])
    elif word in _ENDED_MULTIPLIERS:
      number, ending = _ENDED_MULTIPLIERS[word]
      self.value = f'{self._times(number)}{ending}'
      self._finish()
    else:
      return self._sign(word, before, after)
    return 1

  def _figures(self, word: str, bare: str) -> None:
    if isinstance(self.value, str) and self.value.endswith('.'):
      self.value += word
      return
    self._finish()
    if bare != word:
      self.prefix = word[0]
    number = Fraction(bare)
    self.value = number.numerator if number.denominator == 1 else bare

  def _sign(self, word: str, before: str, after: str) -> int:
    """Signs, currencies, per cent, and the words that hold a number together."""
    number_follows = after in _WORDS or bool(_FIGURES.match(after))
    if word in _SIGNS:
      self._finish()
      if number_follows:
        self.prefix = _SIGNS[word]
      else:
        self._write(word)
    elif word in _CURRENCIES and self.value is not None:
      self.prefix = _CURRENCIES[word]
      self._finish()
    elif word == 'percent' and self.value is not None:
      self.value = f'{self.value}%'
      self._finish()
    elif word == 'per' and after == 'cent' and self.value is not None:
      self.value = f'{self.value}%'
      self._finish()
      return 2
    elif word == 'and' and number_follows and before in _MULTIPLIERS:
      pass
    elif word in _REPEATS and (after in _ONES or after in _ZEROS):
      self.value = f'{self.value or ""}{str(_ONES.get(after, 0)) * _REPEATS[word]}'
      return 2
    elif word == 'point' and number_follows:
      if after in _DIGITS or _FIGURES.match(after):
        self.value = f'{self.value or ""}.'
    else:
      self._write(word)
    return 1

  def _times(self, number: int) -> int:
    """The value times hundred, thousand …; a value that would not be whole is written alone."""
    if self.value is None:
      return number
    if isinstance(self.value, int):
      return self.value // 1000 * 1000 + self.value % 1000 * number
    try:
      product = Fraction(self.value) * number
    except ValueError:
      product = None
    if product is not None and product.denominator == 1:
      return product.numerator
    self._finish()
    return number

  def _write(self, word: str) -> None:
    self._finish()
    self.written.append(self.prefix + word)
    self.prefix = ''

  def _finish(self) -> None:
    if self.value is not None:
      self.written.append(f'{self.prefix}{self.value}')
      self.value, self.prefix = None, ''


def _joined(value: int | str | None, number: int, before: str) -> int | str:
  """A value followed by a number below 100: added where it has zeros to take it, else appended."""
  if value is None:
    return number
  if isinstance(value, str) or (number < 20 and before in _ONES):
    text = str(value)
    # 'two thirty seven': the zero of 230 becomes the 7.
    return f'{text[:-1] if before in _TENS and number < 10 else text}{number}'
  return value + number if value % (10 if number < 10 else 100) == 0 else f'{value}{number}'

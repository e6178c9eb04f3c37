"""English numbers as words: '1,984' -> 'one thousand nine hundred eighty four'.

What `english_numbers.digits` does in the other direction, for texts that are read aloud.
"""

import re

_ONES = (
  'zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten', 'eleven',
  'twelve', 'thirteen', 'fourteen', 'fifteen', 'sixteen', 'seventeen', 'eighteen', 'nineteen',
)  # fmt: skip
_TENS = ('', '', 'twenty', 'thirty', 'forty', 'fifty', 'sixty', 'seventy', 'eighty', 'ninety')
_POWERS = ('', ' thousand', ' million', ' billion', ' trillion')
_IRREGULAR = dict(one='first', two='second', three='third', five='fifth', eight='eighth')
_IRREGULAR |= dict(nine='ninth', twelve='twelfth')
_MONEY = {'$': ('dollar', 'cent'), '€': ('euro', 'cent'), '£': ('pound', 'penny')}
_PLURALS = {'penny': 'pence'}
# Years are read in pairs of digits, but for the first ones of a millennium.
_YEARS = range(1100, 2100)
# Not inside of a word, as in 'mp3', and not behind a number with a point, as in '1.2.3'.
_MONEY_AMOUNT = re.compile(r'([$€£])\s?(\d+(?:,\d{3})*)(?:\.(\d{2}))?(?![\d.]*\d)')
_ORDINAL = re.compile(r'(?<![\w.])(\d+(?:,\d{3})*)(?:st|nd|rd|th)\b', re.IGNORECASE)
_NUMBER = re.compile(r'\d+(?:,\d{3})*(?:\.\d+)?')


def words(text: str) -> str:
  """A text with its numbers, amounts of money and ordinals in words."""
  text = _MONEY_AMOUNT.sub(_money, text)
  text = _ORDINAL.sub(lambda found: ordinal(int(found[1].replace(',', ''))), text)
  return _NUMBER.sub(lambda found: _spaced(found, _number(found[0])), text)


def cardinal(number: int) -> str:
  """The words of a whole number from 0; from 10^15 on digit by digit."""
  if number >= 10**15:
    return ' '.join(_ONES[int(digit)] for digit in str(number))
  if number < 20:
    return _ONES[number]
  if number < 100:
    rest = number % 10
    return _TENS[number // 10] + (f' {_ONES[rest]}' if rest else '')
  if number < 1000:
    rest = number % 100
    return f'{_ONES[number // 100]} hundred' + (f' {cardinal(rest)}' if rest else '')
  found = []
  for power in range(len(_POWERS) - 1, -1, -1):
    group = number // 1000**power % 1000
    if group:
      found.append(cardinal(group) + _POWERS[power])
  return ' '.join(found)


def ordinal(number: int) -> str:
  """'twenty first' of 21."""
  *before, last = cardinal(number).split(' ')
  if last in _IRREGULAR:
    last = _IRREGULAR[last]
  else:
    last = last[:-1] + 'ieth' if last.endswith('y') else last + 'th'
  return ' '.join([*before, last])


def year(number: int) -> str:
  """'nineteen eighty four' of 1984, 'two thousand one' of 2001."""
  high, low = divmod(number, 100)
  if not low:
    return cardinal(number) if high % 10 == 0 else f'{cardinal(high)} hundred'
  if high == 20 and low < 10:
    return cardinal(number)
  return f'{cardinal(high)} {"oh " if low < 10 else ""}{cardinal(low)}'


def _number(written: str) -> str:
  whole, _, digits = written.replace(',', '').partition('.')
  if digits:
    return f'{cardinal(int(whole))} point {" ".join(_ONES[int(d)] for d in digits)}'
  if len(whole) > 1 and whole[0] == '0':
    return ' '.join(_ONES[int(d)] for d in whole)
  number = int(whole)
  return year(number) if number in _YEARS and ',' not in written else cardinal(number)


def _money(found: re.Match) -> str:
  unit, part = _MONEY[found[1]]
  said = []
  for digits, name in ((found[2].replace(',', ''), unit), (found[3] or '0', part)):
    number = int(digits)
    if number or (name == unit and not int(found[3] or 0)):
      named = name if number == 1 else _PLURALS.get(name, f'{name}s')
      said.append(f'{cardinal(number)} {named}')
  return ', '.join(said)


def _spaced(found: re.Match, said: str) -> str:
  """Words that do not touch those beside the number: '4k' -> 'four k'."""
  text, (start, end) = found.string, found.span()
  before = ' ' if start and text[start - 1].isalpha() else ''
  return before + said + (' ' if end < len(text) and text[end].isalpha() else '')

"""Whisper's two normalizers of transcripts, applied to references and hypotheses before errors
are counted.

Source: `whisper/normalizers` of openai/whisper, release 20250625 (Whisper paper, appendix C). The
results are equal to those of the official code, its oddities included.
"""

import functools
import importlib.resources
import re
import unicodedata
from collections.abc import Mapping

import regex
from etils import epath

from research.errors import InputError
from research.text.byte_pairs import read_object
from research.text.english_numbers import digits

# Letters that Unicode does not decompose; keys and values in both cases.
_LETTERS = dict(
  œ='oe', Œ='OE', ø='o', Ø='O', æ='ae', Æ='AE', ß='ss', ẞ='SS', đ='d', Đ='D', ð='d', Ð='D'
)
_LETTERS |= dict(þ='th', Þ='th', ł='l', Ł='L')
_KEPT = '.%$¢€£'
_FILLERS = re.compile(r'\b(hmm|mm|mhm|mmm|uh|um)\b')
# In this order: later rules see what earlier ones wrote.
_CONTRACTIONS = {
  r"\bwon't\b": 'will not',
  r"\bcan't\b": 'can not',
  r"\blet's\b": 'let us',
  r"\bain't\b": 'aint',
  r"\by'all\b": 'you all',
  r'\bwanna\b': 'want to',
  r'\bgotta\b': 'got to',
  r'\bgonna\b': 'going to',
  r"\b(i'ma|imma)\b": 'i am going to',
  r'\b(w|c|sh)oulda\b': r'\1ould have',
  r"\bma'am\b": 'madam',
}
_TITLES = dict(
  mr='mister',
  mrs='missus',
  st='saint',
  dr='doctor',
  prof='professor',
  capt='captain',
  gov='governor',
  ald='alderman',
  gen='general',
  sen='senator',
  rep='representative',
  pres='president',
  rev='reverend',
  hon='honorable',
  asst='assistant',
  assoc='associate',
  lt='lieutenant',
  col='colonel',
  jr='junior',
  sr='senior',
  esq='esquire',
)
_ENDINGS = {
  r"'d (been|gone|done)\b": r' had \1',
  r"'s (been|gone|got)\b": r' has \1',
  r"n't\b": ' not',
  r"'re\b": ' are',
  r"'s\b": ' is',
  r"'d\b": ' would',
  r"'ll\b": ' will',
  r"'t\b": ' not',
  r"'ve\b": ' have',
  r"'m\b": ' am',
}
_RULES = [
  (re.compile(pattern), written)
  for pattern, written in (
    *_CONTRACTIONS.items(),
    *((rf'\b{title}\b', f'{written} ') for title, written in _TITLES.items()),
    *_ENDINGS.items(),
  )
]


def normalize_basic(text: str, remove_diacritics: bool = False, split_letters: bool = False) -> str:
  """For any language: lower case, no brackets, and spaces for marks, symbols and punctuation.

  Args:
    text: a transcript.
    remove_diacritics: whether 'é' becomes 'e'.
    split_letters: whether to put a space between characters (for languages without spaces, whose
      errors are counted by character).
  """
  text = _without_brackets(text.lower())
  text = (_without_diacritics(text) if remove_diacritics else _without_symbols(text)).lower()
  if split_letters:
    text = ' '.join(regex.findall(r'\X', text))
  return re.sub(r'\s+', ' ', text)


def normalize_english(text: str, spellings: Mapping[str, str] | None = None) -> str:
  """For English: no brackets or fillers, contractions and titles in full, numbers in digits,
  American spellings.

  Args:
    text: a transcript.
    spellings: {British: American}; default `american_spellings()`.
  """
  text = _FILLERS.sub('', _without_brackets(text.lower()))
  text = re.sub(r"\s+'", "'", text)
  for pattern, written in _RULES:
    text = pattern.sub(written, text)
  # Commas inside of numbers, and full stops outside of them.
  text = re.sub(r'(\d),(\d)', r'\1\2', text)
  text = re.sub(r'\.([^0-9]|$)', r' \1', text)
  text = digits(_without_diacritics(text, keep=_KEPT))
  text = spell_american(text, spellings)
  # Signs of money and per cent without a number.
  text = re.sub(r'[.$¢€£]([^0-9])', r' \1', text)
  text = re.sub(r'([^0-9])%', r'\1 ', text)
  return re.sub(r'\s+', ' ', text)


def normalize_qwen(text: str, language: str = 'en') -> str:
  """As in the evaluation of Qwen-Audio and Qwen2-Audio (eval_audio/): no tags `<|…|>`, single
  spaces, none in front of punctuation; English by both normalizers of Whisper, other languages by
  the basic one; lower case, no punctuation.

  Raises:
    InputError: Chinese or Cantonese, whose published scores need a normalizer of Chinese numbers.
  """
  if language in ('zh', 'yue'):
    raise InputError(
      f'Scores of language {language!r} are published with a normalizer of Chinese numbers, cn_tn, '
      'which is not part of this code: use character errors of `normalize_basic`, and say so.'
    )
  text = re.sub(r' +', ' ', re.sub(r'<\|.*?\|>', ' ', text))
  text = re.sub(r' ([!,.?;:])', r'\1', text).strip()
  if language == 'en':
    text = normalize_english(text)
  text = normalize_basic(text).lower()
  kept = (c for c in text if unicodedata.category(c)[0] != 'P')
  return ' '.join(''.join(kept).split())


def spell_american(text: str, spellings: Mapping[str, str] | None = None) -> str:
  """Words in American spelling.

  Args:
    text: lower-case words.
    spellings: {British: American}; default `american_spellings()`.
  """
  table = american_spellings() if spellings is None else spellings
  return ' '.join(table.get(word, word) for word in text.split())


@functools.cache
def american_spellings() -> Mapping[str, str]:
  """{British: American} of 1,739 words; the list that Whisper's results were made with."""
  packaged = importlib.resources.files('research.text').joinpath('american_spellings.tsv')
  lines = packaged.read_text(encoding='utf-8').splitlines()
  return dict(line.split('\t') for line in lines if line and not line.startswith('#'))


def read_spellings(path: str | epath.PathLike) -> dict[str, str]:
  """Reads {British: American} from a `normalizer.json` that came with a checkpoint.

  Raises:
    InputError: the file holds something else.
  """
  found = read_object(epath.Path(path).expanduser())
  if not all(isinstance(value, str) for value in found.values()):
    raise InputError(f'{path}: expected {{British spelling: American spelling}}.')
  return found


def _without_brackets(text: str) -> str:
  return re.sub(r'\(([^)]+?)\)', '', re.sub(r'[<\[][^>\]]*[>\]]', '', text))


def _without_symbols(text: str) -> str:
  """Spaces for marks, symbols and punctuation; composed, compatible characters."""
  return ''.join(
    ' ' if unicodedata.category(c)[0] in 'MSP' else c for c in unicodedata.normalize('NFKC', text)
  )


def _without_diacritics(text: str, keep: str = '') -> str:
  """As `_without_symbols`, decomposed and without diacritics; `keep` lists symbols that stay."""
  return ''.join(_plain(c, keep) for c in unicodedata.normalize('NFKD', text))


def _plain(character: str, keep: str) -> str:
  if character in keep:
    return character
  if character in _LETTERS:
    return _LETTERS[character]
  category = unicodedata.category(character)
  if category == 'Mn':
    return ''
  return ' ' if category[0] in 'MSP' else character

"""Whisper's tokenizer: byte pairs, special tokens, timestamps, words.

Source: `whisper/tokenizer.py` of openai/whisper, release 20250625. The byte pairs are those of
GPT-2 (English-only models) or 50,257 tokens of their own (multilingual ones); the special tokens
follow them, in one order for all sizes:

| token | English | 99 languages | 100 languages |
|---|---|---|---|
| `<|endoftext|>` | 50256 | 50257 | 50257 |
| `<|startoftranscript|>` | 50257 | 50258 | 50258 |
| first language | 50258 | 50259 | 50259 |
| `<|translate|>`, `<|transcribe|>` | 50357 | 50358 | 50359 |
| `<|startoflm|>`, `<|startofprev|>` | 50359 | 50360 | 50361 |
| `<|nospeech|>`, `<|notimestamps|>` | 50361 | 50362 | 50363 |
| `<|0.00|>`, every 0.02 s to `<|30.00|>` | 50363 | 50364 | 50365 |
"""

import dataclasses
import functools
import string
from collections.abc import Iterable
from typing import SupportsIndex

import tokenizers
from etils import epath

from research.errors import InputError, unknown
from research.text import byte_pairs
from research.text.languages import LANGUAGES, UNSPACED, language_code
from research.text.subwords import read_byte_pairs

TASKS = ('transcribe', 'translate')
END = '<|endoftext|>'
BYTES = 'bytes'
# From 0 to 30 s.
TIMESTAMPS, SECONDS_PER_TIMESTAMP = 1501, 0.02
_ENGLISH_TOKENS, _MULTILINGUAL_TOKENS = 50256, 50257
_OTHERS = (
  'translate',
  'transcribe',
  'startoflm',
  'startofprev',
  'nospeech',
  'notimestamps',
)
# Symbols that annotate sounds or speakers; single tokens of them are not speech.
_SYMBOLS = (
  *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
  *('<<', '>>', '<<<', '>>>', '--', '---', '-(', '-[', "('", '("', '((', '))', '(((', ')))'),
  *('[[', ']]', '{{', '}}', '♪♪', '♪♪♪'),
)
# Where one of these is several tokens, the first two bytes are of U+2640 to U+267F alone.
_NOTES = '♩♪♫♬♭♮♯'


Ids = Iterable[SupportsIndex]
# Words, and the ids of each.
Words = tuple[list[str], list[list[int]]]


@dataclasses.dataclass(frozen=True)
class WhisperTokenizer:
  """Text to Whisper's ids and back. Properties have the names of openai-whisper.

  Attributes:
    library: the byte pairs, without special tokens.
    pieces: the bytes of every id below `eot`.
    languages: codes, in the order of their tokens.
    language: code of the language of `sot_sequence`; None for English-only models.
    task: 'transcribe' or 'translate'; None for English-only models.
    source: the file or folder it was read from.
  """

  library: tokenizers.Tokenizer
  pieces: tuple[bytes, ...]
  languages: tuple[str, ...]
  language: str | None
  task: str | None
  source: str

  @property
  def is_multilingual(self) -> bool:
    return len(self.pieces) != _ENGLISH_TOKENS

  @functools.cached_property
  def special_tokens(self) -> dict[str, int]:
    """{token: id} of special tokens and timestamps."""
    names = (END, '<|startoftranscript|>', *(f'<|{code}|>' for code in self.languages))
    names += tuple(f'<|{name}|>' for name in _OTHERS)
    names += tuple(f'<|{i * SECONDS_PER_TIMESTAMP:.2f}|>' for i in range(TIMESTAMPS))
    return {name: len(self.pieces) + i for i, name in enumerate(names)}

  @property
  def size(self) -> int:
    """Rows of the embedding of tokens."""
    return len(self.pieces) + len(self.special_tokens)

  @property
  def eot(self) -> int:
    """End of text; every special token has this id or a higher one."""
    return len(self.pieces)

  @property
  def sot(self) -> int:
    return self.special_tokens['<|startoftranscript|>']

  @property
  def translate(self) -> int:
    return self.special_tokens['<|translate|>']

  @property
  def transcribe(self) -> int:
    return self.special_tokens['<|transcribe|>']

  @property
  def sot_lm(self) -> int:
    return self.special_tokens['<|startoflm|>']

  @property
  def sot_prev(self) -> int:
    return self.special_tokens['<|startofprev|>']

  @property
  def no_speech(self) -> int:
    return self.special_tokens['<|nospeech|>']

  @property
  def no_timestamps(self) -> int:
    return self.special_tokens['<|notimestamps|>']

  @property
  def timestamp_begin(self) -> int:
    """The id of 0.00 s; timestamps have this id or a higher one."""
    return self.special_tokens['<|0.00|>']

  @property
  def all_language_codes(self) -> tuple[str, ...]:
    return self.languages

  @property
  def all_language_tokens(self) -> tuple[int, ...]:
    return tuple(range(self.sot + 1, self.sot + 1 + len(self.languages)))

  @property
  def language_token(self) -> int:
    """The token of `language`.

    Raises:
      InputError: the model is English-only.
    """
    if self.language is None:
      raise InputError('An English-only Whisper has no token of a language.')
    return self.to_language_token(self.language)

  def to_language_token(self, language: str) -> int:
    """The token of a language, by code or name.

    Raises:
      InputError: this vocabulary has no such language.
    """
    code = language_code(language)
    if code not in self.languages:
      raise InputError(
        f'{LANGUAGES[code].capitalize()} ({code}) has no token in this vocabulary of '
        f'{len(self.languages)} languages; large-v3 and turbo have 100.'
      )
    return self.special_tokens[f'<|{code}|>']

  @functools.cached_property
  def sot_sequence(self) -> tuple[int, ...]:
    """What every transcript starts with: (sot, language, task), or (sot,) for English-only."""
    if self.language is None:
      return (self.sot,)
    return (self.sot, self.language_token, self.special_tokens[f'<|{self.task}|>'])

  @property
  def sot_sequence_including_notimestamps(self) -> tuple[int, ...]:
    return (*self.sot_sequence, self.no_timestamps)

  @functools.cached_property
  def non_speech_tokens(self) -> tuple[int, ...]:
    """Tokens of notes, brackets and speaker tags, which decoding suppresses; sorted.

    Hyphens and single quotes are suppressed at the start of a word alone.
    """
    found = {self.encode(' -')[0], self.encode(" '")[0]}
    for symbol in (*_SYMBOLS, *_NOTES):
      for ids in (self.encode(symbol), self.encode(f' {symbol}')):
        if len(ids) == 1 or symbol in _NOTES:
          found.add(ids[0])
    # In a vocabulary of single bytes a blank is a token of its own, which all of these begin with.
    return tuple(sorted(found - set(self.encode(' ') if self.source == BYTES else ())))

  def with_options(
    self, language: str | None = None, task: str | None = None
  ) -> 'WhisperTokenizer':
    """The same vocabulary for another language (code or name) or task.

    Raises:
      InputError: the language or the task is unknown to this vocabulary.
    """
    if task is not None and task not in TASKS:
      raise unknown('task of Whisper', task, TASKS)
    code = None if language is None else language_code(language)
    if not self.is_multilingual:
      return self
    if code is not None:
      self.to_language_token(code)
    return dataclasses.replace(self, language=code or self.language, task=task or self.task)

  def encode(self, text: str) -> list[int]:
    """The ids of a text.

    Raises:
      InputError: the text has a special token in it, such as '<|endoftext|>'.
    """
    if '<|' in text:
      special = next((name for name in self.special_tokens if name in text), None)
      if special is not None:
        raise InputError(
          f'The text has the special token {special} in it; remove it, or put its id among the ids.'
        )
    # Lone surrogates, which UTF-8 has no bytes for, become U+FFFD.
    valid = text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
    return self.library.encode(valid, add_special_tokens=False).ids

  def decode(self, ids: Ids) -> str:
    """The text of ids, without timestamps. Other special tokens stay; bytes that are not UTF-8
    become U+FFFD.

    Raises:
      InputError: an id is outside of the vocabulary.
    """
    return self.decode_with_timestamps(i for i in ids if int(i) < self.timestamp_begin)

  def decode_with_timestamps(self, ids: Ids) -> str:
    """As `decode`, with timestamps as '<|1.08|>'.

    Raises:
      InputError: an id is outside of the vocabulary.
    """
    return b''.join(self._bytes(int(i)) for i in ids).decode('utf-8', 'replace')

  def split_to_word_tokens(self, ids: Ids) -> Words:
    """Words and the ids of each: by spaces, or by characters in languages written without."""
    if self.language in UNSPACED:
      return self.split_tokens_on_unicode(ids)
    return self.split_tokens_on_spaces(ids)

  def split_tokens_on_unicode(self, ids: Ids) -> Words:
    """The shortest runs of ids that are whole characters, and the ids of each."""
    every = [int(i) for i in ids]
    whole = self.decode_with_timestamps(every)
    words: list[str] = []
    groups: list[list[int]] = []
    group: list[int] = []
    start = 0
    for i in every:
      group.append(i)
      text = self.decode_with_timestamps(group)
      broken = text.find('\ufffd')
      # U+FFFD may be a character of the text itself, or bytes that no later id completes.
      if broken < 0 or whole[start + broken : start + broken + 1] == '\ufffd':
        words.append(text)
        groups.append(group)
        start += len(text)
        group = []
    if group:
      words.append(self.decode_with_timestamps(group))
      groups.append(group)
    return words, groups

  def split_tokens_on_spaces(self, ids: Ids) -> Words:
    """Words that start at a space, punctuation or a special token, and the ids of each."""
    words: list[str] = []
    groups: list[list[int]] = []
    for text, group in zip(*self.split_tokens_on_unicode(ids)):
      starts = group[0] >= self.eot or text.startswith(' ') or text.strip() in string.punctuation
      if starts or not words:
        words.append(text)
        groups.append(list(group))
      else:
        words[-1] += text
        groups[-1] += group
    return words, groups

  def check_fits(self, rows: int) -> None:
    """Refuses weights of another vocabulary.

    Args:
      rows: rows of the embedding of tokens.

    Raises:
      InputError: the numbers differ.
    """
    if rows != self.size:
      raise InputError(
        f'The tokenizer of {self.source} has {self.size} tokens, the weights have {rows}.'
      )

  @functools.cached_property
  def _names(self) -> tuple[bytes, ...]:
    return tuple(name.encode() for name in self.special_tokens)

  def _bytes(self, i: int) -> bytes:
    if 0 <= i < self.eot:
      return self.pieces[i]
    if self.eot <= i < self.size:
      return self._names[i - self.eot]
    raise InputError(f'Id {i} is outside of the vocabulary of {self.size} tokens.')


def _single_bytes(vocabulary: int) -> byte_pairs.BytePairs:
  """The ids of single bytes, as in GPT-2's vocabulary, and of tokens that no text becomes."""
  end = _MULTILINGUAL_TOKENS if vocabulary > _ENGLISH_TOKENS + 1608 else _ENGLISH_TOKENS
  table = byte_pairs.alphabet()
  # Printable bytes come first, in their order; then the others.
  order = sorted(range(256), key=lambda byte: (ord(table[byte]) != byte, byte))
  tokens = {table[byte]: i for i, byte in enumerate(order)}
  tokens |= {f'<|unused {i}|>': i for i in range(256, end)}
  return byte_pairs.BytePairs(tokens, (), {})


def read_whisper_tokenizer(
  path: str | epath.PathLike,
  vocabulary: int,
  language: str | None = None,
  task: str | None = None,
) -> WhisperTokenizer:
  """Reads the byte pairs that come with a checkpoint and adds Whisper's special tokens.

  Args:
    path: `gpt2.tiktoken`, `multilingual.tiktoken`, `tokenizer.json` or `vocab.json` (with
      `merges.txt` beside it), or a folder with one of them; BYTES for the 256 tokens of single
      bytes alone, which are the same in all of them: for tests and trials without a file.
    vocabulary: rows of the embedding of tokens: 51864 (English), 51865 (99 languages) or 51866
      (100 languages).
    language: code or name; default English. English-only models ignore it.
    task: 'transcribe' (default) or 'translate'. English-only models ignore it.

  Raises:
    InputError: there is no tokenizer, it does not fit the weights, or language or task are unknown.
  """
  pairs = _single_bytes(vocabulary) if str(path) == BYTES else read_byte_pairs(path)
  end = pairs.vocabulary.get(END, pairs.added.get(END, len(pairs.vocabulary)))
  plain = {token: i for token, i in pairs.vocabulary.items() if i < end}
  # English-only models have the tokens of 99 languages too.
  languages = vocabulary - end - 2 - len(_OTHERS) - TIMESTAMPS
  known = {_ENGLISH_TOKENS: (99,), _MULTILINGUAL_TOKENS: (99, 100)}
  if len(plain) != end or languages not in known.get(end, ()):
    raise InputError(
      f'The tokenizer of {path} has {end} tokens of text, which does not fit {vocabulary} rows of '
      'weights; Whisper has 50256 (English: 51864 rows) or 50257 (multilingual: 51865 or 51866).'
    )
  pieces = [b''] * end
  for token, i in plain.items():
    pieces[i] = byte_pairs.unspelt(token)
  merges = tuple(p for p in pairs.merges if p[0] in plain and p[1] in plain and ''.join(p) in plain)
  found = WhisperTokenizer(
    dataclasses.replace(pairs, vocabulary=plain, merges=merges, added={}).library(),
    tuple(pieces),
    tuple(LANGUAGES)[:languages],
    'en' if end == _MULTILINGUAL_TOKENS else None,
    'transcribe' if end == _MULTILINGUAL_TOKENS else None,
    str(path),
  )
  return found.with_options(language, task)

"""Tokenizers for golden cases: read from files where there are some, else the ids alone."""

import dataclasses
import functools
import importlib.util
import os
from pathlib import Path

from research.text.languages import LANGUAGES
from research.text.whisper import WhisperTokenizer, read_whisper_tokenizer
from tests.parity.golden import CHECKOUT, cases

WEIGHTS = (
  Path(os.environ.get('OIDO_WEIGHTS', CHECKOUT.parent / 'shared' / 'weights')) / 'whisper_tiny_en'
)


@dataclasses.dataclass(frozen=True)
class IdsAlone(WhisperTokenizer):
  """Special ids without byte pairs: it writes no text and reads a blank alone."""

  quiet: tuple[int, ...] = ()

  @property
  def non_speech_tokens(self):
    return self.quiet

  def encode(self, text):
    assert text == ' ', 'there are no byte pairs to read text with'
    return [220]

  def decode(self, ids):
    del ids
    return ''


@functools.cache
def tokenizer(n_vocab: int) -> WhisperTokenizer:
  """The tokenizer of a vocabulary: of files beside the weights or of openai-whisper, where it is
  installed."""
  name = 'gpt2.tiktoken' if n_vocab == 51864 else 'multilingual.tiktoken'
  spec = importlib.util.find_spec('whisper')
  assets = [Path(p) / 'assets' for p in (spec.submodule_search_locations or ())] if spec else []
  named = os.environ.get('OIDO_WHISPER_ASSETS')
  for folder in (WEIGHTS, *assets, *([Path(named)] if named else [])):
    if (folder / name).is_file():
      return read_whisper_tokenizer(folder / name, n_vocab)
  recorded = {}
  for case in cases('whisper'):
    for each in (case.info.get('tokenizers') or {}).values():
      recorded[each['n_vocab']] = tuple(each['non_speech_tokens'])
  english = n_vocab == 51864
  languages = tuple(LANGUAGES)[: 99 if n_vocab < 51866 else 100]
  pieces = (b'',) * (50256 if english else 50257)
  task = None if english else 'transcribe'
  language = None if english else 'en'
  return IdsAlone(None, pieces, languages, language, task, 'golden', recorded[n_vocab])  # type: ignore[arg-type]


def writes(vocabulary: WhisperTokenizer) -> bool:
  """Whether it has byte pairs, so that text can be compared."""
  return not isinstance(vocabulary, IdsAlone)

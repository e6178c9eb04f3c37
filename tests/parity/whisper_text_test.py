"""Whisper's tokenizers and normalizers against the official ones, exact.

The rank files come with openai-whisper; they are looked for, by their sums, below the folder
$OIDO_WEIGHTS (default `../shared/weights` beside the checkout).
"""

import functools
import hashlib
import os
from pathlib import Path

import pytest

from research.errors import InputError
from research.text import english_numbers, normalize
from research.text.whisper import WhisperTokenizer, read_whisper_tokenizer
from tests.parity.golden import CHECKOUT, Case, each_case

WEIGHTS = Path(os.environ.get('OIDO_WEIGHTS') or CHECKOUT.parent / 'shared' / 'weights')


@functools.cache
def rank_files() -> dict[str, Path]:
  """{sha256: file} of the rank files that there are."""
  found = sorted(WEIGHTS.rglob('*.tiktoken')) if WEIGHTS.is_dir() else []
  return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in found}


@functools.cache
def tokenizer(case: Case, name: str) -> WhisperTokenizer:
  asset = 'gpt2.tiktoken' if name == 'english' else 'multilingual.tiktoken'
  path = rank_files().get(case.config['asset_sha256'][asset])
  if path is None:
    pytest.skip(f'{asset} of openai-whisper is not below {WEIGHTS} (set OIDO_WEIGHTS)')
  return read_whisper_tokenizer(path, case.info['tokenizers'][name]['n_vocab'])


@each_case('whisper', where=lambda case: 'tokenizers' in case.info)
@pytest.mark.parametrize('name', ['english', 'multilingual', 'multilingual_100'])
class TestTokenizer:
  def test_special_tokens(self, case: Case, name: str):
    want = case.info['tokenizers'][name]
    ours = tokenizer(case, name)
    every = ours.special_tokens
    assert ours.size == want['n_vocab']
    untimed = {k: v for k, v in every.items() if v < ours.timestamp_begin}
    assert untimed == want['special_tokens']
    times = want['timestamps']
    assert ours.timestamp_begin == times['first']
    assert (max(every.values()), ours.size - ours.timestamp_begin) == (
      times['last'],
      times['count'],
    )
    assert {k: every[k] for k in times['examples']} == times['examples']
    assert list(ours.non_speech_tokens) == want['non_speech_tokens']
    assert ours.encode(' ') == want['space_token']
    # The official lists are in the order of a set.
    codes = dict(zip(want['all_language_codes'], want['all_language_tokens']))
    assert dict(zip(ours.all_language_codes, ours.all_language_tokens)) == codes
    assert {code: ours.to_language_token(code) for code in codes} == codes

  def test_sequences(self, case: Case, name: str):
    want = case.info['tokenizers'][name]
    plain = tokenizer(case, name)
    for row in want['sot_sequences']:
      ours = plain.with_options(row['language'], row['task'])
      assert ours.language == row['resolved_language']
      assert list(ours.sot_sequence) == row['sot_sequence']
      assert list(ours.sot_sequence_including_notimestamps) == row['including_notimestamps']

  def test_texts(self, case: Case, name: str):
    want = case.info['tokenizers'][name]
    ours = tokenizer(case, name)
    for row in want['encode']:
      if 'error' in row:
        with pytest.raises(InputError, match='special token'):
          ours.encode(row['text'])
      else:
        assert ours.encode(row['text']) == row['ids'], row['text']
        assert ours.decode(row['ids']) == row['text']
    for row in want['decode']:
      assert ours.decode(row['ids']) == row['decode']
      assert ours.decode_with_timestamps(row['ids']) == row['decode_with_timestamps']

  def test_words(self, case: Case, name: str):
    want = case.info['tokenizers'][name]
    plain = tokenizer(case, name)
    for row in want['split_to_word_tokens']:
      words, groups = plain.with_options(row['language']).split_to_word_tokens(row['ids'])
      assert words == row['words']
      assert groups == row['word_tokens']


@each_case('whisper', where=lambda case: 'pairs' in case.info)
def test_normalizers(case: Case):
  pairs = case.info['pairs']
  stages = {
    'english': normalize.normalize_english,
    'english_number_normalizer': english_numbers.digits,
    'english_spelling_normalizer': normalize.spell_american,
  }
  flags = {
    'default': {},
    'remove_diacritics': dict(remove_diacritics=True),
    'split_letters': dict(split_letters=True),
    'both': dict(remove_diacritics=True, split_letters=True),
  }
  for name, stage in stages.items():
    assert {row['input']: stage(row['input']) for row in pairs[name]} == {
      row['input']: row['output'] for row in pairs[name]
    }
  for row in pairs['basic']:
    got = {name: normalize.normalize_basic(row['input'], **kw) for name, kw in flags.items()}
    assert got == row['outputs']

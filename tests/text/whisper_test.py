"""Whisper's tokenizer on a made vocabulary of its size, and its normalizers."""

import functools
import json

import pytest

from research.errors import InputError
from research.text import byte_pairs, languages, normalize
from research.text.english_numbers import digits
from research.text.whisper import read_whisper_tokenizer
from tests.text.vocabularies import write_ranks

ENGLISH, MULTILINGUAL, HUNDRED = 51864, 51865, 51866


def ranks(size: int) -> dict[bytes, int]:
  """Single bytes, then '日' in two steps, then three-byte tokens that no text here has."""
  tokens = [bytes([b]) for b in range(256)] + [b'\xe6\x97', b'\xe6\x97\xa5', b' a']
  made = (bytes([1, i // 256, i % 256]) for i in range(60000))
  return {token: i for i, token in zip(range(size), (*tokens, *made))}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whisper')
  for name, size in (('english', 50256), ('multilingual', 50256)):
    lines = write_ranks(folder / f'{name}.tiktoken', ranks(size))
    if name == 'multilingual':  # the official file ends with an empty token
      lines.write_text(f'{lines.read_text()}= 50256\n')
  return folder


@functools.cache
def tokenizer(path, rows):
  return read_whisper_tokenizer(path, rows)


def test_ids_follow_the_rows_of_the_weights(files):
  for name, rows, first in (
    ('english', ENGLISH, (50256, 50257, 50357, 50361, 50363)),
    ('multilingual', MULTILINGUAL, (50257, 50258, 50358, 50362, 50364)),
    ('multilingual', HUNDRED, (50257, 50258, 50359, 50363, 50365)),
  ):
    ours = tokenizer(files / f'{name}.tiktoken', rows)
    got = (ours.eot, ours.sot, ours.translate, ours.no_speech, ours.timestamp_begin)
    assert got == first
    assert ours.size == rows
    ours.check_fits(rows)
  with pytest.raises(InputError, match='51866 tokens, the weights have 51865'):
    ours.check_fits(MULTILINGUAL)


@pytest.mark.parametrize(
  ('name', 'rows'), [('english', MULTILINGUAL), ('multilingual', ENGLISH), ('multilingual', 51867)]
)
def test_another_vocabulary_is_refused(files, name, rows):
  with pytest.raises(InputError, match=f'does not fit {rows} rows'):
    read_whisper_tokenizer(files / f'{name}.tiktoken', rows)


def test_languages_and_tasks(files):
  path = files / 'multilingual.tiktoken'
  ours = tokenizer(path, MULTILINGUAL).with_options('Castilian', 'translate')
  assert ours.sot_sequence == (50258, 50262, 50358)
  assert ours.with_options('Haitian Creole').language == 'ht'
  with pytest.raises(InputError, match=r'Cantonese \(yue\) has no token in this vocabulary of 99'):
    ours.with_options('yue')
  with pytest.raises(InputError, match=r"Unknown language 'germn'.*'german'"):
    ours.with_options('germn')
  with pytest.raises(InputError, match="Unknown task of Whisper 'summarise'"):
    ours.with_options(task='summarise')
  english = read_whisper_tokenizer(files / 'english.tiktoken', ENGLISH, 'fr', 'translate')
  assert english.sot_sequence == (50257,)
  assert (english.language, english.task, english.is_multilingual) == (None, None, False)
  with pytest.raises(InputError, match='English-only'):
    _ = english.language_token
  assert len(languages.LANGUAGES) == 100


def test_text_with_a_special_token_is_refused(files):
  ours = tokenizer(files / 'multilingual.tiktoken', MULTILINGUAL)
  with pytest.raises(InputError, match=r'special token <\|nospeech\|>'):
    ours.encode('a<|nospeech|>')
  assert ours.decode(ours.encode('<|other|>')) == '<|other|>'
  assert ours.decode(ours.encode('\ud800')) == '\ufffd'
  with pytest.raises(InputError, match='Id 51865 is outside'):
    ours.decode_with_timestamps([51865])


def test_words_keep_broken_characters_whole(files):
  ours = tokenizer(files / 'multilingual.tiktoken', MULTILINGUAL).with_options('ja')
  day, half = ours.encode('日')[0], 256
  assert ours.split_to_word_tokens([day, half, 0xA5, ours.eot])[1] == [
    [day],
    [half, 0xA5],
    [ours.eot],
  ]
  # Bytes that nothing completes are a word of their own, and none is lost.
  assert ours.split_to_word_tokens([day, half])[1] == [[day], [half]]
  spaced = ours.with_options('en').split_to_word_tokens(ours.encode(' a日 a.'))
  assert spaced == ([' a日', ' a', '.'], [[258, 257], [258], [ord('.')]])


def test_the_files_of_transformers_give_the_same_tokenizer(files, tmp_path):
  path = files / 'multilingual.tiktoken'
  pairs = byte_pairs.read_ranks(path)
  ids = {**pairs.vocabulary, '<|endoftext|>': 50257}
  (tmp_path / 'vocab.json').write_text(json.dumps(ids))
  (tmp_path / 'merges.txt').write_text('\n'.join(' '.join(m) for m in pairs.merges))
  (tmp_path / 'added_tokens.json').write_text(json.dumps({'<|startoftranscript|>': 50258}))
  folder = read_whisper_tokenizer(tmp_path, MULTILINGUAL)
  ours = tokenizer(path, MULTILINGUAL)
  assert folder.encode('日 a日') == ours.encode('日 a日') == [257, 258, 257]
  assert folder.pieces == ours.pieces


def test_spellings():
  table = normalize.american_spellings()
  assert len(table) == 1739
  assert (table['colour'], table['theatre'], table['yodelling']) == ('color', 'theater', 'yodeling')
  assert normalize.normalize_english('Colour it', {}) == 'colour it'


def test_spellings_of_a_checkpoint(tmp_path):
  path = tmp_path / 'normalizer.json'
  path.write_text('{"colour": "color"}')
  assert normalize.read_spellings(path) == {'colour': 'color'}
  path.write_text('{"colour": 1}')
  with pytest.raises(InputError, match='British spelling'):
    normalize.read_spellings(path)


def test_numbers():
  assert digits('two hundred and seven point five percent') == '207.5%'
  assert digits('minus a thousand') == 'minus a 1000'
  assert digits('three dollars and seven cents') == '$3.07'

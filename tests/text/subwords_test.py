"""Tokenizers read from files."""

import base64
import json

import numpy as np
import pytest

from research.errors import InputError
from research.text import byte_pairs
from research.text.subwords import read_tokenizer
from tests.text.vocabularies import write_bert, write_gpt2, write_ranks, write_roberta


def test_byte_alphabet_is_a_bijection():
  table = byte_pairs.alphabet()
  assert len(set(table.values())) == 256
  assert (table[ord('a')], table[ord(' ')], table[0], table[0xAD]) == ('a', 'Ġ', 'Ā', 'Ń')
  every = bytes(range(256))
  assert byte_pairs.unspelt(byte_pairs.spelt(every)) == every
  assert byte_pairs.unspelt('日') == '日'.encode()  # an added word, not of the alphabet


def test_ranks_give_the_lowest_rank_first(tmp_path):
  """'abc' with 'bc' before 'ab' is a, bc; a whole word that is a token is that token."""
  ranks = {bytes([b]): b for b in range(256)} | {b'bc': 256, b'ab': 257, b'aba': 258, b' abc': 259}
  ours = read_tokenizer(write_ranks(tmp_path / 'tiny.tiktoken', ranks))
  assert ours.encode('abc').tolist() == [97, 256]
  assert ours.encode('ababc').tolist() == [258, 256]
  # No two tokens make ' abc'; a word that is a token itself is that token.
  assert ours.encode(' abc').tolist() == [259]
  assert ours.decode([97, 256, 259]) == 'abc abc'
  assert ours.size == 260


def test_gpt2_has_one_special_token(tmp_path):
  ours = read_tokenizer(write_gpt2(tmp_path))
  ids = ours.encode('hello hello <|endoftext|>')
  hello, space_hello = ours.id('hello'), ours.id('Ġhello')
  assert ids.tolist() == [hello, space_hello, ours.id('Ġ'), ours.end]
  assert (ours.start, ours.pad) == (None, ours.end)
  assert ours.decode(ids) == 'hello hello '
  assert ours.decode(ids, special=True) == 'hello hello <|endoftext|>'


def test_batches_are_padded_and_cut_between_the_tokens_around_a_text(tmp_path):
  ours = read_tokenizer(write_roberta(tmp_path))
  hello, end = ours.id('hello'), ours.end
  assert (ours.start, ours.pad, end) == (0, 1, 2)
  ids, mask = ours.batch(['hello', 'hello hello hello', ''], length=4)
  follows = ours.id('Ġhello')
  assert ids.tolist() == [[0, hello, 2, 1], [0, hello, follows, 2], [0, 2, 1, 1]]
  assert mask.tolist() == [[True] * 3 + [False], [True] * 4, [True] * 2 + [False] * 2]
  assert ids.dtype == np.int32
  plain, _ = ours.batch(['hello'], special=False, length=2, pad=7)
  assert plain.tolist() == [[hello, 7]]
  # A mask swallows the space before it.
  assert ours.encode('hello <mask>').tolist() == [0, hello, ours.id('<mask>'), 2]


def test_word_pieces(tmp_path):
  ours = read_tokenizer(write_bert(tmp_path))
  assert ours.encode('Hello, héllo!').tolist() == [2, 5, 7, 5, 4, 3]
  assert ours.encode('hellos zzz').tolist() == [2, 5, 6, 1, 3]
  assert ours.decode([2, 5, 6, 3]) == 'hellos'
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'do_lower_case': False}))
  assert read_tokenizer(tmp_path).encode('Hello').tolist() == [2, 1, 3]


def test_a_tokenizer_json_is_read_without_its_padding(tmp_path):
  ours = read_tokenizer(write_roberta(tmp_path / 'parts'))
  ours.library.enable_padding(length=16)
  ours.library.enable_truncation(3)
  ours.library.save(str(tmp_path / 'tokenizer.json'))
  again = read_tokenizer(tmp_path)
  assert again.encode('hello hello hello').tolist() == [0, 260, 261, 261, 2]
  assert byte_pairs.read_json(tmp_path / 'tokenizer.json').vocabulary['hello'] == 260


def test_another_vocabulary_is_refused(tmp_path):
  ours = read_tokenizer(write_bert(tmp_path))
  ours.check_fits(9)
  ours.check_fits(64, padded=True)
  for rows in (8, 10):
    with pytest.raises(InputError, match=f'9 tokens, the weights have {rows}'):
      ours.check_fits(rows)


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('tokenizer.json', '{"model": {}}', 'damaged or not a tokenizer.json'),
    ('tokenizer.json', '[', 'damaged or not a tokenizer.json'),
    ('vocab.txt', 'a\nb\n', r'lacks \[PAD\]'),
    ('vocab.json', '{"a": 0}', 'has no merges.txt'),
    ('a.tiktoken', 'not-base64 x\n', 'line 1: expected a token in base64'),
    ('a.tiktoken', 'YQ== 0\n', '255 of 256 bytes have no rank'),
    ('README.md', '', 'is no tokenizer'),
  ],
)
def test_damaged_files_are_a_sentence(tmp_path, name, text, message):
  (tmp_path / name).write_text(text)
  with pytest.raises(InputError, match=message):
    read_tokenizer(tmp_path)
  with pytest.raises(InputError, match='no tokenizer at'):
    read_tokenizer(tmp_path / 'absent')


def test_wrong_ids_and_limits_are_a_sentence(tmp_path):
  ours = read_tokenizer(write_bert(tmp_path))
  with pytest.raises(InputError, match='Id 9 is outside of the vocabulary of 9'):
    ours.decode([9])
  with pytest.raises(InputError, match='leaves no room'):
    ours.encode('hello', max_tokens=2)
  with pytest.raises(InputError, match="no token '<mask>'"):
    ours.id('<mask>')
  two = tmp_path / 'two'
  two.mkdir()
  for name in 'ab':
    write_ranks(two / f'{name}.tiktoken', {bytes([b]): b for b in range(256)})
  with pytest.raises(InputError, match=r'a\.tiktoken, b\.tiktoken; name one'):
    read_tokenizer(two)
  (two / 'a.tiktoken').write_text(f'{base64.b64encode(b"a").decode()} 0\n' * 2)
  with pytest.raises(InputError, match='have no rank'):
    read_tokenizer(two / 'a.tiktoken')

"""Tokenizers and normalizers against those of transformers, on made vocabularies and texts."""

import random

import pytest

from research.text import english_numbers, normalize
from research.text.subwords import read_tokenizer
from tests.text.vocabularies import write_bert, write_gpt2, write_roberta

transformers = pytest.importorskip('transformers')

TEXTS = (
  '', ' ', 'hello', ' hello  hello\n', 'Hello, héllo! hellos', 'hello<mask>hello', '日本 ½ ß',
  "it's 12.5% <s>hello</s>", '<|endoftext|> hello <|endoftext|>', 'hello [MASK] [SEP]', 'a\u0301',
)  # fmt: skip


@pytest.mark.parametrize(
  ('write', 'peer', 'special'),
  [
    (write_gpt2, 'GPT2TokenizerFast', False),
    (write_roberta, 'RobertaTokenizerFast', True),
    (write_bert, 'BertTokenizerFast', True),
  ],
)
def test_ids_are_equal(tmp_path, write, peer, special):
  ours = read_tokenizer(write(tmp_path))
  theirs = getattr(transformers, peer).from_pretrained(tmp_path)
  for text in TEXTS:
    assert ours.encode(text, special=special).tolist() == theirs(text)['input_ids'], text
  if special:  # GPT-2 has no token to pad with
    want = theirs(list(TEXTS), max_length=6, padding='max_length', truncation=True)
    ids, mask = ours.batch(TEXTS, length=6)
    assert ids.tolist() == want['input_ids']
    assert mask.astype(int).tolist() == want['attention_mask']


def test_normalizers_are_equal():
  """On random rows of the words that the rules know, joined in several ways."""
  from transformers.models.whisper import english_normalizer as peer

  english = peer.EnglishTextNormalizer(dict(normalize.american_spellings()))
  draw = random.Random(0)
  words = [
    *sorted(english_numbers._WORDS), '1', '3.5', '0', '10', '1.', '$5', '£2.50', '-7', '4th', '5s',
    'a', 'and a half', 'foo', "it's", "can't", 'mr.', "he'd been", '(x)', '<z>', '%', '¢07', '½',
    'café', 'colour', 'uh', '1,000', '12:30', '…', "'s got", '٣', '１２', 'x²',
  ]  # fmt: skip
  for _ in range(3000):
    text = ' '.join(draw.choices(words, k=draw.randint(1, 9)))
    text = text.replace(' ', draw.choice(['', ', ', '-', ' ', '. ']), draw.randint(0, 2))
    assert normalize.normalize_english(text) == english(text), text
    for flags in ((False, False), (True, False), (False, True), (True, True)):
      assert normalize.normalize_basic(text, *flags) == peer.BasicTextNormalizer(*flags)(text), text

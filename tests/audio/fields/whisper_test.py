"""Tokens and targets of Whisper's decoder."""

import numpy as np
import pytest

from research.audio import fields
from research.audio.clips import Source, Table
from research.errors import InputError
from research.models.whisper import LANGUAGES_99, Whisper
from research.text.whisper import read_whisper_tokenizer

TEXTS = [' two words ', '<|0.00|> one <|0.50|><|0.60|> two<|1.20|>', 'three']


def source(texts=TEXTS, **columns):
  n = len(texts)
  rows = [{'array': np.zeros(16000), 'sample_rate': 16000}] * n
  made = {'transcript': list(texts), **columns}
  ids = [f'c{i}' for i in range(n)]
  return Source(Table('toy', ids, made, rows.__getitem__, seconds=np.full(n, 1.5)))


def opened(texts=TEXTS, model=None, columns=None, **args):
  model = Whisper('nano') if model is None else model
  (field,) = fields.make({'tokens': {'name': 'whisper', 'args': args}})
  context = fields.Context(16_000, model)
  return field.open(source(texts, **(columns or {})), context), field


def arrays(rows, index, valid=True):
  n = len(index)
  where = np.asarray(index)
  zeros = np.zeros(n, int)
  crops = fields.Crops(
    where, np.full(n, valid), zeros, zeros + 16000, zeros + 16000, 32000, 0, n, np.arange(n), 0
  )
  return rows.arrays(crops)


def test_text_follows_the_start_and_each_token_predicts_the_next():
  rows, field = opened()
  tokenizer = field.reader(Whisper('nano'))
  out = arrays(rows, [0, 1])
  start = [*tokenizer.sot_sequence_including_notimestamps]
  for i, text in enumerate((' two words', ' one two')):  # times are left out
    ids = [*start, *tokenizer.encode(text), tokenizer.eot]
    assert out['tokens'][i, : len(ids) - 1].tolist() == ids[:-1]
    assert (out['tokens'][i, len(ids) - 1 :] == -1).all()
    # Nothing is learned of the start; its last token predicts the first of the text.
    want = [-1] * (len(start) - 1) + ids[len(start) :]
    assert out['targets'][i, : len(want)].tolist() == want
    assert (out['targets'][i, len(want) :] == -1).all()
  assert (arrays(rows, [0], valid=False)['tokens'] == -1).all()


def test_times_are_tokens_and_a_text_without_is_one_segment():
  rows, field = opened(timestamps=True)
  tokenizer = field.reader(Whisper('nano'))
  first = tokenizer.timestamp_begin
  out = arrays(rows, [1, 2])
  spelt = tokenizer.decode_with_timestamps(out['tokens'][0][out['tokens'][0] >= 0])
  assert spelt == '<|startoftranscript|><|0.00|> one<|0.50|><|0.60|> two<|1.20|>'
  assert out['tokens'][1, 1] == first
  assert out['targets'][1][out['targets'][1] >= 0][-2:].tolist() == [first + 75, tokenizer.eot]


@pytest.mark.parametrize('text', ['<|1.00|> a<|0.50|>', 'a<|0.50|>', '<|0.00|>a<|40.00|>'])
def test_times_that_do_not_rise_are_refused(text):
  with pytest.raises(InputError, match="Clip 'c0': its transcript must start and end with a time"):
    opened([text], timestamps=True)


def test_prompts_and_languages_come_from_columns():
  model = Whisper('nano', n_vocab=LANGUAGES_99)
  columns = dict(before=['so far', ''], tongue=['german', 'fr'])
  rows, _field = opened(
    ['ja', 'oui'],
    model,
    columns,
    prompt_column='before',
    language_column='tongue',
    task='translate',
  )
  tokenizer = read_whisper_tokenizer('bytes', LANGUAGES_99)
  out = arrays(rows, [0, 1])
  prompt = [tokenizer.sot_prev, *tokenizer.encode(' so far')]
  names = tokenizer.special_tokens
  start = lambda code: [  # noqa: E731
    tokenizer.sot,
    names[f'<|{code}|>'],
    tokenizer.translate,
    tokenizer.no_timestamps,
  ]
  assert out['tokens'][0, : len(prompt) + 4].tolist() == [*prompt, *start('de')]
  assert (out['targets'][0, : len(prompt) + 3] == -1).all()
  assert out['targets'][0, len(prompt) + 3] == tokenizer.encode(' ja')[0]
  assert out['tokens'][1, :4].tolist() == start('fr')


def test_transcripts_that_do_not_fit_are_left_out_or_refused():
  rows, _ = opened(['short', 'x' * 200])
  assert rows.fits(0, 32000) and not rows.fits(1, 32000)
  assert not rows.fits(0, 16000)  # 1.5 s
  with pytest.raises(InputError, match='Every transcript has more than the 96 tokens'):
    opened(['x' * 200])
  with pytest.raises(InputError, match='does not fit'):
    opened(model=Whisper('nano', n_vocab=60))
  with pytest.raises(InputError, match='model is none'):
    opened(model=object())
  with pytest.raises(InputError, match="No clip of 'toy' has a 'transcript'"):
    fields.get('whisper')('tokens').known(source(['', ' ']))


def test_single_bytes_have_the_ids_of_the_published_vocabularies():
  tokenizer = read_whisper_tokenizer('bytes', 51864)
  assert tokenizer.encode(' !a') == [220, 0, 64]  # of GPT-2
  assert tokenizer.decode(tokenizer.encode('Grüße 你好')) == 'Grüße 你好'

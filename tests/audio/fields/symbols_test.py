"""Sequences of symbols: vocabularies from files and models, ends, unknown symbols, messages."""

import json

import numpy as np
import pytest

from research.audio.fields import Context, make
from research.audio.pipeline import eval_batches, train_batches
from research.errors import InputError

PHONES = ['<pad>', '<eos>', '<unk>', 'AH0', 'B', 'K']


@pytest.fixture
def source(make_source):
  clips = make_source([0.3, 0.1, 0.2])
  clips.table.columns['phones'] = ['K AH0 B', 'B', 'AH0 K AH0 K']
  clips.table.columns['slots'] = [['A', 'B-city'], [' '], ['E-city']]
  return clips


def ids(source, **args):
  (field,) = make(dict(tokens=dict(name='symbols', args=args)))
  opened = field.open(source, Context(16000))
  return [x.tolist() for x in opened.ids]


def test_whole_clips_with_their_symbols(source):
  args = dict(vocabulary=PHONES, eos='<eos>')
  fields = make(dict(tokens=dict(name='symbols', args=args)))
  want = {0: [5, 3, 4, 1], 1: [4, 1], 2: [3, 5, 3, 5, 1]}
  (batch,) = eval_batches(source, batch_size=3, fields=fields, lengths=1)
  assert batch['tokens'].shape == (3, 5) and batch['tokens'].dtype == np.int32
  for i, row in zip(batch['index'], batch['tokens']):
    assert row[row >= 0].tolist() == want[int(i)] and (row[len(want[int(i)]) :] == -1).all()
  with pytest.raises(InputError, match=r'longer than 0\.15 s'):
    train_batches(source, batch_size=2, seconds=0.15, fields=fields)
  example = fields[0].example(Context(16000), 2, 16000)
  assert example['tokens'].shape == (2, 15) and example['tokens'].dtype == np.int32


def test_vocabularies_of_files(source, tmp_path):
  want = [[5, 3, 4], [4], [3, 5, 3, 5]]
  lines, counted = tmp_path / 'phones.txt', tmp_path / 'dict.txt'
  lines.write_text('\n'.join(PHONES) + '\n')
  counted.write_text(''.join(f'{p} {9 - i}\n' for i, p in enumerate(PHONES)))
  plain, numbered = tmp_path / 'list.json', tmp_path / 'vocab.json'
  plain.write_text(json.dumps(PHONES))
  numbered.write_text(json.dumps({p: i for i, p in reversed(list(enumerate(PHONES)))}))
  for path in (lines, counted, plain, numbered):
    assert ids(source, vocabulary=str(path)) == want
  blank = tmp_path / 'blank.txt'
  blank.write_text('<unk>\n \nA\n')
  assert ids(source, column='slots', vocabulary=str(blank)) == [[2, 0], [1], [0]]
  numbered.write_text(json.dumps({'a': 0, 'b': 2}))
  for path, text, message in (
    (tmp_path / 'no.txt', None, 'does not exist'),
    (lines, 'A\nB\nA\n', "has 'A' twice"),
    (lines, '\n', 'has no symbols'),
    (plain, '{"a": [', 'is not JSON'),
    (plain, '"abc"', 'expected a list of symbols'),
    (numbered, None, 'not 0 to 1'),
  ):
    if text is not None:
      path.write_text(text)
    with pytest.raises(InputError, match=message):
      ids(source, vocabulary=str(path))


def test_three_ways_to_divide_a_text(source):
  source.table.columns['text'] = ["it's on", 'On', 'SO']
  letters = ['<unk>', '|', *"ITSON'"]
  assert ids(source, column='text', vocabulary=letters, split='letters') == [
    [2, 3, 7, 4, 1, 5, 6, 1], [5, 6, 1], [4, 5, 1]
  ]  # fmt: skip
  assert ids(source, column='text', vocabulary=[*letters, ' '], split='characters')[2] == [4, 5]
  assert ids(source, column='text', vocabulary=[*letters, ' '], split='characters')[0] == [
    0, 0, 7, 0, 8, 0, 0
  ]  # fmt: skip
  with pytest.raises(InputError, match=r"needs '\|'"):
    ids(source, column='text', vocabulary=['<unk>', 'A'], split='letters')


def test_mistakes(source):
  for args, message in (
    (dict(), 'needs a vocabulary'),
    (dict(vocabulary=PHONES, split='space'), "Did you mean 'spaces'"),
    (dict(vocabulary=PHONES, eos='</s>'), "eos needs '</s>'"),
    (dict(vocabulary=PHONES, column='phonse'), "Did you mean 'phones'"),
    (dict(vocabulary=['X', '<unk>']), r'No symbol of the data \(.*K.*\) is in the vocabulary'),
    (dict(vocabulary=['K', 'B']), "Clip '000.flac' of 'clips': 'AH0' is not in the vocabulary"),
    (dict(vocabulary=PHONES[:5], unknown=None), "'K' is not in the vocabulary"),
  ):
    with pytest.raises(InputError, match=message):
      ids(source, **args)
  source.table.columns['phones'][1] = ''
  with pytest.raises(InputError, match="1 of 3 clips of 'clips' have no 'phones'"):
    ids(source, vocabulary=PHONES)
  (field,) = make(dict(symbols='phones'))
  assert field.known(source).tolist() == [True, False, True]
  source.table.columns['phones'][:] = [''] * 3
  with pytest.raises(InputError, match="No clip of 'clips' has a 'phones'"):
    field.known(source)

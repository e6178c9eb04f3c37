"""Subwords as targets: ids of SentencePiece with fairseq's special ones."""

import pathlib

import numpy as np
import pytest

from research.audio.clips import Files, Source, Table
from research.audio.fields import Context, Crops, make
from research.errors import InputError
from research.text import sentencepieces

pytest.importorskip('sentencepiece')
TEXTS = ['Guten Tag.', 'ja', 'Ähre']


@pytest.fixture
def model(tmp_path):
  return str(sentencepieces.train(TEXTS, tmp_path / 'spm.model'))


def source(**columns):
  ids = [str(i) for i in range(3)]
  return Source(Table('toy', ids, columns, Files('.', ids), seconds=np.full(3, 0.5)))


def crops(rows):
  count = len(rows)
  ones = np.ones(count, np.int64)
  return Crops(
    index=np.array(rows), valid=np.ones(count, bool), starts=0 * ones, lengths=8000 * ones,
    totals=8000 * ones, samples=8000, number=0, size=count, slots=np.arange(count), position=0,
  )  # fmt: skip


def test_characters_and_special_ids(model):
  pieces = sentencepieces.SentencePieces(model)
  letters = set(''.join(TEXTS).replace(' ', '')) | {'▁'}
  assert pieces.size == 4 + len(letters)
  for text in TEXTS:
    ids = pieces.encode(text)
    assert ids[-1] == sentencepieces.EOS and (ids[:-1] > sentencepieces.UNK).all()
    assert len(ids) == len(text) + 2 and pieces.decode(ids.tolist()) == text
  assert sentencepieces.UNK in pieces.encode('Xylophon')
  # The same texts give the same file.
  again = sentencepieces.train(TEXTS, model + '.again')
  assert again.read_bytes() == pathlib.Path(model).read_bytes()


def test_targets(model):
  (field,) = make(dict(targets=dict(name='subwords', args=dict(model=model))))
  rows = field.open(source(translation=TEXTS), Context(sample_rate=16000))
  found = rows.arrays(crops([1, 0]))['targets']
  pieces = sentencepieces.SentencePieces(model)
  assert found.shape == (2, 12) and (found[0, 4:] == -1).all()
  assert pieces.decode(found[0, :4].tolist()) == 'ja' and found[0, 3] == sentencepieces.EOS
  assert pieces.decode(found[1].tolist()) == 'Guten Tag.'
  assert rows.fits(0, 8000) and not rows.fits(0, 4000)


def test_what_is_refused(model, tmp_path):
  (field,) = make(dict(targets=dict(name='subwords', args=dict(model=model))))
  with pytest.raises(InputError, match="1 of 3 clips of 'toy' have no 'translation'"):
    field.open(source(translation=['a', ' ', 'b']), Context(sample_rate=16000))
  assert field.known(source(translation=['a', ' ', 'b'])).tolist() == [True, False, True]
  with pytest.raises(InputError, match='no SentencePiece model'):
    sentencepieces.SentencePieces(tmp_path / 'none.model')
  (tmp_path / 'bad.model').write_bytes(b'not a model')
  with pytest.raises(InputError, match='is no model of SentencePiece'):
    sentencepieces.SentencePieces(tmp_path / 'bad.model')
  with pytest.raises(InputError, match='no text'):
    sentencepieces.train([' '], tmp_path / 'x.model')
  with pytest.raises(InputError, match='number of pieces'):
    sentencepieces.train(TEXTS, tmp_path / 'x.model', kind='bpe')
  import sentencepiece

  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS), model_prefix=str(tmp_path / 'other'), model_type='char',
    use_all_vocab=True, minloglevel=2,
  )  # fmt: skip
  with pytest.raises(InputError, match='start, padding, end and unknown'):
    sentencepieces.SentencePieces(tmp_path / 'other.model')

"""Captions as a field: found by its file name, named in a config."""

import csv

import numpy as np
import pytest
import soundfile

from research import models
from research.audio import sources
from research.audio.fields import make
from research.audio.fields.captions import captions
from research.audio.pipeline import eval_batches, train_batches
from research.errors import InputError
from research.train import selection
from research.train.config import DATA, complete
from tests.text.vocabularies import write_roberta

CAPTIONS = {
  'a.wav': 'a dog barks',
  'b.wav': 'rain on a tin roof',
  'c.wav': 'ein Bär',
  'd.wav': '',
}


@pytest.fixture
def folder(tmp_path):
  rng = np.random.default_rng(0)
  with open(tmp_path / 'labels.csv', 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['path', 'caption'])
    for name, caption in CAPTIONS.items():
      soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(4000), 16_000)
      writer.writerow([name, caption])
  return tmp_path


def texts(ids, mask):
  return [bytes(row[real].astype(np.uint8)).decode() for row, real in zip(ids, mask)]


def data(folder, fields):
  return {**DATA, 'source': str(folder), 'split': None, 'fields': fields}


def test_captions_come_with_their_clips(folder):
  settings = data(folder, dict(captions='caption'))
  clips = selection.usable(selection.source(settings), settings)
  assert [clip.id for clip in clips] == ['a.wav', 'b.wav', 'c.wav']
  batch = next(iter(train_batches(clips, batch_size=3, fields=make(settings['fields']))))
  ids, mask = batch['captions'], batch['captions_mask']
  assert ids.shape == mask.shape == (3, 128) and ids.dtype == np.int32
  assert texts(ids, mask) == [CAPTIONS[clips.id(i)] for i in batch['index']]
  assert not ids[~mask].any()


def test_one_of_several_captions_is_drawn_by_the_seed(folder):
  clips = sources.open_source(str(folder)).select([0, 1])
  several = [['one', 'two', 'three'], ['uno']]
  clips.table.columns['caption'][:2] = several
  fields = make(dict(captions='caption'))

  def drawn(seed):
    batches = iter(train_batches(clips, batch_size=2, seed=seed, fields=fields, num_threads=0))
    found = []
    for _ in range(12):
      batch = next(batches)
      captions = texts(batch['captions'], batch['captions_mask'])
      assert all(t in several[i] for t, i in zip(captions, batch['index']))
      found += captions
    return found

  assert drawn(0) == drawn(0) != drawn(1)
  assert set(drawn(0)) == {'one', 'two', 'three', 'uno'}
  (batch,) = eval_batches(clips, batch_size=2, fields=fields, lengths=1)
  captions = texts(batch['captions'], batch['captions_mask'])
  assert [captions[list(batch['index']).index(i)] for i in (0, 1)] == ['one', 'uno']


def test_long_captions_are_cut(folder):
  fields = make(dict(words=dict(name='captions', args=dict(column='caption', max_tokens=4))))
  clips = sources.open_source(str(folder)).select([0, 1, 2])
  (batch,) = eval_batches(clips, batch_size=3, fields=fields, lengths=1)
  assert batch['words'].shape == (3, 4) and batch['words_mask'].all()
  assert sorted(texts(batch['words'], batch['words_mask']))[0] == 'a do'


def test_mistakes_get_a_sentence(folder):
  clips = sources.open_source(str(folder))
  with pytest.raises(InputError, match=r"Clip 'd.wav' of .* has no 'caption'"):
    train_batches(clips, batch_size=2, fields=make(dict(captions='caption')))
  with pytest.raises(InputError, match="Did you mean 'caption'"):
    train_batches(clips, batch_size=2, fields=make(dict(captions='captoin')))
  with pytest.raises(InputError, match='tokenizer'):
    spec = dict(name='captions', args=dict(tokenizer='byte'))
    train_batches(clips.select([0]), batch_size=1, fields=make(dict(captions=spec)))
  model = dict(name='audio_mae', args={})
  objective = dict(name='masked_patch_mse', args={})
  for fields, message in (
    (dict(caption='caption'), "Did you mean 'captions'"),
    (dict(captions=dict(args=dict(colum='x'))), "Did you mean 'column'"),
    (dict(captions=dict(column='x')), 'config.data.fields.captions.column'),
    (dict(x=dict(name='recording')), 'config.data.fields.x lacks column'),
  ):
    with pytest.raises(InputError, match=message):
      complete(dict(total_steps=1, model=model, objective=objective, data=dict(fields=fields)))


def test_captions_by_the_tokenizer_of_a_checkpoint(folder, tmp_path):
  """Ids with the tokens around them; another vocabulary than the model's is refused."""
  tokenizer = str(write_roberta(tmp_path / 'tokenizer'))
  args = dict(column='caption', tokenizer=tokenizer, max_tokens=6)
  settings = data(folder, dict(text=dict(name='captions', args=args)))
  clips = selection.usable(selection.source(settings), settings)
  model = models.get('clap')(size='tiny', vocabulary=263)
  fields = make(settings['fields'])
  batch = next(iter(train_batches(clips, batch_size=3, fields=fields, model=model)))
  ids, mask = batch['text'], batch['text_mask']
  assert ids.shape == mask.shape == (3, 6)
  assert (ids[:, 0] == 0).all() and (ids[np.arange(3), mask.sum(1) - 1] == 2).all()
  other = models.get('clap')(size='tiny', vocabulary=264)
  with pytest.raises(InputError, match='263 tokens, the weights have 264'):
    next(iter(train_batches(clips, batch_size=3, fields=fields, model=other)))


def test_labels_become_captions(folder):
  """'_' is a space; several labels are put into one caption, several templates are drawn from."""
  clips = sources.open_source(str(folder))
  clips.table.columns['label'] = ['dog', ['sea_waves', 'rain', 'dog'], ['rain', 'sea_waves'], '']
  assert captions(clips, 'label', 'the sound of {}') == [
    ['the sound of dog'],
    ['the sound of sea waves, rain and dog'],
    ['the sound of rain and sea waves'],
    [],
  ]
  template = ['a {}!', '{}']
  spec = dict(name='captions', args=dict(column='label', template=template))
  settings = data(folder, dict(text=spec))
  (field,) = make(settings['fields'])
  assert list(field.known(clips)) == [True, True, True, False]
  found = set()
  batches = iter(train_batches(clips.select([0]), batch_size=1, fields=[field], seed=1))
  for _ in range(20):
    batch = next(batches)
    found |= set(texts(batch['text'], batch['text_mask']))
  assert found == {'a dog!', 'dog'}
  with pytest.raises(InputError, match=r'expected a text with \{\} for the label'):
    captions(clips, 'label', 'the sound of')

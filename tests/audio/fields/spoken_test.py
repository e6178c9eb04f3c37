"""Fields of what is said and by whom: texts, units as texts, vectors of voices."""

import numpy as np
import pytest

from research.audio import units
from research.audio.fields import Context, make
from research.audio.pipeline import eval_batches, train_batches
from research.errors import InputError
from research.models.code_lm import CodeLM


def model(**args):
  return CodeLM(width=8, depth=1, heads=2, hidden=8, num_clusters=4, **args)


@pytest.fixture
def source(make_source):
  clips = make_source([0.3, 0.2, 0.4, 0.3])
  clips.table.columns['transcript'] = ['Two', '3', 'Ω me', 'no. 4']
  clips.table.columns['speaker'] = ['ann', 'bob', 'ann', 'ann']
  return clips


def test_texts_in_the_alphabet_of_the_model(source):
  (field,) = make(dict(text=dict(name='spoken')))
  own = model(text={'alphabet': 'english'})
  opened = field.open(source, Context(16000, own))
  spelt = [''.join(own.spelling.symbols[i] for i in ids) for ids in opened.ids]
  assert spelt == ['two', 'three', 'me', 'no. four']
  (batch,) = eval_batches(source, batch_size=4, fields=(field,), lengths=1, model=own)
  assert batch['text'].shape == (4, 8) and (batch['text'] >= 0).sum() == sum(map(len, opened.ids))
  for given, args, match in (
    (None, {}, 'needs an alphabet'),
    (own, {'alphabet': 'ipa:de'}, "is 'ipa:de', and the model spells by 'english'"),
    (own, {'column': 'word'}, "'word'"),
  ):
    (other,) = make(dict(text=dict(name='spoken', args=args)))
    with pytest.raises(InputError, match=match):
      other.open(source, Context(16000, given))
  source.table.columns['transcript'][1] = '??'
  with pytest.raises(InputError, match=r"Clip '001.flac' of 'clips': .*nothing that is spoken"):
    field.open(source, Context(16000, own))


def test_units_as_texts(source, tmp_path):
  rows = [[1, 1, 2], [3], [0, 0, 0, 1], [2, 2]]
  about = dict(clusters=4, sample_rate=16000, hop=320, window=320, fingerprint='f')
  ids = [source.id(i) for i in range(4)]
  units.save(tmp_path / 'units', ids, (np.array(row) for row in rows), about)
  (field,) = make(dict(text=dict(name='unit_text', args=dict(path=str(tmp_path / 'units')))))
  for runs, want in ((True, [[1, 2], [3], [0, 1], [2]]), (False, rows)):
    opened = field.open(source, Context(16000, model(text={'units': 4, 'runs': runs})))
    assert [x.tolist() for x in opened.ids] == want
  with pytest.raises(InputError, match='has 4 units, and the model reads 5'):
    field.open(source, Context(16000, model(text={'units': 5})))


def test_vectors_of_other_clips_of_a_speaker(source, tmp_path):
  values = np.array([[3, 4], [0, 2], [1, 0], [0, -1]], np.float32)
  names = [source.id(i) for i in range(4)]
  np.savez(tmp_path / 'v.npz', ids=np.array(names[::-1]), embeddings=values[::-1])
  args = dict(path=str(tmp_path / 'v.npz'), of='speaker')
  own = model(vectors={'voice': 2})
  fields = make(dict(voice=dict(name='vectors', args=args)))
  unit = values / np.linalg.norm(values, axis=1, keepdims=True)
  (batch,) = eval_batches(source, batch_size=4, fields=fields, lengths=1, model=own)
  np.testing.assert_allclose(batch['voice'], unit[batch['index']])
  batches = iter(
    train_batches(source, batch_size=4, seconds=0.1, fields=fields, num_threads=0, model=own)
  )
  seen = {i: set() for i in range(4)}
  for _ in range(12):
    batch = next(batches)
    for index, vector in zip(batch['index'].tolist(), batch['voice']):
      (found,) = np.flatnonzero(np.isclose(unit, vector).all(axis=1))
      seen[index].add(int(found))
  # Those of the only clip of bob are its own.
  assert seen == {0: {2, 3}, 1: {1}, 2: {0, 3}, 3: {0, 2}}
  with pytest.raises(InputError, match='vectors of 2 numbers, and the model takes 3'):
    fields[0].open(source, Context(16000, model(vectors={'voice': 3})))
  for changed, match in (
    (dict(path=str(tmp_path / 'no.npz')), 'cannot be read as vectors'),
    (dict(of='speakr'), "Did you mean 'speaker'"),
  ):
    with pytest.raises(InputError, match=match):
      make(dict(voice=dict(name='vectors', args=args | changed)))[0].open(source, Context(16000))
  np.savez(tmp_path / 'v.npz', ids=np.array(names[1:]), embeddings=values[1:])
  with pytest.raises(InputError, match=r"1 of 4 clips of 'clips' have no vector.*'000\.flac'"):
    fields[0].open(source, Context(16000, own))
  np.savez(tmp_path / 'v.npz', ids=np.array(names), embeddings=values[:, None])
  with pytest.raises(InputError, match=r'shape \(4, 1, 2\): expected one vector a clip'):
    fields[0].open(source, Context(16000, own))

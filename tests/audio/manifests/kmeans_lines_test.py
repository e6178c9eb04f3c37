"""Units of fairseq's .km files are labels of the clips beside them."""

import numpy as np
import pytest

from research.audio.fields import make
from research.audio.fields.units import open_sets
from research.audio.pipeline import eval_batches
from research.audio.sources import open_source
from research.errors import InputError
from tests.audio.manifests import trees


@pytest.fixture
def root(tmp_path):
  return trees.fairseq(tmp_path)['path']


def test_units_of_clips(root):
  source = open_source(str(root))
  fields = make({'units': str(root)})
  (batch,) = eval_batches(source, batch_size=3, lengths=1, fields=fields)
  for row, k in enumerate(batch['index']):
    own = (k + np.arange(1 + (len(trees.clip(k)) - 400) // 320)) % 7
    assert batch['units'][row, : len(own), 0].tolist() == own.tolist()
    assert (batch['units'][row, len(own) :] == -1).all()


def test_what_they_are(root):
  (units,) = open_sets(str(root / 'train.km'))
  assert len(units) == 2 and 'train/x/a.flac' in units
  assert (units.clusters, units.rate, units.about['window']) == (10, 50.0, 400)
  (again,) = open_sets(str(root / 'train.km'))
  assert again.path == units.path
  one = open_source(str(root / 'train.tsv'))
  assert make({'units': str(root / 'train.km')})[0].known(one).all()


def test_units_of_mfcc_are_twice_as_many(root):
  counts = [1 + (len(trees.clip(k)) - 400) // 160 for k in range(2)]
  trees.lines(root / 'train.km', *(' '.join('3' * n) for n in counts))
  (root / 'dict.km.txt').unlink()
  (units,) = open_sets(str(root / 'train.km'))
  assert (units.rate, units.clusters) == (100.0, 4)


@pytest.mark.parametrize(
  ('lines', 'sentence'),
  [
    (['1 2'], r'train.km has 1 lines, but .*train.tsv lists 2 clips'),
    (['1 2', '3 x'], r'train.km, line 2: not units'),
    (['1 -2', '3'], r'train.km, line 1: not units'),
    (['1 2', '3'], r'has a unit for every \d+ samples of its clips; expected one for every 160 or'),
  ],
)
def test_mistakes(root, lines, sentence):
  trees.lines(root / 'train.km', *lines)
  with pytest.raises(InputError, match=sentence):
    open_sets(str(root / 'train.km'))


def test_units_without_their_manifest(root):
  (root / 'train.tsv').unlink()
  with pytest.raises(InputError, match=r'train.tsv does not exist; units of .km need it'):
    open_sets(str(root / 'train.km'))

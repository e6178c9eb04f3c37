"""Checkpoint files of HuBERT with the dictionaries of its labels, which fairseq saves as objects:
read as data, without running anything."""

import sys
import types

import pytest

from research.errors import InputError
from research.weights import load, revert
from tests.weights.fairseq_files_test import KINDS, check_there_and_back, unusual
from tests.weights.hubert_test import make
from tests.weights.toy import check_identical, filled

torch = pytest.importorskip('torch')

SPECIALS = ('<s>', '<pad>', '</s>', '<unk>')
CFG = {'model': {'encoder_attention_heads': 2}, 'task': {'normalize': False}}


def pretend(monkeypatch, dotted, **members):
  """A class that is saved under the name of one in another package."""
  module, name = dotted.rsplit('.', 1)
  made = type(name, (), {'__module__': module, **members})
  at = module.split('.')
  for i in range(1, len(at) + 1):
    whole = '.'.join(at[:i])
    monkeypatch.setitem(sys.modules, whole, types.ModuleType(whole))
  setattr(sys.modules[module], name, made)
  return made


@pytest.fixture
def dictionary(monkeypatch):
  def setstate(self, state):
    raise AssertionError('the code of the package ran')

  kind = pretend(monkeypatch, 'fairseq.data.dictionary.Dictionary', __setstate__=setstate)

  def of(symbols):
    one = kind()
    one.__dict__.update(
      symbols=[*SPECIALS, *symbols], count=[1] * (4 + len(symbols)), nspecial=4, pad_index=1,
      indices={s: i for i, s in enumerate([*SPECIALS, *symbols])}, bos_word='<s>',
    )  # fmt: skip
    return one

  return of


def units(count):
  return [str(k) for k in range(count)]


def write(path, kind, state, **changes):
  _, made = make('hubert', kind, **changes)
  arrays = revert('hubert', made, filled(made))
  tensors = {k: torch.from_numpy(x) for k, x in arrays.items()}
  torch.save({'args': None, 'cfg': CFG, 'model': tensors, 'task_state': state}, path)
  return arrays


@pytest.mark.parametrize(
  'kind, counts',
  [('pretraining', (5,)), ('two sets', (5, 3)), ('two sets, one projection', (5, 3))],
)
def test_dictionaries_say_how_many_units_there_are(tmp_path, dictionary, kind, counts):
  path = tmp_path / 'hubert.pt'
  arrays = write(path, kind, {'dictionaries': [dictionary(units(n)) for n in counts]})
  ours = load(path, release='hubert')
  assert ours.model.sets == counts and ours.model.specials == 4
  check_identical(revert('hubert', ours.model, ours.variables), arrays)
  if len(counts) == 2:
    given = r'num_clusters=\(6, 2\) was given, but task_state \(dictionaries\)'
    with pytest.raises(InputError, match=given):
      load(path, release='hubert', num_clusters=[6, 2])
  write(path, kind, {'dictionaries': [dictionary(units(n + 1)) for n in counts]})
  with pytest.raises(InputError, match='vectors of units, which are not those of num_clusters='):
    load(path, release='hubert')


def test_a_dictionary_says_the_letters_of_a_head(tmp_path, dictionary):
  symbols = [*SPECIALS, '|', 'a', 'b']
  path = tmp_path / 'hubert.pt'
  state = {'target_dictionary': dictionary(symbols[4:]), 'dictionaries': [None]}
  write(path, 'letters', state, vocabulary=symbols)
  assert load(path, release='hubert').model.vocabulary == tuple(symbols)
  write(path, 'letters', {'target_dictionary': dictionary('|abc')}, vocabulary=symbols)
  with pytest.raises(InputError, match=r'8 symbols is in task_state .*, but the head has 7 rows'):
    load(path, release='hubert')


def test_units_in_another_order_are_said(tmp_path, dictionary):
  path = tmp_path / 'hubert.pt'
  write(path, 'pretraining', {'dictionaries': [dictionary(['1', '0', '2', '3', '4'])]})
  with pytest.warns(UserWarning, match='set 0 has its units in another order'):
    load(path, release='hubert')


def test_a_dictionary_of_something_else_is_refused(tmp_path, dictionary):
  path = tmp_path / 'hubert.pt'
  odd = dictionary(units(5))
  odd.symbols = {'no': 'list'}
  write(path, 'pretraining', {'dictionaries': [odd]})
  with pytest.raises(InputError, match='a dictionary in its task_state that is no list of symbols'):
    load(path, release='hubert')


@pytest.mark.parametrize(
  'name', ['fairseq.data.dictionary.Other', 'fairseq.data.Dictionary', 'elsewhere.Dictionary']
)
def test_other_objects_stay_refused(tmp_path, monkeypatch, name):
  path = tmp_path / 'hubert.pt'
  write(path, 'pretraining', {'dictionaries': [pretend(monkeypatch, name)()]})
  with pytest.raises(InputError, match=name.replace('.', r'\.') + ' in it'):
    load(path, release='hubert')


def test_a_dictionary_with_a_call_of_its_own_is_refused(tmp_path, monkeypatch):
  """One that is built with arguments is no plain data."""
  kind = pretend(
    monkeypatch,
    'fairseq.data.dictionary.Dictionary',
    __reduce__=lambda self: (type(self), ('argument',)),
    __init__=lambda self, *args: None,
  )
  path = tmp_path / 'hubert.pt'
  write(path, 'pretraining', {'dictionaries': [kind()]})
  with pytest.raises(InputError, match='cannot be read as plain PyTorch weights'):
    load(path, release='hubert')


# -- The way out -------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
def test_checkpoints_that_we_write(tmp_path, kind):
  file = check_there_and_back(*unusual(kind), tmp_path / 'theirs.pt')
  # Plain tensors and values: nothing of ours is needed, nor any code.
  whole = torch.load(file, weights_only=True)
  assert isinstance(whole['cfg'], dict) and all(
    isinstance(x, torch.Tensor) for x in whole['model'].values()
  )
  # What fairseq's loader looks up.
  assert whole['optimizer_history'][-1]['num_updates'] == 0
  assert whole['extra_state']['train_iterator']['epoch'] == 1

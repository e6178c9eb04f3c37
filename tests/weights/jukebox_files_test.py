"""Files of Jukebox: a state dict beside settings of its own class, in both formats of torch."""

import sys
import types

import numpy as np
import pytest

from research.errors import InputError
from research.weights import read

torch = pytest.importorskip('torch')


@pytest.fixture
def hyperparams(monkeypatch):
  """openai/jukebox's class, which is there only while a file is written."""
  package, module = types.ModuleType('jukebox'), types.ModuleType('jukebox.hparams')

  class Hyperparams(dict):
    def __getattr__(self, name):
      return self[name]

  Hyperparams.__module__, Hyperparams.__qualname__ = 'jukebox.hparams', 'Hyperparams'
  module.Hyperparams, package.hparams = Hyperparams, module
  monkeypatch.setitem(sys.modules, 'jukebox', package)
  monkeypatch.setitem(sys.modules, 'jukebox.hparams', module)
  return Hyperparams


@pytest.mark.parametrize('new', [True, False])
def test_settings_beside_the_arrays_are_plain_values(tmp_path, hyperparams, monkeypatch, new):
  x = torch.arange(6, dtype=torch.float32).reshape(2, 3)
  whole = {'hps': hyperparams(sr=44_100), 'model': {'module.k': x}, 'opt': None, 'step': 3}
  path = tmp_path / 'vqvae.pth.tar'
  torch.save(whole, path, _use_new_zipfile_serialization=new)
  monkeypatch.delitem(sys.modules, 'jukebox.hparams')
  monkeypatch.delitem(sys.modules, 'jukebox')
  arrays, _ = read.read_arrays(path)
  assert set(arrays) == {'module.k'}
  np.testing.assert_array_equal(arrays['module.k'], x.numpy())


def test_other_classes_are_refused(tmp_path, hyperparams):
  hyperparams.__qualname__ = hyperparams.__name__ = 'Other'
  sys.modules['jukebox.hparams'].Other = hyperparams
  path = tmp_path / 'vqvae.pth.tar'
  torch.save({'hps': hyperparams(sr=1), 'model': {'k': torch.zeros(1)}}, path)
  with pytest.raises(InputError, match=r'jukebox\.hparams\.Other'):
    read.read_arrays(path)

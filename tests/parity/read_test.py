"""PyTorch files that need code to be loaded are refused, without advice to load them anyway."""

import os

import pytest

torch = pytest.importorskip('torch')

from research.errors import InputError  # noqa: E402
from research.weights import read  # noqa: E402


class Harmful:
  """Unpickling it would make a folder."""

  def __init__(self, folder):
    self.folder = folder

  def __reduce__(self):
    return os.mkdir, (self.folder,)


def test_a_file_that_would_run_code_is_refused(tmp_path):
  path = tmp_path / 'model.pth'
  torch.save({'model': Harmful(str(tmp_path / 'ran'))}, path)
  with pytest.raises(InputError, match='needs code to be loaded, and such files') as e:
    read.read_arrays(path)
  assert 'weights_only=False' not in str(e.value) and not (tmp_path / 'ran').exists()

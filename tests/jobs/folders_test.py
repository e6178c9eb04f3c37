"""Jobs that go on."""

import pytest

from research.errors import InputError
from research.jobs import folders


def test_what_is_different_is_named(tmp_path):
  folders.begin(tmp_path / 'a.parts', dict(layers=[1, 2], pool='mean', text='x' * 100))
  folders.begin(tmp_path / 'a.parts', dict(layers=[1, 2], pool='mean', text='x' * 100))
  with pytest.raises(
    InputError, match=r"another layers \(\[1, 2\] -> \[2\]\), text \('xxx.*\.\.\. -> "
  ):
    folders.begin(tmp_path / 'a.parts', dict(layers=[2], pool='mean', text='y' * 100))

"""Meshes over several slices."""

from types import SimpleNamespace

import pytest

from research.errors import InputError
from research.train import sharding


def test_slices_split_data_first():
  # Two slices of four chips, in an order of their own.
  devices = [SimpleNamespace(slice_index=i % 2, id=i) for i in range(8)]
  grid = sharding.device_grid([4, 2, 1], devices)
  assert [[device[0].id for device in row] for row in grid] == [[0, 2], [4, 6], [1, 3], [5, 7]]
  with pytest.raises(InputError, match=r'mesh.data=1 does not divide into 2 slices'):
    sharding.device_grid([1, 8, 1], devices)

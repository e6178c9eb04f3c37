"""Several processes train as one does, whatever the mesh."""

import numpy as np
import pytest

from research.errors import InputError
from research.train import sharding
from tests.multiprocess import group

STEPS = '--config.total_steps=20'


def owners(shape, per_process):
  """[data x fsdp, tensor]: the processes of devices that belong to them in order, N each."""
  data, fsdp, tensor = shape
  return np.arange(data * fsdp * tensor).reshape(data * fsdp, tensor) // per_process


@pytest.mark.parametrize(
  ('shape', 'per_process', 'parts'),
  [
    ((4, 1, 1), 1, [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ((2, 2, 1), 2, [(0, 2), (1, 2)]),
    ((1, 1, 2), 1, [(0, 1), (0, 1)]),
    ((2, 1, 2), 1, [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ((2, 1, 4), 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ((2, 2, 2), 4, [(0, 2), (1, 2)]),
  ],
)
def test_rows_go_by_what_devices_hold(shape, per_process, parts):
  held = owners(shape, per_process)
  assert [sharding.part_of(held, i) for i in range(len(parts))] == parts


def test_rows_that_are_no_equal_parts_are_refused():
  with pytest.raises(InputError, match='not one of several equal parts'):
    sharding.part_of(owners((3, 1, 2), 3), 0)


@pytest.fixture(scope='module')
def one(tmp_path_factory):
  """The run of one process."""
  workdir = tmp_path_factory.mktemp('one') / 'run'
  assert group.train(workdir, STEPS, count=1).wait()[0].code == 0
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
  ('count', 'devices', 'mesh'),
  [
    (2, 1, dict(data=1, tensor=2)),
    (4, 1, dict(data=2, tensor=2)),
    (2, 2, dict(data=2, fsdp=2)),
    (3, 1, dict(data=3)),
  ],
)
def test_any_mesh_equals_one_process(one, count, devices, mesh, tmp_path):
  several = tmp_path / 'several'
  args = [STEPS, *(f'--config.mesh.{axis}={size}' for axis, size in mesh.items())]
  ends = group.train(several, *args, count=count, devices=devices).wait()
  assert all(end.code == 0 for end in ends), ends
  a, b = group.losses(one), group.losses(several)
  assert a.keys() == b.keys() and len(a) == 4
  np.testing.assert_allclose(list(b.values()), list(a.values()), rtol=1e-4)
  # One process writes.
  assert sum('report:' in end.out for end in ends) == 1

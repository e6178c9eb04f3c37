"""Names of slices."""

import pytest

from research.errors import InputError
from research.train.planning import topology


@pytest.mark.parametrize(
  ('name', 'chips', 'hosts'),
  [('v5e:4x4', 16, 4), ('v5e:16x16', 256, 64), ('v5p:4x4x4', 64, 16), ('v5p:8x8x16', 1024, 256),
   ('v6e:2x4', 8, 2), ('v4:2x2x1', 4, 1), ('h100:8x8', 64, 8), ('a100:1x4', 4, 1),
   ('4xv5e:16x16', 1024, 256), ('2xv5p:4x4x4', 128, 32)],
)  # fmt: skip
def test_chips_and_hosts(name, chips, hosts):
  found = topology.parse(name)
  assert (found.chips, found.hosts) == (chips, hosts)


def test_peaks():
  chip = topology.parse('v5e:4x4').chip
  assert (chip.flops, chip.hbm_bytes, chip.hbm_rate) == (197e12, 16e9, 819e9)
  assert all(1e9 < c.link_rate < c.hbm_rate < c.flops for c in topology.CHIPS.values())


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('v5f:4x4', "Did you mean 'v5p' or 'v5e'"),
    ('v5e', 'has 2 sides, as in v5e:4x4'),
    ('v5e:4x4x4', 'has 2 sides'),
    ('v5p:4x4', 'has 3 sides, as in v5p:4x4x4'),
    ('v5e:0x4', 'has 2 sides'),
    ('v5e:3x4', 'are even'),
    ('2xh100:2x8', 'GPUs have no slices'),
    ('0xv5e:4x4', 'Unknown chip'),
  ],
)
def test_wrong_names_are_refused(name, words):
  with pytest.raises(InputError, match=words):
    topology.parse(name)

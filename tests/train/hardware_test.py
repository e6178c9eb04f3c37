"""Peaks are those of a device, which is a core of some TPUs."""

import pytest

from research.train import hardware
from research.train.planning import topology


@pytest.mark.parametrize(
  ('kind', 'chip', 'devices'),
  [
    ('TPU v2', 45e12, 2),
    ('TPU v3', 123e12, 2),
    ('TPU v4', 275e12, 1),
    ('TPU v5 lite', 197e12, 1),
    ('TPU v5p', 459e12, 1),
    ('TPU v6 lite', 918e12, 1),
    ('TPU7x', 2307e12, 2),
    ('NVIDIA H100 80GB HBM3', 989e12, 1),
  ],
)
def test_the_devices_of_a_chip_have_its_peak_together(kind, chip, devices):
  assert devices * hardware.peak_of(kind) == chip


def test_half_the_peak_of_a_core_is_half_its_utilisation(monkeypatch):
  monkeypatch.setattr(hardware, 'peak_flops', lambda device: hardware.peak_of('TPU v3'))
  assert hardware.mfu(123e12 / 2 / 2, 1.0) == 0.5


def test_an_unknown_device_has_none():
  assert hardware.peak_of('cpu') is None and hardware.mfu(1.0, 1.0) is None


def test_slices_are_planned_by_devices():
  """A chip of a slice is one device: none of them has two."""
  for name, kind in (('v4', 'TPU v4'), ('v5e', 'TPU v5e'), ('v5p', 'TPU v5p'), ('v6e', 'TPU v6e')):
    assert topology.CHIPS[name].flops == hardware.peak_of(kind)
  assert not {'v2', 'v3', 'tpu7x'} & set(topology.CHIPS)

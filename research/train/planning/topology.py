"""Slices by name, as 'v5e:4x4' or 'h100:8x8': chips, hosts and what a chip can do.

A TPU slice is named as Google's documentation names its topology; v4 counts chips, each one device
(its two cores work as one). '2xv5e:16x16' are two such slices, connected by the network only. A GPU
cluster is hosts x GPUs of a host.
"""

import dataclasses
import math
import re
from typing import Any

from research.errors import InputError, unknown
from research.train.hardware import PEAK_FLOPS


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of chip, per chip, from the vendors' data sheets.

  Attributes:
    name: as in the name of a slice.
    platform: 'tpu' or 'gpu'.
    flops: dense 16-bit peak, FLOP/s.
    hbm_bytes: memory.
    hbm_rate: bytes/s from and to memory.
    link_rate: bytes/s to other chips over all links together, one way; for a GPU within its host.
    network_rate: bytes/s to other slices, one way; None where there are no slices.
    sides: dimensions of a slice; 2 for a GPU, hosts and GPUs of a host.
    options: what libtpu must be told beside the name of a slice.
  """

  name: str
  platform: str
  flops: float
  hbm_bytes: float
  hbm_rate: float
  link_rate: float
  network_rate: float | None = None
  sides: int = 2
  options: tuple[tuple[str, str], ...] = ()


# Of each of these a chip is one device, so that the peak of a device is that of its chip.
# TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, where the bandwidth between chips is in Gbit/s
# (2,400, 1,600, 4,800 and 3,584), and that of the network for a pod of 256 v5e or v6e (6.4 and 25.6
# Tbit/s); v4 and v5p have 25 GB/s for the four chips of a host (jax-ml.github.io/scaling-book).
# GPU: NVIDIA's data sheets of the SXM modules, half of NVLink's figure, which adds both ways.
CHIPS = {
  chip.name: chip
  for chip in (
    Chip(
      'v4',
      'tpu',
      PEAK_FLOPS['TPU v4'],
      32e9,
      1228e9,
      300e9,
      6.25e9,
      3,
      (('chip_config_name', 'megacore'),),
    ),
    Chip('v5e', 'tpu', PEAK_FLOPS['TPU v5e'], 16e9, 819e9, 200e9, 3.125e9),
    Chip('v5p', 'tpu', PEAK_FLOPS['TPU v5p'], 95e9, 2765e9, 600e9, 6.25e9, 3),
    Chip('v6e', 'tpu', PEAK_FLOPS['TPU v6e'], 32e9, 1640e9, 448e9, 12.5e9),
    Chip('a100', 'gpu', PEAK_FLOPS['A100'], 80e9, 2039e9, 300e9),
    Chip('h100', 'gpu', PEAK_FLOPS['H100'], 80e9, 3350e9, 450e9),
    Chip('h200', 'gpu', PEAK_FLOPS['H200'], 141e9, 4800e9, 450e9),
  )
}
CHIPS_PER_HOST = 4  # of the TPU slices that libtpu compiles for


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of chips.

  Attributes:
    name: as given.
    chip: its chips.
    chips, hosts: their numbers, of all slices. One chip is one device.
    slices: how many slices there are.
  """

  name: str
  chip: Chip
  chips: int
  hosts: int
  slices: int = 1

  def devices(self) -> list[Any]:
    """The slice's devices, described by libtpu without a TPU, in the order of a run on it.

    Raises:
      InputError: libtpu does not know the slice.
    """
    import jax
    from jax.experimental import topologies

    name = self.name.split('x', 1)[1] if self.slices > 1 else self.name
    options: dict[str, Any] = dict(self.chip.options)
    if self.slices > 1:
      options['num_slices'] = self.slices
    try:
      found = topologies.get_topology_desc(platform='tpu', topology_name=name, **options).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
      cause = str(error).splitlines()[0]
      raise InputError(f'libtpu does not know the slice {self.name}: {cause}') from error
    return list(found)


def parse(name: str) -> Topology:
  """The slice of this name.

  Raises:
    InputError: an unknown chip, or sides that such a slice does not have.
  """
  several = re.match(r'([1-9]\d*)x(?=[a-z])', name)
  slices = int(several[1]) if several else 1
  kind, _, sides = name[several.end() if several else 0 :].partition(':')
  if kind not in CHIPS:
    raise unknown('chip', kind, CHIPS)
  chip = CHIPS[kind]
  example = 'x'.join(['4'] * chip.sides)
  if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', sides) or sides.count('x') != chip.sides - 1:
    raise InputError(
      f'--topology={name}: a slice of {kind} has {chip.sides} sides, as in {kind}:{example}.'
    )
  lengths = [int(n) for n in sides.split('x')]
  chips = math.prod(lengths)
  if chip.platform == 'gpu':
    if several:
      raise InputError(
        f'--topology={name}: GPUs have no slices; give hosts x GPUs, as in h100:2x8.'
      )
    return Topology(name, chip, chips, lengths[0])
  if any(n % 2 for n in lengths[:2]):
    raise InputError(
      f'--topology={name}: the first two sides of a TPU slice are even (a host has 2x2 chips), '
      f'as in {kind}:{example}.'
    )
  return Topology(name, chip, slices * chips, slices * chips // CHIPS_PER_HOST, slices)

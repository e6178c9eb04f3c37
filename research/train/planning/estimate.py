"""What a step costs at least on a slice: an estimate from its FLOPs and from the compiled program.

Each unit of a chip (arithmetic, memory, links, the network between slices) works at the peak of the
data sheet, and all of them overlap, so that the busiest one gives the time. A real run is slower.
The MFU is therefore an upper bound, and all times are lower bounds, but for the memory traffic,
which is read from the compiled program to about ± 30 %.
"""

import dataclasses

from research.train.planning.compiling import Compiled
from research.train.planning.program import Batch
from research.train.planning.topology import Topology

DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Bounds on a run, see above.

  Attributes:
    compute_seconds, memory_seconds, link_seconds, network_seconds: of a step, for each unit of a
      chip; None where the program was not compiled, or there is one slice.
    step_seconds: the longest of them.
    bound: which one that is: 'compute', 'memory', 'links' or 'network'.
    mfu: model FLOPs in that time as a fraction of the peak.
    audio_hours_a_day: that all chips together process, padding included.
    days, chip_hours: of the whole run; None where its number of steps is not known.
  """

  compute_seconds: float
  memory_seconds: float | None
  link_seconds: float | None
  network_seconds: float | None
  step_seconds: float
  bound: str
  mfu: float
  audio_hours_a_day: float
  days: float | None
  chip_hours: float | None


def estimate(
  topology: Topology,
  batch: Batch,
  *,
  model_flops: float,
  program_flops: float,
  total: int | None,
  compiled: Compiled | None = None,
) -> Estimate:
  """Bounds on a run of `total` such steps.

  Args:
    topology: the slice.
    batch: the global batch.
    model_flops: of a step over all chips, without rematerialisation.
    program_flops: the same as the step runs.
    total: steps of the run; None if not known.
    compiled: the compiled step; without it only the arithmetic is counted.
  """
  chip, chips = topology.chip, topology.chips
  seconds = {'compute': program_flops / chips / chip.flops}
  if compiled is not None and compiled.error is None:
    seconds['memory'] = compiled.memory_bytes / chip.hbm_rate
    sent = sum(sent for _, _, sent in compiled.collectives.values())
    seconds['links'] = sent / chip.link_rate
    if topology.slices > 1 and chip.network_rate:
      seconds['network'] = _between_slices(topology, compiled) / chip.network_rate
  bound = max(seconds, key=lambda name: seconds[name])
  step = seconds[bound]
  days = None if total is None else total * step / DAY
  return Estimate(
    compute_seconds=seconds['compute'],
    memory_seconds=seconds.get('memory'),
    link_seconds=seconds.get('links'),
    network_seconds=seconds.get('network'),
    step_seconds=step,
    bound=bound,
    mfu=model_flops / chips / chip.flops / step,
    audio_hours_a_day=batch.rows * batch.seconds / 3600 * DAY / step,
    days=days,
    chip_hours=None if days is None else days * 24 * chips,
  )


def _between_slices(topology: Topology, compiled: Compiled) -> float:
  """Bytes that a chip sends to other slices in a step.

  Only `data` crosses slices, so these are the all-reduces: a slice adds up its own first, each chip
  exchanges its part of the sums with the same chip of the other slices.
  """
  _, size, _ = compiled.collectives.get('all-reduce', (0, 0.0, 0.0))
  return 2 * size * (topology.slices - 1) / topology.chips

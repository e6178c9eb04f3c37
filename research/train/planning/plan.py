"""A plan: what a run of a config would need on a slice, as a table."""

import dataclasses
from collections.abc import Mapping

from research.errors import InputError
from research.train import sharding
from research.train.planning import estimate as estimates
from research.train.planning import program as programs
from research.train.planning.compiling import Compiled
from research.train.planning.embedding import Embedding
from research.train.planning.program import Batch, Program
from research.train.planning.topology import Topology

UNKNOWN = 'unknown (give --clips, the number of training clips)'


@dataclasses.dataclass(frozen=True)
class Plan:
  """A training step of one batch shape on one slice.

  Attributes:
    topology, batch: the slice and the global batch.
    mesh: sizes of the mesh axes.
    params: number of parameters.
    state_bytes: of the state that each chip holds, by part; exact.
    model_flops, program_flops: of a step over all chips, without rematerialisation and as it runs.
    total: steps of the run; None if not known.
    filled: rows of the batch on this mesh, with those that fill it up; None: as many.
    refused: why `train` would refuse the batch on this mesh; None where it would not.
    compiled: what the compiler says; None where it was not asked.
  """

  topology: Topology
  batch: Batch
  mesh: Mapping[str, int]
  params: int
  state_bytes: Mapping[str, float]
  model_flops: float
  program_flops: float
  total: int | None
  filled: int | None = None
  refused: str | None = None
  compiled: Compiled | None = None

  @property
  def estimate(self) -> estimates.Estimate:
    """Bounds on its time."""
    return estimates.estimate(
      self.topology,
      self.batch,
      model_flops=self.model_flops,
      program_flops=self.program_flops,
      total=self.total,
      compiled=self.compiled,
    )

  @property
  def error(self) -> str | None:
    """Why this would not run; None where nothing is known against it."""
    if self.refused:
      return self.refused
    held, room = sum(self.state_bytes.values()), self.topology.chip.hbm_bytes
    if held > room:
      return f'the state alone has {gigabytes(held)} a chip, of {gigabytes(room)}'
    return self.compiled.error if self.compiled is not None else None

  @property
  def _fillers(self) -> str:
    empty = (self.filled or self.batch.rows) - self.batch.rows
    return f', and {empty} empty rows' if empty else ''

  def rows(self) -> list[tuple[str, str]]:
    """(what, how much) of the table that `launch.plan` prints."""
    topology, state = self.topology, self.state_bytes
    mesh = ' x '.join(f'{axis} {size}' for axis, size in self.mesh.items() if size > 1)
    parts = ', '.join(f'{name} {gigabytes(n)}' for name, n in state.items() if n)
    rows = [
      ('slice', f'{topology.name}: {topology.chips} chips, {topology.hosts} hosts, {mesh}'),
      ('batch', f'{self.batch.rows} clips of {self.batch.seconds:g} s{self._fillers}'),
      ('parameters', f'{self.params:,}'),
      ('state a chip', f'{gigabytes(sum(state.values()))} ({parts})'),
      ('a step', f'{self.model_flops / 1e12:.4g} TFLOP{self._recomputed()}'),
    ]
    if self.error:
      return [*rows, ('does not run', self.error)]
    return [*rows, *self._compiled_rows(), *self._estimated_rows()]

  def _recomputed(self) -> str:
    extra = self.program_flops / self.model_flops - 1
    return f', {extra:.0%} more with rematerialisation' if extra > 1e-3 else ''

  def _compiled_rows(self) -> list[tuple[str, str]]:
    found = self.compiled
    if found is None:
      return [('memory', 'not compiled')]
    kinds = ', '.join(
      f'{n} {kind} {gigabytes(size)}' for kind, (n, size, _) in found.collectives.items()
    )
    return [
      (
        'memory',
        f'fits: {gigabytes(found.hbm_bytes)} of {gigabytes(self.topology.chip.hbm_bytes)} a chip '
        f'({gigabytes(found.temporary_bytes)} temporary)',
      ),
      ('memory traffic', f'{gigabytes(found.memory_bytes)} a step and chip (± 30 %)'),
      ('collectives', kinds or 'none'),
    ]

  def _estimated_rows(self) -> list[tuple[str, str]]:
    best = self.estimate
    units = {
      'compute': best.compute_seconds, 'memory': best.memory_seconds, 'links': best.link_seconds,
      'network': best.network_seconds,
    }  # fmt: skip
    each = ', '.join(f'{k} {1e3 * s:.3g} ms' for k, s in units.items() if s is not None)
    bound = f'{best.bound}-bound' if self.compiled else 'only the arithmetic is counted'
    rows = [
      ('estimate: step', f'>= {1e3 * best.step_seconds:.3g} ms ({each}): {bound}'),
      ('estimate: MFU', f'<= {best.mfu:.1%}' if self.compiled else 'not compiled'),
      ('estimate: audio', f'<= {best.audio_hours_a_day:,.0f} hours a day'),
    ]
    if best.days is None or best.chip_hours is None or self.total is None:
      return [*rows, ('estimate: run', UNKNOWN)]
    run = f'{self.total:,} steps: >= {best.days:.3g} days, >= {best.chip_hours:,.0f} chip-hours'
    return [*rows, ('estimate: run', run)]


def make(
  program: Program | Embedding,
  topology: Topology,
  number: int = 0,
  flops: tuple[float, float] | None = None,
) -> Plan:
  """The plan of the `number`-th batch shape of a program, not compiled.

  Args:
    program: of a config whose mesh fits the slice.
    topology: the slice.
    number: of the batch shape; the longest is 0.
    flops: of the model and of the program, where they are known already.

  Raises:
    InputError: the mesh does not fit the slice.
  """
  batch = program.batches[number]
  mesh = programs.abstract_mesh(program.config['mesh'], topology.chips)
  if flops is None:
    flops = program.step_flops(batch)
  filled, refused = batch.rows, None
  sharding.check_slices(list(mesh.shape.values()), topology.slices)
  try:
    filled = program.rows(batch, mesh)
  except InputError as error:
    refused = str(error)
  return Plan(
    topology=topology,
    batch=batch,
    mesh=dict(mesh.shape),
    params=program.params,
    state_bytes=program.state_bytes(mesh),
    model_flops=flops[0],
    program_flops=flops[1] * filled / batch.rows,
    total=program.total,
    filled=filled,
    refused=refused,
  )


def gigabytes(count: float) -> str:
  """Bytes as text, decimal."""
  if count < 1e5:
    return f'{count:.0f} B'
  return f'{count / 1e9:.3g} GB' if count >= 1e7 else f'{count / 1e6:.2g} MB'


def table(rows: list[tuple[str, str]]) -> str:
  """Rows under each other, the second column aligned."""
  width = max(len(name) for name, _ in rows)
  return '\n'.join(f'{name:<{width}}  {value}' for name, value in rows)

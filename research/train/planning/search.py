"""Finds how to run a config on a slice: mesh x accumulate x remat x scan_layers.

What cannot run is left out first, from the exact bytes of the state. The rest is compiled, what
costs least first, and the smallest estimate of a step wins.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from research.errors import InputError
from research.models.finetuned import encoder_place, flat_arguments
from research.nn.layers import REMAT
from research.train import build
from research.train.planning import plan as plans
from research.train.planning.compiling import Compiled
from research.train.planning.plan import Plan
from research.train.planning.program import Program
from research.train.planning.topology import Topology

TENSOR = (1, 2, 4)  # within a host
ACCUMULATE = (1, 2, 4, 8, 16)
MOST_FILLED = 2  # batches that would have as many empty rows as clips are left out


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One way to run a config.

  Attributes:
    data, fsdp, tensor: mesh axes.
    accumulate: parts of a batch.
    remat, scan_layers: of the model; None where it has no such argument.
  """

  data: int
  fsdp: int
  tensor: int
  accumulate: int
  remat: bool | str | None
  scan_layers: bool | None

  @property
  def order(self) -> tuple[Any, ...]:
    """Sorts what costs least first: few parts of the parameters, nothing recomputed."""
    return self.fsdp * self.tensor, self.tensor, self.recomputed, self.accumulate

  @property
  def recomputed(self) -> int:
    """Ranks how much is recomputed."""
    return REMAT.index(self.remat or False)

  @property
  def place(self) -> tuple[Any, ...]:
    """What the state of a chip depends on."""
    return self.data, self.fsdp, self.tensor, self.scan_layers

  def settings(self, place: str) -> dict[str, Any]:
    """{path in the config: value}; `place` is where the arguments of the encoder are."""
    model = dict(remat=self.remat, scan_layers=self.scan_layers)
    return {
      **{f'mesh.{axis}': getattr(self, axis) for axis in ('data', 'fsdp', 'tensor')},
      'optim.accumulate': self.accumulate,
      **{f'{place}.{name}': value for name, value in model.items() if value is not None},
    }

  def needs_no_less_than(self, other: 'Candidate') -> bool:
    """Whether it surely holds as much memory as another one of the same layers: no more chips
    share the state or the batch, and no more is recomputed or done in parts."""
    return (
      self.scan_layers == other.scan_layers
      and self.fsdp <= other.fsdp
      and self.tensor <= other.tensor
      and self.data * self.fsdp * self.accumulate <= other.data * other.fsdp * other.accumulate
      and self.recomputed <= other.recomputed
    )

  def only_adds_to(self, other: 'Candidate') -> bool:
    """Whether it is another one with more recomputed or done in parts."""
    return (
      self.place == other.place
      and self.recomputed >= other.recomputed
      and self.accumulate >= other.accumulate
    )


@dataclasses.dataclass(frozen=True)
class Row:
  """A candidate, its plan, and what became of it: 'compiled', 'not compiled', or why not."""

  candidate: Candidate
  plan: Plan
  outcome: str


@dataclasses.dataclass(frozen=True)
class Found:
  """All rows, what costs least first; the recommended one and its flags, none if none was compiled
  and fits."""

  rows: list[Row]
  best: Row | None
  flags: str


def candidates(config: Mapping[str, Any], topology: Topology) -> list[Candidate]:
  """All ways to try, what costs least first; the config's own layers before the others."""
  args = flat_arguments(build.model(config))
  remats: tuple[bool | str | None, ...] = REMAT if 'remat' in args else (None,)
  own = args.get('scan_layers')
  scans = (own, not own) if own is not None else (None,)
  found = [
    Candidate(*mesh, accumulate, remat, scan)
    for scan in scans
    for mesh, accumulate, remat in itertools.product(_meshes(topology), ACCUMULATE, remats)
  ]
  return sorted(found, key=lambda each: each.order)


def _meshes(topology: Topology) -> Iterator[tuple[int, int, int]]:
  """(data, fsdp, tensor): powers of two that divide the chips."""
  for tensor in TENSOR:
    fsdp = 1
    while topology.chips % (fsdp * tensor) == 0:
      yield topology.chips // (fsdp * tensor), fsdp, tensor
      fsdp *= 2


def changed(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
  """The config with other values at these paths."""
  new = copy.deepcopy(dict(config))
  for path, value in settings.items():
    *groups, name = path.split('.')
    node = new
    for group in groups:
      node = node[group]
    node[name] = value
  return new


def search(
  config: Mapping[str, Any],
  topology: Topology,
  *,
  compile_step: Callable[[Mapping[str, Any]], Compiled] | None,
  clips: int | None = None,
  limit: int = 8,
  report: Callable[[Row], None] = lambda row: None,
) -> Found:
  """Tries the candidates of a completed config with its longest batch.

  Args:
    config: completed.
    topology: the slice.
    compile_step: config -> what the compiler says; None: only the state is looked at, which does
      not depend on `remat` and `accumulate`.
    clips: number of training clips, for recipes in epochs.
    limit: most programs to compile.
    report: called with every row as it is found.

  Raises:
    InputError: no mesh splits the batch.
  """
  place = encoder_place(build.model(config))
  programs: dict[Any, Program] = {}
  flops: dict[Any, tuple[float, float]] = {}
  rows: list[Row] = []
  too_large: list[Candidate] = []
  fitting: list[Candidate] = []
  hopeless: set[Any] = set()  # the state alone does not fit
  compiled_programs = 0

  def plan_of(each: Candidate, own: dict[str, Any]) -> Plan:
    key = each.remat, each.scan_layers
    if key not in programs:
      programs[key] = Program(own, clips)
    # Neither the mesh, the parts of a batch nor the scan change what is computed.
    if each.remat not in flops:
      flops[each.remat] = programs[key].step_flops(programs[key].batches[0])
    return plans.make(programs[key].on(own), topology, flops=flops[each.remat])

  for each in candidates(config, topology):
    if each.place in hopeless or any(each.only_adds_to(other) for other in fitting):
      continue
    if any(each.needs_no_less_than(other) for other in too_large):
      continue
    own = changed(config, each.settings(place))
    plan = plan_of(each, own)
    # Batches that cannot be split are many, and say nothing about a candidate.
    if plan.refused or (plan.filled or 0) >= MOST_FILLED * plan.batch.rows:
      continue
    outcome = plan.error or 'not compiled'
    if plan.error is None and compile_step is not None and compiled_programs < limit:
      compiled = compile_step(own)
      compiled_programs += 1
      plan = dataclasses.replace(plan, compiled=compiled)
      fitting += [each] if compiled.error is None else []
      too_large += [each] if compiled.too_large else []
      outcome = compiled.error or 'compiled'
    elif plan.error is None and compile_step is None:
      fitting.append(each)
    elif plan.error is not None:
      hopeless.add(each.place)
    rows.append(Row(each, plan, outcome))
    report(rows[-1])
  ready = [row for row in rows if row.outcome == 'compiled']
  if not rows:
    raise InputError(
      f'The batch of the config cannot be split over the {topology.chips} chips of '
      f'{topology.name}: change config.data.batch_size or config.data.batch_multiple.'
    )
  best = min(ready, key=lambda row: row.plan.estimate.step_seconds, default=None)
  settings = best.candidate.settings(place) if best else {}
  return Found(rows, best, ' '.join(f'--config.{k}={v}' for k, v in settings.items()))

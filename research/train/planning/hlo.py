"""What a compiled program moves, read from its HLO text: collectives between chips, and bytes from
and to memory. Loop bodies count as often as they run."""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

DTYPE_BYTES = {
  'pred': 1, 's4': 0.5, 'u4': 0.5, 's8': 1, 'u8': 1, 'f8e4m3fn': 1, 'f8e5m2': 1, 'bf16': 2,
  'f16': 2, 's16': 2, 'u16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8,
}  # fmt: skip
COLLECTIVES = (
  'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all',
  'collective-permute', 'collective-broadcast',
)  # fmt: skip
# Instructions that move nothing themselves.
FREE = {
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call',
  'after-all', 'partition-id', 'replica-id', 'iota', 'opt-barrier', 'async-start', 'async-done',
  'copy-done', 'slice-done', 'all-gather-done', 'all-reduce-done', 'collective-permute-done',
}  # fmt: skip

_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z\-]+)\((.*)')
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?')
_ON_CHIP = re.compile(r'S\([12]\)')
_CALLED = re.compile(
  r'\b(body|calls|to_apply|condition|true_computation|false_computation)=%?([\w.\-]+)'
)
_LISTED = re.compile(r'\b(?:branch_computations|called_computations)=\{([^}]*)\}')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a program: its name, its result's shape as text, its operation, the names of its
  operands, and the line."""

  name: str
  shape: str
  op: str
  operands: tuple[str, ...]
  line: str


@dataclasses.dataclass
class Collectives:
  """Collectives of one kind in a step, seen by one chip.

  Attributes:
    count: how many run.
    bytes: of their results.
    wire_bytes: that a chip sends, with ring algorithms.
  """

  count: int = 0
  bytes: float = 0.0
  wire_bytes: float = 0.0


class Module:
  """A compiled program by computations."""

  def __init__(self, text: str):
    self.computations: dict[str, list[Instruction]] = {}
    self.entry = ''
    current: list[Instruction] = []
    for line in text.splitlines():
      start = None if line.startswith(' ') else _COMPUTATION.match(line)
      if start:
        current = self.computations[start[2]] = []
        self.entry = start[2] if start[1] else self.entry
        continue
      found = _INSTRUCTION.match(line)
      if found:
        name, shape, op, rest = found.groups()
        operands = tuple(re.findall(r'%([\w.\-]+)', rest.split('), ')[0]))
        current.append(Instruction(name, shape, op, operands, line))

  @functools.cached_property
  def shapes(self) -> dict[str, str]:
    """The shape of each instruction's result."""
    return {each.name: each.shape for body in self.computations.values() for each in body}

  def trips(self, loop: Instruction) -> int:
    """How often the body of a loop runs: as the compiler notes, else the largest constant that its
    condition compares with (TPU); 1 where neither is there."""
    noted = re.search(r'known_trip_count[^\d]*(\d+)', loop.line)
    if noted:
      return int(noted[1])
    condition = re.search(r'condition=%?([\w.\-]+)', loop.line)
    lines = self.computations.get(condition[1], []) if condition else []
    bounds = (re.search(r's32\[\][^=]* constant\((\d+)\)', each.line) for each in lines)
    return max((int(bound[1]) for bound in bounds if bound), default=1)

  def called(self, each: Instruction) -> Iterator[tuple[str, int]]:
    """(computation, how often it runs) of those that an instruction calls."""
    for key, name in _CALLED.findall(each.line):
      yield name, self.trips(each) if each.op == 'while' and key == 'body' else 1
    for names in _LISTED.findall(each.line):
      for name in re.findall(r'[\w.\-]+', names):
        yield name, 1

  # -- Collectives ------------------------------------------------------------------------------

  def collectives(self) -> dict[str, Collectives]:
    """Collectives of a step by kind.

    The TPU compiler copies one collective into many fusions that overlap it; copies share its
    channel, and count once.
    """
    found: dict[str, Collectives] = collections.defaultdict(Collectives)
    channels: set[str] = set()

    def walk(name: str, times: int, above: tuple[str, ...]) -> None:
      if name in above:
        return
      for each in self.computations.get(name, ()):
        kind = each.op.removesuffix('-start')
        if kind in COLLECTIVES:
          channel = re.search(r'channel_id=(\d+)', each.line)
          if channel is None or channel[1] not in channels:
            channels.update([channel[1]] if channel else [])
            self._add(found[kind], kind, each, times)
        for called, repeated in self.called(each):
          walk(called, times * repeated, (*above, name))

    walk(self.entry, 1, ())
    return dict(found)

  def _add(self, total: Collectives, kind: str, each: Instruction, times: int) -> None:
    size = shape_bytes(each.shape)
    if each.op.endswith('-start') and kind in ('all-gather', 'collective-permute'):
      # The shape of a start is that of its operands and its result.
      operands = sum(shape_bytes(self.shapes.get(name, '')) for name in each.operands)
      size = size - operands if 0 < operands < size else size / 2
    total.count += times
    total.bytes += times * size
    total.wire_bytes += times * size * _wire(kind, _group(each.line))

  # -- Memory -----------------------------------------------------------------------------------

  def memory_bytes(self) -> float:
    """Bytes that a chip reads from and writes to its memory in a step, about ± 30 %.

    Every instruction reads its operands and writes its result, but for those in on-chip memory,
    S(1) and S(2). Arrays stacked over the iterations of a loop are read and updated one slice at a
    time; that an array is one is a guess by its leading dimension.
    """
    return self._memory(self.entry, 1, 1)

  def _memory(self, name: str, times: int, trip_count: int) -> float:
    """Bytes of a computation that is executed `times` times, in a loop with this trip count."""
    total = 0.0
    for each in self.computations.get(name, ()):
      if each.op == 'while':
        trips = self.trips(each)
        body = re.search(r'\bbody=%?([\w.\-]+)', each.line)
        total += self._memory(body[1], times * trips, trips) if body else 0.0
      elif each.op in ('conditional', 'call'):
        branches = (self._memory(called, times, trip_count) for called, _ in self.called(each))
        total += max(branches, default=0.0)
      elif each.op not in FREE:
        total += times * self._moved(each, trip_count)
    return total

  def _moved(self, each: Instruction, trip_count: int) -> float:
    """Bytes that an instruction moves each time, in a loop with this trip count."""
    written = arrays(each.shape)
    if each.op in ('dynamic-slice', 'slice'):
      return 2 * sum(size for _, size in written)
    if each.op in ('copy-start', 'slice-start'):
      # Of the shape the first array is the operand, the second what is moved.
      (_, _, source), (dtype, sides, target) = _ARRAY.findall(each.shape)[:2]
      ends = [layout for layout in (source, target) if not _ON_CHIP.search(layout)]
      return len(ends) * shape_bytes(f'{dtype}[{sides}]')
    updated = self._updated(each)
    if updated is not None:  # in place: the rest of the array stays where it is
      whole, update = updated
      others = [name for i, name in enumerate(each.operands) if i != whole]
      return update + sum(s for n in others for _, s in arrays(self.shapes.get(n, '')))
    read = [array for name in each.operands for array in arrays(self.shapes.get(name, ''))]
    kept = {text for text, _ in read}

    def part(text: str, size: float, stack: bool) -> float:
      sliced = stack and trip_count > 1 and f'[{trip_count},' in text
      return size / trip_count if sliced else size

    # A stack that is read as well is updated in place.
    total = sum(part(text, size, text in kept) for text, size in written)
    return total + sum(part(text, size, True) for text, size in read)

  def _updated(self, each: Instruction) -> tuple[int | None, float] | None:
    """(number of the operand that is updated in place, None for a new array; bytes written) of an
    instruction that writes a part of an array; None of another."""
    if each.op == 'dynamic-update-slice':
      return 0, shape_bytes(self.shapes.get(each.operands[1], ''))
    fused = re.search(r'\bcalls=%?([\w.\-]+)', each.line) if each.op == 'fusion' else None
    body = {line.name: line for line in self.computations.get(fused[1], ())} if fused else {}
    root = next((line for line in body.values() if line.line.lstrip().startswith('ROOT')), None)
    while root is not None and root.op == 'bitcast':
      root = body.get(root.operands[0]) if root.operands else None
    if root is None or root.op != 'dynamic-update-slice' or not arrays(each.shape):
      return None
    array = body.get(root.operands[0])
    while array is not None and array.op == 'bitcast':
      array = body.get(array.operands[0]) if array.operands else None
    if array is None:
      return None
    update = shape_bytes(self.shapes.get(root.operands[1], ''))
    if array.op == 'parameter':
      number = re.search(r'parameter\((\d+)\)', array.line)
      return (int(number[1]), update) if number else None
    return (None, update) if 'AllocateBuffer' in array.line else None


def arrays(shape: str) -> list[tuple[str, float]]:
  """(dtype and sides, bytes) of the arrays of a shape that are in the chip's main memory."""
  found = _ARRAY.findall(shape)
  return [
    (f'{dtype}[{sides}]', shape_bytes(f'{dtype}[{sides}]'))
    for dtype, sides, layout in found
    if not _ON_CHIP.search(layout)
  ]


def shape_bytes(shape: str) -> float:
  """Bytes of the arrays in a shape."""
  return sum(
    DTYPE_BYTES[dtype] * math.prod(int(n) for n in sides.split(',') if n)
    for dtype, sides, _ in _ARRAY.findall(shape)
    if dtype in DTYPE_BYTES
  )


def _group(line: str) -> int | None:
  """Number of chips that take part in a collective; None: all."""
  listed = re.search(r'replica_groups=\{\{([\d,]+)\}', line)
  if listed:
    return len(listed[1].split(','))
  folded = re.search(r'replica_groups=\[(\d+),(\d+)\]', line)
  if folded:
    return int(folded[2])
  # Axes of a mesh: mesh['a'=4,'b'=2] {'a'}; a part of an axis is 'a':(before)size.
  named = re.search(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}', line)
  if named is None:
    return None
  sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
  axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
  return math.prod(int(part) if part else sizes[name] for name, part in axes)


def _wire(kind: str, chips: int | None) -> float:
  """Bytes that a chip sends in a ring, for one byte of the result."""
  part = 1.0 if chips is None else (chips - 1) / chips
  if kind == 'all-reduce':
    return 2 * part
  if kind == 'reduce-scatter':
    return float(chips - 1) if chips else 1.0
  return part if kind in ('all-gather', 'all-to-all', 'ragged-all-to-all') else 1.0

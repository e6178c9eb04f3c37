"""Compiles a training step for a TPU slice in a process of its own, with libtpu and no TPU.

The process is `python -m research.train.planning.compiling REQUEST RESULT`, two JSON files. Results
are kept by a hash of the lowered program, the slice and the versions of the compilers.
"""

import dataclasses
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.errors import InputError
from research.jobs import children
from research.train.planning import hlo, topology

# Several planners may run at once, and libtpu must not look for the TPU of this machine.
ENVIRONMENT = dict(ALLOW_MULTIPLE_LIBTPU_LOAD='1', TPU_SKIP_MDS_QUERY='1', JAX_PLATFORMS='cpu')

TOO_LARGE = 'does not fit'


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler says of a step, per chip.

  Attributes:
    error: why there is no program, as memory that does not suffice; the rest is then empty.
    argument_bytes: of the state and the batch.
    temporary_bytes: of activations and the like.
    hbm_bytes: that the program reserves, arguments included.
    memory_bytes: read from and written to memory in a step, see `hlo.Module.memory_bytes`.
    collectives: {kind: (count, bytes of the results, bytes sent)} of a step.
    compile_seconds: wall time of the compiler.
    key: name of the files in the cache folder.
  """

  error: str | None = None
  argument_bytes: float = 0.0
  temporary_bytes: float = 0.0
  hbm_bytes: float = 0.0
  memory_bytes: float = 0.0
  collectives: Mapping[str, tuple[int, float, float]] = dataclasses.field(default_factory=dict)
  compile_seconds: float = 0.0
  key: str = ''

  @property
  def too_large(self) -> bool:
    """Whether the memory of a chip does not suffice."""
    return self.error is not None and self.error.startswith(TOO_LARGE)


def check_installed() -> None:
  """Raises InputError where libtpu is not installed."""
  if importlib.util.find_spec('libtpu') is None:
    raise InputError(
      "Compiling for a TPU slice needs libtpu, which is not installed: pip install -e '.[plan]', "
      'or add --nocompile for what can be said without the compiler.'
    )


def compile_step(
  config: Mapping[str, Any],
  topology_name: str,
  number: int,
  folder: str | os.PathLike,
  what: str = 'train',
) -> Compiled:
  """The step of a completed config for the `number`-th of its batches, the longest is 0.

  Args:
    config: completed; its mesh must fit the slice.
    topology_name: a TPU slice.
    number: of the batch shape.
    folder: of the results, created if missing.
    what: 'train' or 'embed'.

  Raises:
    InputError: no libtpu, or the slice is not known to it.
  """
  check_installed()
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  request = dict(
    config=config, topology=topology_name, number=number, folder=str(folder), what=what
  )
  with tempfile.TemporaryDirectory() as scratch:
    asked, answer = Path(scratch) / 'request.json', Path(scratch) / 'result.json'
    asked.write_text(json.dumps(request))
    command = [sys.executable, '-m', __spec__.name, str(asked), str(answer)]
    done = subprocess.run(
      command,
      env={**children.environment(), **ENVIRONMENT},
      capture_output=True,
      text=True,
      check=False,
    )
    if not answer.exists():
      last = (done.stderr.strip().splitlines() or ['no message'])[-1]
      return Compiled(error=f'the compiler ended with code {done.returncode}: {last[:300]}')
    result = json.loads(answer.read_text())
  if 'input_error' in result:
    raise InputError(result['input_error'])
  found = {kind: tuple(figures) for kind, figures in result.pop('collectives').items()}
  return Compiled(**result, collectives=found)


def out_of_memory(message: str) -> str:
  """What the TPU compiler says of memory, in a few words."""
  used = re.search(r'Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) (\w+)', message)
  if used:
    return f'{TOO_LARGE}: {used[1]}iB of {used[2]}iB {used[3].upper()}'
  return f'{TOO_LARGE}: {" ".join(message.split())[:200]}'


# -- In the child ------------------------------------------------------------------------------


def _versions() -> str:
  names = ('jax', 'jaxlib', 'libtpu')
  return ' '.join(f'{name} {importlib.metadata.version(name)}' for name in names)


def _analysed(key: str, folder: Path) -> Compiled:
  stored = json.loads((folder / f'{key}.json').read_text())
  if stored.get('error'):
    return Compiled(error=stored['error'], key=key)
  with gzip.open(folder / f'{key}.hlo.gz', 'rt') as file:
    module = hlo.Module(file.read())
  found = module.collectives()
  return Compiled(
    **stored,
    memory_bytes=module.memory_bytes(),
    collectives={k: (c.count, c.bytes, c.wire_bytes) for k, c in sorted(found.items())},
    key=key,
  )


def _compile(lowered: Any, key: str, folder: Path) -> None:
  """Writes what `_analysed` reads, the JSON file last: where it is, the program is."""
  import jax

  start = time.perf_counter()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    stored: dict[str, Any] = {'error': out_of_memory(str(error))}
  else:
    memory = compiled.memory_analysis()
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    # The new state lies where the old one was.
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    stored = dict(
      argument_bytes=arguments,
      temporary_bytes=temporary,
      hbm_bytes=arguments + temporary + fresh + memory.generated_code_size_in_bytes,
      compile_seconds=time.perf_counter() - start,
    )
    with gzip.open(folder / f'{key}.hlo.gz', 'wt') as file:
      file.write(compiled.as_text())
  part = folder / f'{key}.{os.getpid()}.part'
  part.write_text(json.dumps(stored))
  part.replace(folder / f'{key}.json')


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
  from research.train import sharding
  from research.train.planning import embedding, program

  folder = Path(request['folder'])
  config, found = request['config'], topology.parse(request['topology'])
  mesh = sharding.make_mesh(config['mesh'], found.devices())
  train = request['what'] == 'train'
  made = program.Program(config) if train else embedding.Embedding(config, found)
  lowered = made.lower(made.batches[request['number']], mesh)
  text = f'{request["topology"]}\n{_versions()}\n{lowered.as_text()}'
  key = hashlib.sha256(text.encode()).hexdigest()[:20]
  if not (folder / f'{key}.json').exists():
    _compile(lowered, key, folder)
  return dataclasses.asdict(_analysed(key, folder))


def main(argv: list[str]) -> None:
  """Answers the request of a file."""
  try:
    answer = _answer(json.loads(Path(argv[0]).read_text()))
  except InputError as error:
    answer = {'input_error': str(error)}
  Path(argv[1]).write_text(json.dumps(answer))


if __name__ == '__main__':
  children.die_together()
  main(sys.argv[1:])

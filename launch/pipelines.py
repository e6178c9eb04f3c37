"""Commands in parts that do not know of each other, and as Apache Beam pipelines of such parts.

An element of a pipeline is a part, `python -m launch.NAME … --part=I/N` in a process of its own. A
runner may start it several times: what is done is kept. All workers see the data and `--out` on one
disk, under the same paths. Needs the [beam] extra.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch import command
from research.errors import InputError

INSTALL = "pip install 'oido[beam]'"
_OWN = ('part', 'beam', 'beam_parts')


def define_flags(what: str) -> None:
  """Defines --part and --beam; `what` names of what a part has every N-th."""
  flags.DEFINE_string('part', '0/1', f'I/N: only every N-th {what}, from number I')
  flags.DEFINE_string(
    'beam',
    None,
    'run as an Apache Beam pipeline with these options: --beam="--runner=FlinkRunner …"',
  )
  command.shared('part', 'beam')


def part() -> tuple[int, int]:
  """(I, N) of --part.

  Raises:
    InputError: it is no I/N, or several processes run that know of each other.
  """
  values = flags.FLAGS
  index, _, count = values.part.partition('/')
  if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
    raise InputError(
      f'--part={values.part}: give I/N with I from 0 to N - 1, as 0/4, 1/4, 2/4 and 3/4.'
    )
  if int(count) > 1 and _several():
    raise InputError('--part is for runs that do not know of each other: no --num_processes.')
  return int(index), int(count)


def _several() -> bool:
  values = flags.FLAGS
  return bool(values.distributed or values.num_processes)


def run(module: str, parts: int, own: Sequence[str] = (), file: Path | None = None) -> None:
  """Runs this command as a pipeline of `parts` parts, with its flags.

  Args:
    module: of the command, as 'launch.embed'.
    parts: how many.
    own: flags for the parts only.
    file: what the last part writes; a part that is started once more then has nothing to do.

  Raises:
    InputError: Apache Beam is not installed, a flag does not go with it, or a part failed.
  """
  values = flags.FLAGS
  if values.part != '0/1' or _several():
    raise InputError('--beam divides the work itself: no --part and no --num_processes with it.')
  try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError:
    raise InputError(f'A Beam pipeline needs Apache Beam, not installed: {INSTALL}.') from None
  args = [values[n].serialize() for n in values if values[n].present and n not in _OWN]
  how = dict(module=module, args=[*args, *own], file=str(file or ''))
  try:
    with beam.Pipeline(options=PipelineOptions(values.beam.split())) as pipeline:
      numbers = pipeline | 'Parts' >> beam.Create([(i, parts) for i in range(parts)])
      numbers | 'Spread' >> beam.Reshuffle() | 'Run' >> beam.Map(run_part, **how)
  except Exception as error:
    said = re.search(r'part \d+/\d+: .*?(?=\\n|\n| \[while|$)', str(error))
    raise InputError(f'The pipeline failed: {said[0] if said else error}') from error


def run_part(number: tuple[int, int], module: str, args: Sequence[str], file: str) -> None:
  """One part, on a worker.

  Raises:
    RuntimeError: it failed; the message is its last line.
  """
  if file and Path(file).exists():
    return
  name = f'{number[0]}/{number[1]}'
  done = subprocess.run(
    [sys.executable, '-m', module, *args, f'--part={name}'], capture_output=True, text=True
  )
  if done.returncode:
    last = (done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]
    raise RuntimeError(f'part {name}: {last.removeprefix("error: ")}')

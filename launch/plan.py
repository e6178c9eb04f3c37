r"""What a run would need on a TPU slice or GPU cluster, without one: memory, collectives, time.

python -m launch.plan --config=experiments/audio_mae/audioset_base.py --topology=v5e:8x8 \
  --config.mesh.fsdp=4

The step is compiled for the slice by libtpu, which is the [plan] extra and runs on a CPU for some
minutes; --nocompile leaves that out. Times are estimates: lower bounds, see
research/train/planning/estimate.py. GPU clusters (--topology=h100:2x8, hosts x GPUs) are never
compiled. --what=embed plans launch.embed with the model of the config, --what=sample what a prior
of Jukebox needs to write music, or an audio language model to answer.
"""

import dataclasses
import os

from absl import flags

from launch import command
from research.errors import InputError
from research.jobs.cache import cache_folder

CONFIG = command.config_flag()
TOPOLOGY = flags.DEFINE_string('topology', None, 'v5e:8x8, v5p:4x4x4, 2xv5e:16x16, h100:2x8, …')
COMPILE = flags.DEFINE_bool('compile', True, 'Compile the step for the slice (TPU only).')
WHAT = flags.DEFINE_enum(
  'what', 'train', ['train', 'embed', 'sample'],
  'Training steps, what launch.embed runs, or writing: music (Jukebox) or answers.',
)  # fmt: skip
ROWS = flags.DEFINE_integer(
  'rows', None, 'Windows or prompts that are written at once, with --what=sample.', lower_bound=1
)
SEARCH = flags.DEFINE_bool('search', False, 'Try mesh, accumulate, remat and scan_layers.')
LIMIT = flags.DEFINE_integer('search_limit', 8, 'Programs to compile in a search.', lower_bound=1)
LENGTHS = flags.DEFINE_enum('lengths', 'longest', ['longest', 'all'], 'Which length buckets.')
CLIPS = flags.DEFINE_integer(
  'clips', None, 'Number of training clips, for recipes in epochs.', lower_bound=1
)
OUT = flags.DEFINE_string('out', str(cache_folder() / 'plan'), 'Folder of compiled results.')
command.required('config', 'topology')


def _search(config, topology, compile_step):
  from research.train.planning import plan, search

  def show(row):
    each, best = row.candidate, row.plan.estimate
    step = f'>= {1e3 * best.step_seconds:.3g} ms {best.bound}' if row.outcome == 'compiled' else ''
    held = plan.gigabytes(sum(row.plan.state_bytes.values()))
    print(
      f'{each.data:>4} {each.fsdp:>4} {each.tensor:>6} {each.accumulate:>10} {each.remat!s:>5} '
      f'{each.scan_layers!s:>5} {held:>8}  {row.outcome} {step}',
      flush=True,
    )

  print('data fsdp tensor accumulate remat  scan    state  (step times are estimates)')
  found = search.search(
    config, topology, compile_step=compile_step, clips=CLIPS.value, limit=LIMIT.value, report=show
  )
  if found.best is not None:
    print(f'\n{plan.table(found.best.plan.rows())}\nrecommended: {found.flags}')
  elif compile_step is not None:
    print('Nothing that was tried fits: take more chips, or a larger --search_limit.')
  else:
    print('Nothing is recommended without compiling: whether activations fit is not known.')


def _plan(config, topology, compiled_batch):
  from research.train.planning import embedding, plan, program

  made: program.Program | embedding.Embedding
  if WHAT.value == 'embed':
    made = embedding.Embedding(config, topology, CLIPS.value)
  else:
    made = program.Program(config, CLIPS.value)
  numbers = range(len(made.batches) if LENGTHS.value == 'all' else 1)
  for number in numbers:
    found = plan.make(made, topology, number)
    if compiled_batch is not None and found.error is None:
      found = dataclasses.replace(found, compiled=compiled_batch(config, number))
    print(plan.table(found.rows()), flush=True)


def main(argv):
  del argv
  # Planning uses no accelerator, of which this machine may have one.
  os.environ.update(JAX_PLATFORMS='cpu', TPU_SKIP_MDS_QUERY='1')
  from research.train.config import complete
  from research.train.planning import compiling
  from research.train.planning import topology as topologies

  topology = topologies.parse(str(TOPOLOGY.value))
  config = complete(CONFIG.value)
  compiles = COMPILE.value and topology.chip.platform == 'tpu' and WHAT.value != 'sample'
  if compiles:
    compiling.check_installed()

  def compile_step(config, number=0):
    return compiling.compile_step(config, topology.name, number, OUT.value, WHAT.value)

  if SEARCH.value and WHAT.value != 'train':
    raise InputError(f'--search is for training: --what={WHAT.value} has nothing to choose.')
  if WHAT.value == 'sample':
    from research.train.planning import plan, sampling

    print(plan.table(sampling.Sampling(config, topology, ROWS.value).rows_of_table()), flush=True)
    return
  if SEARCH.value:
    _search(config, topology, compile_step if compiles else None)
  else:
    _plan(config, topology, compile_step if compiles else None)


if __name__ == '__main__':
  command.run(main)

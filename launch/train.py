r"""Trains the model of a config file.

python -m launch.train --config=experiments/audio_mae/builtin_tiny.py --workdir=runs/tiny \
  --config.optim.lr=1e-3

Running the same command again resumes from the newest checkpoint. For a multi-host run start it
once on each host, with --coordinator=HOST:PORT --num_processes=N --process_id=I (on TPU pods and
under Slurm just --distributed).

SIGTERM, or Ctrl-C, to one process stops all after a step that is saved. Exit codes: 0 finished, 2
bad input (starting again does not help), 4 another process has ended, 75 stopped before the last
step (start again).
"""

import sys

from absl import flags

from launch import command

CONFIG = command.config_flag()
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run (created if missing).')
REQUEUE_CODE = flags.DEFINE_integer(
  'requeue_code',
  None,
  'Exit code of a run that a signal has stopped before its last step. Default: 0 for one process, '
  '75 for several.',
  lower_bound=0,
  upper_bound=255,
)
command.required('config', 'workdir')
command.distributed_flags()


def main(argv):
  del argv
  command.start_jax()
  import jax

  from research.train import loop

  result = loop.train(CONFIG.value, str(WORKDIR.value))
  if not result.finished:
    code = REQUEUE_CODE.value
    if code is None:
      code = command.UNFINISHED if jax.process_count() > 1 else 0
    sys.exit(code)
  elif jax.process_index() == 0:
    from research.report import run

    print(f'report: {run.write_report(str(WORKDIR.value))}', flush=True)


if __name__ == '__main__':
  command.run(main)

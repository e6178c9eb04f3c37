r"""Trains what a config file describes.

python -m launch.train --config=experiments/audio_mae/builtin_tiny.py --workdir=runs/tiny \
  --config.optim.lr=1e-3

The same command again goes on from the newest checkpoint. On several hosts start it once on each,
with --coordinator=HOST:PORT --num_processes=N --process_id=I (on TPU pods and under Slurm:
--distributed alone).
"""

from absl import flags

from launch import command

CONFIG = command.config_flag()
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run (made when missing).')
command.required('config', 'workdir')
command.distributed_flags()


def main(argv):
  del argv
  command.start_jax()
  from research.train import loop

  result = loop.train(CONFIG.value, str(WORKDIR.value))
  if result.finished:
    from research.report import run

    print(f'report: {run.write_report(str(WORKDIR.value))}', flush=True)


if __name__ == '__main__':
  command.run(main)

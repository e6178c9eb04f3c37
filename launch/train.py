r"""Trains the model of a config file.

python -m launch.train --config=experiments/audio_mae/builtin_tiny.py --workdir=runs/tiny \
  --config.optim.lr=1e-3

Running the same command again resumes from the newest checkpoint. For a multi-host run start it
once on each host, with --coordinator=HOST:PORT --num_processes=N --process_id=I (on TPU pods and
under Slurm just --distributed).
"""

from absl import flags

from launch import command

CONFIG = command.config_flag()
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run (created if missing).')
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

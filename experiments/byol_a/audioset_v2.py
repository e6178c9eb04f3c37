"""BYOL-A v2 pre-trained on AudioSet: the published recipe (arXiv 2204.07402).

python -m launch.train --config=experiments/byol_a/audioset_v2.py --workdir=DIR \
  --config.data.root=/data/AudioSet

`:debug` is a few steps of a narrow model on the built-in corpus. The authors report 72.4 as the
mean of linear evaluations on ten tasks, 57.6 on VoxCeleb1 (abstract of the paper). Not reproduced
here: the data is not included.

Numbers: v2/config_v2.yaml and v2/train_v2.py of nttcslab/byol-a, commit 3e65c92. There the input is
normalised by statistics of 10,000 crops drawn before training; here by running statistics of the
first 10,000 training crops. To use statistics of your data:
--config.model.args.norm=frontend --config.model.args.frontend.mean=… (and std)
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"audioset_v2.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 42
  config.epochs = 100

  config.data = dict(
    source='audioset',
    split='train',
    sample_rate=16_000,
    seconds=0.95,
    crop='random',
    batch_size=256,
    num_threads=16,
  )
  config.model = dict(
    name='byol_a',
    args=dict(
      size='v2',
      frontend=dict(name='byol_a_v2', mean=0.0, std=1.0),
      norm='running',
      norm_clips=10_000,
      padding='end',
    ),
  )
  config.objective = dict(name='bootstrap', args=dict())
  config.teacher = dict(decay=0.99, forward=True)
  # Adam as in torch.
  config.optim = dict(name='adamw', lr=1e-4, weight_decay=0.0, schedule=dict(name='constant'))
  config.evals = dict()
  config.watch = dict(
    projection_std=dict(min=0.05, after=200), effective_rank=dict(min=1.1, after=200)
  )
  config.log_every = 50
  config.checkpoint = dict(every=2000, keep=2)

  if arg == 'debug':
    config.epochs = None
    config.total_steps = 3
    config.data.update(source='builtin', batch_size=8, num_threads=2)
    config.model.args.update(
      channels=16, hidden=32, width=32, projection=16, projection_hidden=32, bank=12
    )
    config.log_every = 1
    config.checkpoint.every = 2
  return config

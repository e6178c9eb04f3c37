"""BYOL-A pre-trained on FSD50K: the AudioSet recipes on 36,796 to 40,966 clips.

python -m launch.train --config=experiments/byol_a/fsd50k.py:v1_d512 --workdir=DIR \
  --config.data.root=/data/FSD50K

Variants: `:v2` (default), `:v1_d512`, `:v1_d1024`, `:v1_d2048`; `:debug` is a few steps of a narrow
model on the built-in corpus. Upstream trains on the development set (example of train_v2.py); its
README has no scores for it.

Numbers: config.yaml, v2/config_v2.yaml of nttcslab/byol-a, commit 3e65c92; see audioset_v1.py and
audioset_v2.py for differences.
"""

import ml_collections


def get_config(arg='v2'):
  size = arg or 'v2'
  if size not in ('v1_d512', 'v1_d1024', 'v1_d2048', 'v2', 'debug'):
    raise ValueError(f'fsd50k.py has no variant {arg!r}: v1_d512, v1_d1024, v1_d2048, v2 or debug.')
  first = size.startswith('v1')
  config = ml_collections.ConfigDict()
  config.seed = 42
  config.epochs = 100

  config.data = dict(
    source='fsd50k',
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
      size='v2' if size == 'debug' else size,
      padding='both' if first else 'end',
      # v1: 10 x 2 x number of files.
      norm_clips=20 * 36_796 if first else 10_000,
    ),
  )
  config.objective = dict(name='bootstrap', args=dict())
  config.teacher = dict(decay=0.99, forward=True)
  # Adam as in torch.
  config.optim = dict(
    name='adamw', lr=3e-4 if first else 1e-4, weight_decay=0.0, schedule=dict(name='constant')
  )
  config.evals = dict(
    valid=dict(name='validation', every=1000, data=dict(split='valid'), batches=8)
  )
  config.watch = dict(
    projection_std=dict(min=0.05, after=200), effective_rank=dict(min=1.1, after=200)
  )
  config.log_every = 50
  config.checkpoint = dict(every=1000, keep=2)

  if size == 'debug':
    config.epochs = None
    config.total_steps = 3
    config.data.update(source='builtin', batch_size=8, num_threads=2)
    config.model.args.update(
      channels=16, hidden=32, width=32, projection=16, projection_hidden=32, bank=12
    )
    config.evals.valid.update(every=2, batches=1)
    config.log_every = 1
    config.checkpoint.every = 2
  return config

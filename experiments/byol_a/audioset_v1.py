"""BYOL-A pre-trained on AudioSet: the published recipe of v1 (arXiv 2103.06695).

python -m launch.train --config=experiments/byol_a/audioset_v1.py --workdir=DIR \
  --config.data.root=/data/AudioSet

Variants: `:d2048` (default), `:d1024`, `:d512`; `:debug` is a few steps of a narrow model on the
built-in corpus.

100 epochs of 1.96 million clips at batch 256 are 767,200 updates (the counter in the released
file). Linear evaluation of the authors, d2048: NSynth 74.1, UrbanSound8K 79.1, VoxCeleb1 40.1,
VoxForge 90.2, Speech Commands 91.0 (12 words) and 92.2 (35), 77.8 on average; d512 73.3 (README of
nttcslab/byol-a, commit 3e65c92). Not reproduced here: the data is not included.

Numbers: config.yaml and train.py of that commit; the front-end is that of the released weights
(librosa's). Upstream, every worker resets its statistics and its memory bank after each epoch; here
both persist.
"""

import ml_collections

# Published: encoder 5,321,856; projector 9,449,728; predictor 2,109,696.
PARAMETERS = {'': 16_881_280}


def get_config(arg='d2048'):
  size = arg or 'd2048'
  if size not in ('d512', 'd1024', 'd2048', 'debug'):
    raise ValueError(f'audioset_v1.py has no variant {arg!r}: d512, d1024, d2048 or debug.')
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
      size='v1_d512' if size == 'debug' else f'v1_{size}',
      padding='both',
      # 10 x 2 x number of files.
      norm_clips=39_280_000,
    ),
  )
  config.objective = dict(name='bootstrap', args=dict())
  config.teacher = dict(decay=0.99, forward=True)
  # Adam as in torch.
  config.optim = dict(name='adamw', lr=3e-4, weight_decay=0.0, schedule=dict(name='constant'))
  config.evals = dict()
  config.watch = dict(
    projection_std=dict(min=0.05, after=200), effective_rank=dict(min=1.1, after=200)
  )
  config.log_every = 50
  config.checkpoint = dict(every=2000, keep=2)

  if size == 'debug':
    config.epochs = None
    config.total_steps = 3
    config.data.update(source='builtin', batch_size=8, num_threads=2)
    config.model.args.update(
      channels=16, hidden=32, width=32, projection=16, projection_hidden=32, bank=12
    )
    config.log_every = 1
    config.checkpoint.every = 2
  return config

"""AST, tiny, on a subset of Speech Commands, from an AudioMAE that has learned without labels or
from nothing: what a laptop learns in ten minutes.

export OIDO_DATA=/data
python -m launch.train --config=experiments/audio_mae/laptop.py --workdir=runs/laptop
python -m launch.train --config=experiments/ast/laptop.py --workdir=runs/ast \
  --config.init.path=runs/laptop
python -m launch.train --config=experiments/ast/laptop.py --workdir=runs/ast-scratch \
  --config.init=None

$OIDO_DATA holds the folder speech_commands_v2_test with its labels.csv (path, label, fold); folds 0
to 3 train, fold 4, of other speakers, judges. Patches are those of the AudioMAE, 16 by 16 side by
side, not the published overlapping ones; positions begin as its fixed ones, both class tokens are
new. Results are in experiments/notes/audio_mae.md. `:debug` runs on the built-in corpus.
"""

import os

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"laptop.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1200

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=f'{root}/speech_commands_v2_test',
    split=None,
    where=dict(fold=['0', '1', '2', '3']),
    fields=dict(label='label'),
    sample_rate=16_000,
    seconds=1.0,
    batch_size=32,
  )
  config.model = dict(
    name='finetuned',
    args=dict(
      encoder=dict(
        name='ast',
        args=dict(
          size='tiny',
          frames=112,
          time_stride=16,
          frequency_stride=16,
          padding='masked',
          freq_mask=24,
          time_mask=24,
        ),
      ),
      head=dict(
        name='classifier',
        args=dict(classes=12, pooling='cls', norm=True, norm_epsilon=1e-5, init_std=0.02),
      ),
    ),
  )
  # The class token of AudioMAE stands for another place.
  config.init = dict(path=None, include='^params/encoder/', exclude='token', statistics='same')
  config.objective = dict(name='cross_entropy')
  config.optim = dict(
    name='adamw',
    lr=5e-4,
    b1=0.9,
    b2=0.95,
    weight_decay=0.05,
    schedule=dict(name='cosine', warmup_steps=120),
  )
  config.evals = dict(
    valid=dict(
      name='validation', every=300, data=dict(split=None, where=dict(fold='4'), crop='start')
    )
  )
  config.log_every = 20
  config.checkpoint = dict(every=300, keep=2)

  if arg == 'debug':
    config.total_steps = 3
    config.data.update(source='builtin', split='train', batch_size=8)
    with config.ignore_type():
      config.data.where = dict(kind='digit')
    config.init = None
    config.model.args.encoder.args.update(width=32, depth=2, heads=2)
    config.model.args.head.args.classes = 10
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data = dict(split='valid', where=dict(kind='digit'))
    config.log_every = 1
    config.checkpoint.every = 2
  return config

"""A language model of the units of spoken digits, conditioned on digit and speaker, on a laptop.

export OIDO_DATA=/data
python -m launch.label_kmeans --features=mfcc --clusters=100 --input=$OIDO_DATA/fsdd \
  --split=train --out=runs/mfcc
python -m launch.train --config=experiments/code_lm/fsdd_units.py --workdir=runs/code_lm \
  --config.data.fields.units=runs/mfcc/units

Of the codes of a VQ-VAE, which make audio of what it writes (`:vq_vae`):

python -m launch.codec --model=runs/vq_vae --format=units --input=$OIDO_DATA/fsdd --out=runs/codes
python -m launch.train --config=experiments/code_lm/fsdd_units.py:vq_vae --workdir=runs/code_lm \
  --config.data.fields.units=runs/codes
python -m launch.generate --model=runs/code_lm --parts=codec=runs/vq_vae \
  --labels=label=7,speaker=theo --count=4 --seconds=1 --out=heard

$OIDO_DATA holds the folder fsdd with its labels.csv (path, label, speaker, split). Metrics are nats
a unit; units of other encoders have another label_rate (HuBERT: 50). Not measured yet. `:debug`
runs on the built-in corpus.
"""

import os

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'vq_vae', 'debug'):
    raise ValueError(f"fsdd_units.py has no variant {arg!r}: give nothing, 'vq_vae' or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1500

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=f'{root}/fsdd',
    split='train',
    fields=dict(
      units=None,
      label=dict(name='label', args=dict(column='label')),
      speaker=dict(name='label', args=dict(column='speaker')),
    ),
    sample_rate=16_000,
    seconds=1.0,
    crop='start',
    batch_size=32,
  )
  config.model = dict(
    name='code_lm',
    args=dict(
      size='tiny',
      num_clusters=100,
      label_rate=100.0,
      max_steps=256,
      conditions=dict(label=10, speaker=6),
    ),
  )
  config.objective = dict(name='next_codes', args={})
  config.optim = dict(
    name='adamw',
    lr=1e-3,
    b1=0.9,
    b2=0.95,
    weight_decay=0.1,
    clip_norm=1.0,
    schedule=dict(name='cosine', warmup_steps=100),
  )
  config.evals = dict(
    valid=dict(name='validation', every=250, data=dict(split='test', batch_size=32)),
  )
  config.watch = {}
  config.log_every = 25
  config.checkpoint = dict(every=250, keep=2, best='valid/cross_entropy')

  if arg == 'vq_vae':
    # Of experiments/vq_vae/laptop.py: 128 codes, one for 64 samples at 8 kHz.
    config.data.sample_rate = 8000
    config.model.args.update(num_clusters=128, label_rate=125.0, frontend=dict(sample_rate=8000))
  if arg == 'debug':
    config.total_steps = 3
    config.data.update(source='builtin', where=dict(kind='digit'), batch_size=8)
    config.model.args.update(width=32, depth=2, heads=2, hidden=64)
    config.model.args.conditions = dict(label=10, speaker=25)
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data = dict(split='valid', where=dict(kind='digit'), batch_size=4)
    config.log_every = 1
    config.checkpoint.every = 2
  return config

"""BYOL-A, d = 512, on Speech Commands, ESC-10 and FSDD: what a laptop learns in half an hour.

export OIDO_DATA=/data
python -m launch.train --config=experiments/byol_a/laptop.py --workdir=runs/byol
python -m launch.evaluate --model=runs/byol --tasks=esc10,fsdd,fsdd_speaker,speech_commands \
  --protocol=probe,logistic,knn --out=runs/byol-scores

$OIDO_DATA holds the folders speech_commands_v2_test, esc10 and fsdd, each with a labels.csv (path,
label, split or fold). Training uses no labels. Tasks with folds have no training split: all their
clips are used, without labels; of FSDD only the training clips are. Results are in
experiments/notes/byol_a.md. `:debug` runs on the built-in corpus.

The model is v1 (arXiv 2103.06695) at its published width, with a smaller projector, batch and
memory bank. Short clips are repeated, not padded, and the EMA decay is larger than published; for
the reasons see experiments/notes/byol_a.md.
"""

import os

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"laptop.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1000

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    # Windows of one second, so that sampling is uniform over time.
    source=[
      dict(name=f'{root}/speech_commands_v2_test', args=dict(cut_seconds=1.0)),
      dict(name=f'{root}/esc10', args=dict(cut_seconds=1.0)),
      dict(name=f'{root}/fsdd', args=dict(split='train')),
    ],
    split=None,
    sample_rate=16_000,
    seconds=0.95,
    crop='random',
    batch_size=64,
  )
  config.model = dict(
    name='byol_a',
    args=dict(
      size='v1_d512', padding='repeat', norm_clips=10_000, bank=512, projection_hidden=1024
    ),
  )
  config.objective = dict(name='bootstrap', args=dict())
  config.teacher = dict(decay=0.9995, forward=True)
  config.optim = dict(
    name='adamw', lr=1e-3, weight_decay=0.0, schedule=dict(name='cosine', warmup_steps=50)
  )
  config.evals = dict()
  config.watch = dict(
    projection_std=dict(min=0.05, after=200), effective_rank=dict(min=1.1, after=200)
  )
  config.log_every = 10
  config.checkpoint = dict(every=400, keep=2)

  if arg == 'debug':
    config.total_steps = 3
    with config.ignore_type():  # a name instead of a list
      config.data.source = 'builtin'
    config.data.batch_size = 8
    config.model.args.update(
      channels=16, hidden=32, width=32, projection=16, projection_hidden=32, bank=12
    )
    config.optim.schedule.warmup_steps = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config

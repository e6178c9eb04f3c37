"""Text to speech of spoken digits, on a laptop: characters to codes, in the voice of a speaker.

export OIDO_DATA=/data
python -m launch.train --config=experiments/vq_vae/laptop.py --workdir=runs/vq_vae
python -m launch.codec --model=runs/vq_vae --format=units --input=$OIDO_DATA/fsdd --out=runs/codes
python -m launch.train --config=experiments/code_lm/fsdd_speech.py --workdir=runs/speak \
  --config.data.fields.units=runs/codes
python -m launch.speak --model=runs/speak --parts=codec=runs/vq_vae --labels=speaker=theo \
  --text=7 --count=4 --out=heard

`:units` learns units of MFCC (launch.label_kmeans --features=mfcc --clusters=100) instead, of which
a WaveNet of units would make audio. `:convert` reads such units in the place of a text, and writes
codes in another voice: any recording is said again (launch.convert_voice); its text is
--config.data.fields.text.args.path=runs/mfcc/units.

$OIDO_DATA holds the folder fsdd with its labels.csv (path, label, speaker, split). The digit is the
text, as a word. Attention learns to follow it (objective next_codes, alignment), by which
launch.speak finds what is skipped or said twice. Figures are in experiments/notes/code_lm.md.
`:debug` runs on the built-in corpus.
"""

import os

import ml_collections

SPEAKERS = ('george', 'jackson', 'lucas', 'nicolas', 'theo', 'yweweler')


def get_config(arg=''):
  if arg not in ('', 'units', 'convert', 'debug'):
    raise ValueError(
      f"fsdd_speech.py has no variant {arg!r}: give nothing, 'units', 'convert' or 'debug'."
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1500

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=f'{root}/fsdd',
    split='train',
    fields=dict(
      units=None,
      text=dict(name='spoken', args=dict(column='label')),
      speaker=dict(name='label', args=dict(column='speaker')),
    ),
    sample_rate=8000,
    seconds=1.0,
    batch_size=32,
  )
  # Codes of experiments/vq_vae/laptop.py: 128, one for 64 samples at 8 kHz.
  config.model = dict(
    name='code_lm',
    args=dict(
      size='tiny',
      frontend=dict(sample_rate=8000),
      num_clusters=128,
      label_rate=125.0,
      max_steps=320,
      conditions=dict(speaker=SPEAKERS),
      text=dict(alphabet='english', depth=2, max_tokens=64),
    ),
  )
  config.objective = dict(name='next_codes', args=dict(alignment=0.1))
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

  if arg in ('units', 'debug'):
    config.data.sample_rate = 16_000
    config.model.args.update(
      frontend=dict(sample_rate=16_000), num_clusters=100, label_rate=100.0, max_steps=256
    )
  if arg == 'convert':
    config.data.fields.text = dict(name='unit_text', args=dict(path='runs/mfcc/units'))
    config.model.args.text = dict(units=100, depth=2, max_tokens=128)
  if arg == 'debug':
    config.total_steps = 3
    config.data.update(source='builtin', where=dict(kind='digit'), batch_size=8)
    config.model.args.update(width=32, depth=2, heads=2, hidden=64)
    config.model.args.conditions = dict(speaker=25)
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data = dict(split='valid', where=dict(kind='digit'), batch_size=4)
    config.log_every = 1
    config.checkpoint.every = 2
  return config

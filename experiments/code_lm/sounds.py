"""Sounds and music from words, or like a recording: codes conditioned on the vectors of a CLAP.

export OIDO_DATA=/data   # contains the folder esc10
python -m launch.train --config=experiments/encodec/laptop.py --workdir=runs/codec
python -m launch.train --config=experiments/clap/laptop.py --workdir=runs/clap
python -m launch.codec --model=runs/codec --format=units --input=$OIDO_DATA/esc10 --out=runs/codes
python -m launch.embed --model=runs/clap --joint --input=$OIDO_DATA/esc10 --out=runs/clap.npz
python -m launch.train --config=experiments/code_lm/sounds.py --workdir=runs/sounds \
  --config.data.fields.units=runs/codes --config.data.fields.clap.args.path=runs/clap.npz
python -m launch.generate --model=runs/sounds --parts=codec=runs/codec,clap=runs/clap \
  --labels='clap=This is a sound of rain.' --options=guidance=3,top_k=64 --seconds=5 --out=heard
python -m launch.score_sounds --input=heard --real=$OIDO_DATA/esc10 --clap=runs/clap --joint \
  --text=clap

CLAP gives vectors of recordings in training; at use of words, or of a recording (`clap=rain.wav`),
as both lie in one space. No captions are needed. Training drops the vector of every fifth clip, so
that `guidance` can strengthen it, and without a CLAP sounds come from nothing.

The default is a laptop's: ESC-10, folds 1 to 4, codes of a small EnCodec. `:music` has the figures
of MusicGen's 300M (arXiv 2306.05284, section 3: 30 s, 4 codebooks of 2048 at 50 Hz with delays,
batches of 192, AdamW with betas 0.9 and 0.95, decay 0.1, clipping at 1, cosine after 4000 steps, a
million steps, averaged weights; guidance 3 and top-k 250 at use), conditioned on vectors of CLAP of
512 numbers in the place of T5's states; data are a folder of music with its codes. `:fsd50k` is the
same for sounds of up to 10 s. Neither was run: there is no score to expect. `:debug` is a few steps
on the built-in corpus.
"""

import os

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'music', 'fsd50k', 'debug'):
    raise ValueError(
      f"sounds.py has no variant {arg!r}: give nothing, 'music', 'fsd50k' or 'debug'."
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 3000

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=dict(name=f'{root}/esc10', args=dict(where=dict(fold=['1', '2', '3', '4']))),
    split=None,
    fields=dict(units=None, clap=dict(name='vectors', args=dict(path='runs/clap.npz'))),
    sample_rate=16_000,
    seconds=5.0,
    batch_size=16,
  )
  # Codes of experiments/encodec/laptop.py.
  config.model = dict(
    name='code_lm',
    args=dict(
      size='tiny',
      frontend=dict(sample_rate=16_000),
      num_clusters=(256,) * 8,
      label_rate=50.0,
      max_steps=320,
      vectors=dict(clap=128),
      condition_dropout=0.2,
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
    schedule=dict(name='cosine', warmup_steps=200),
  )
  config.evals = dict(
    valid=dict(
      name='validation', every=500, data=dict(split=None, where=dict(fold='5'), batch_size=16)
    )
  )
  config.watch = {}
  config.log_every = 25
  config.checkpoint = dict(every=500, keep=2, best='valid/cross_entropy')

  if arg in ('music', 'fsd50k'):
    config.total_steps = 1_000_000
    with config.ignore_type():  # a name instead of a source with a condition
      config.data.source = f'{root}/{arg}'
    config.data.update(split='train', sample_rate=32_000, seconds=30.0, batch_size=192)
    config.data.num_threads = 16
    config.model.args.update(
      size='small', frontend=dict(sample_rate=32_000), num_clusters=(2048,) * 4, max_steps=1536,
      vectors=dict(clap=512), dtype='bfloat16',
    )  # fmt: skip
    config.optim.update(lr=1e-4)
    config.optim.schedule.warmup_steps = 4000
    config.evals.valid.update(every=5000, batches=20, data=dict(split='valid', batch_size=16))
    config.log_every = 100
    config.checkpoint.every = 5000
  if arg == 'fsd50k':
    config.data.seconds = 10.0
    config.model.args.max_steps = 512
  if arg == 'debug':
    config.total_steps = 3
    with config.ignore_type():
      config.data.source = 'builtin'
      config.model.args.num_clusters = 50
    config.data.update(where=dict(kind='event'), split='train', batch_size=8, seconds=1.0)
    config.data.fields.clap = None
    config.model.args.update(width=32, depth=2, heads=2, hidden=64, max_steps=128)
    config.model.args.vectors = dict()
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data = dict(split='valid', where=dict(kind='event'), batch_size=4)
    config.log_every = 1
    config.checkpoint.every = 2
  return config

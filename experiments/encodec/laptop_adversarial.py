"""EnCodec, small, at 16 kHz on speech, against a discriminator.

export OIDO_DATA=/data
python -m launch.train --config=experiments/encodec/laptop_adversarial.py --workdir=runs/codec
python -m launch.codec --model=runs/codec --format=npz --input=/path/to/speech --out=codes

The losses, their balance, the two optimisers and the bandwidth of every batch are those of the
published recipe (mixed_24khz.py); codec, discriminator and batch are small. $OIDO_DATA holds the
folders speech_commands_v2_test and fsdd. `:debug` runs on the built-in corpus. It has neither been
timed nor run to its end: there is no score to expect.
"""

import os

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"laptop_adversarial.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 3000

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=[
      dict(name=f'{root}/speech_commands_v2_test', args=dict(cut_seconds=1.0)),
      dict(name=f'{root}/fsdd', args=dict(split='train')),
    ],
    split=None,
    sample_rate=16_000,
    seconds=0.5,
    crop='random',
    batch_size=8,
  )
  # 200 frames a batch: small codebooks.
  config.model = dict(
    name='encodec',
    args=dict(
      size='small',
      n_filters=8,
      codebook_size=64,
      bandwidths=(0.6, 1.2, 2.4),
      discriminator=dict(n_ffts=(1024, 512, 256), filters=8, slope=0.2),
    ),
  )
  config.objective = dict(
    name='codec_adversarial',
    args=dict(
      sample_rate=16_000,
      l1=0.1,
      mel=1.0,
      adversarial=3.0,
      features=3.0,
      commitment=1.0,
      scales=(5, 12),
      bins=64,
      worker_clips=8,
    ),
  )
  config.optim = dict(
    name='adam',
    lr=3e-4,
    b1=0.5,
    b2=0.9,
    groups=dict(critic=dict(match='^critic/', probability=2 / 3)),
    schedule=dict(name='constant', warmup_steps=200),
  )
  config.watch = dict(
    min_code_usage=dict(min=0.1, after=1000),
    discriminator_loss=dict(min=0.05, after=500, patience=10, says='the discriminator always wins'),
  )
  config.evals = dict()
  config.log_every = 10
  config.checkpoint = dict(every=500, keep=2)

  if arg == 'debug':
    config.total_steps = 3
    with config.ignore_type():  # a name instead of a list
      config.data.source = 'builtin'
    config.data.update(batch_size=4, seconds=0.25)
    config.model.args.update(n_filters=4, dimension=8, quantizers=2, codebook_size=16, lstm=1)
    config.model.args.bandwidths = (0.2, 0.4)
    config.model.args.discriminator.update(n_ffts=(256, 128), filters=4)
    config.objective.args.update(scales=(6, 9), bins=16)
    config.optim.schedule.warmup_steps = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config

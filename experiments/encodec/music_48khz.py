"""EnCodec at 48 kHz, stereo, on music: the published recipe (arXiv 2210.13438).

export OIDO_DATA=/data
python -m launch.train --config=experiments/encodec/music_48khz.py --workdir=DIR
python -m launch.codec --model=DIR --bandwidth=6 --input=/path/to/music --out=codes

$OIDO_DATA/jamendo is a folder of music, or of shards (launch.prepare_data). `:debug` is a few steps
of a small model on the built-in corpus.

The input pipeline mixes every clip to mono, and both channels of the codec then are that clip:
what this run learns of stereo is that both sides are alike. Nothing has been trained here: the data
is not included.

Numbers: as mixed_24khz.py, and a discriminator updated at one step of two. As remembered, not
checked against the paper: windows of the discriminator twice as long, both channels judged by
themselves, and λ of 4 for the adversarial loss and the features.
"""

import os

import ml_collections

# 14,856,294 of the codec, which are the released ones, and those of the discriminator.
PARAMETERS = {'': 14_856_294 + 472_330}


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"music_48khz.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 300 * 2000

  config.data = dict(
    source=f'{os.environ.get("OIDO_DATA", "data")}/jamendo',
    split=None,
    sample_rate=48_000,
    seconds=1.0,
    crop='random',
    batch_size=64,
    num_threads=16,
  )
  config.augment = [dict(name='mix_sources', args=dict(two=0.0, three=0.0, low=-10.0, high=6.0))]
  config.model = dict(
    name='encodec',
    args=dict(
      size='48khz',
      discriminator=dict(n_ffts=(4096, 2048, 1024, 512, 256), filters=32, slope=0.2, separate=True),
    ),
  )
  config.objective = dict(
    name='codec_adversarial',
    args=dict(
      sample_rate=48_000,
      l1=0.1,
      mel=1.0,
      adversarial=4.0,
      features=4.0,
      commitment=1.0,
      scales=(5, 12),
      bins=64,
      decay=0.999,
      worker_clips=8,
    ),
  )
  config.optim = dict(
    name='adam',
    lr=3e-4,
    b1=0.5,
    b2=0.9,
    groups=dict(critic=dict(match='^critic/', probability=0.5)),
    schedule=dict(name='constant'),
  )
  config.watch = dict(
    min_code_usage=dict(min=0.1, after=5000),
    discriminator_loss=dict(
      min=0.05, after=2000, patience=10, says='the discriminator always wins'
    ),
  )
  config.evals = dict()
  config.log_every = 50
  config.checkpoint = dict(every=2000, keep=2)

  if arg == 'debug':
    config.total_steps = 3
    config.data.update(source='builtin', batch_size=4, seconds=0.1)
    config.model.args.update(n_filters=4, dimension=8, quantizers=2, codebook_size=16, lstm=1)
    config.model.args.bandwidths = (0.6, 1.2)
    config.model.args.discriminator.update(n_ffts=(512, 256), filters=4)
    config.objective.args.update(scales=(6, 9), bins=16, worker_clips=2)
    config.log_every = 1
    config.checkpoint.every = 2
  return config

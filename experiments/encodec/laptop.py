"""EnCodec, small, at 16 kHz on Speech Commands, ESC-10 and FSDD, without a discriminator.

export OIDO_DATA=/data
python -m launch.train --config=experiments/encodec/laptop.py --workdir=runs/codec
python -m launch.codec --model=runs/codec --format=npz --input=/path/to/audio --out=codes

The published recipe adds an adversarial and a feature-matching loss; this one minimises the
distance of waveforms and mel spectra alone, with the weights that the paper gives these (0.1 and 1,
and 1 for the commitment), Adam of betas 0.5 and 0.9 and crops of a second. Batch and model are
smaller. It has not been run to its end: there is no score to expect. `:debug` runs on the built-in
corpus.
"""

import os

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"laptop.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 10_000

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=[
      dict(name=f'{root}/speech_commands_v2_test', args=dict(cut_seconds=1.0)),
      dict(name=f'{root}/esc10', args=dict(cut_seconds=1.0)),
      dict(name=f'{root}/fsdd', args=dict(split='train')),
    ],
    split=None,
    sample_rate=16_000,
    seconds=1.0,
    crop='random',
    batch_size=16,
  )
  # 800 frames a batch: codebooks of 256, so that a code has three on average.
  config.model = dict(
    name='encodec', args=dict(size='small', codebook_size=256, bandwidths=(0.8, 1.6, 3.2))
  )
  config.objective = dict(
    name='codec_reconstruction',
    args=dict(sample_rate=16_000, l1=0.1, mel=1.0, commitment=1.0, scales=(5, 12), bins=64),
  )
  config.optim = dict(
    name='adam',
    lr=3e-4,
    b1=0.5,
    b2=0.9,
    schedule=dict(name='constant', warmup_steps=200),
  )
  config.watch = dict(min_code_usage=dict(min=0.1, after=1000))
  config.evals = dict()
  config.log_every = 10
  config.checkpoint = dict(every=500, keep=2)

  if arg == 'debug':
    config.total_steps = 3
    with config.ignore_type():  # a name instead of a list
      config.data.source = 'builtin'
    config.data.update(batch_size=4, seconds=0.5)
    config.model.args.update(n_filters=4, dimension=8, quantizers=2, codebook_size=16, lstm=1)
    config.model.args.bandwidths = (0.2, 0.4)
    config.objective.args.update(scales=(6, 9), bins=16)
    config.optim.schedule.warmup_steps = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config

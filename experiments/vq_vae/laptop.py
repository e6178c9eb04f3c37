"""VQ-VAE of spoken digits at 8 kHz: what a laptop learns in twenty minutes.

export OIDO_DATA=/data
python -m launch.train --config=experiments/vq_vae/laptop.py --workdir=runs/vq_vae
python -m launch.generate --model=runs/vq_vae --source=digit.wav --labels=speaker=theo --out=heard
python -m launch.codec --model=runs/vq_vae --format=units --input=$OIDO_DATA/fsdd --out=runs/codes

$OIDO_DATA holds the folder fsdd with its labels.csv (path, speaker, split). A code is 64 samples as
of VCTK in the paper; the WaveNet has 16 layers and 32 channels. The codebook follows running
averages, begins at frames of the first batch and puts frames in the place of dead codes: ours, so
that a small run uses its codes. `:debug` is a few steps on the built-in corpus. Figures of 200
steps are in experiments/notes/vq_vae.md.
"""

import os

import ml_collections

SPEAKERS = ('george', 'jackson', 'lucas', 'nicolas', 'theo', 'yweweler')


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"laptop.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1000

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=f'{root}/fsdd',
    split='train',
    sample_rate=8000,
    seconds=3200 / 8000,
    crop='random',
    batch_size=8,
    fields=dict(speaker=dict(name='label', args=dict(column='speaker'))),
  )
  config.model = dict(
    name='vq_vae',
    args=dict(
      size='laptop', frontend=dict(sample_rate=8000), codebook='ema_restarts',
      speakers=len(SPEAKERS), speaker_names=SPEAKERS,
      decoder=dict(speaker_channels=len(SPEAKERS)),
    ),
  )  # fmt: skip
  config.objective = dict(name='vq_vae', args=dict())
  config.optim = dict(
    name='adam', lr=2e-3, clip_norm=1.0, schedule=dict(name='cosine', warmup_steps=50)
  )
  config.evals = dict(
    valid=dict(name='validation', every=250, batches=10, data=dict(split='test', batch_size=8))
  )
  config.watch = dict(
    bits_per_sample=dict(max=7.5, after=500, patience=3),
    code_usage=dict(min=0.3, after=500, patience=3),
  )
  config.log_every = 10
  config.checkpoint = dict(every=250, keep=2)

  if arg == 'debug':
    config.total_steps = 3
    config.data.update(source='builtin', where=dict(kind='digit'), seconds=0.2, batch_size=4)
    config.model.args.update(size='tiny', speakers=25, speaker_names=())
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data.split = 'valid'
    config.log_every = 1
    config.checkpoint.every = 2
  return config

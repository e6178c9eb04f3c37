"""WaveNet on spoken digits at 8 kHz: what a laptop learns in half an hour.

export OIDO_DATA=/data
python -m launch.train --config=experiments/wavenet/fsdd_laptop.py --workdir=runs/digits
python -m launch.generate --model=runs/digits --labels=speaker=theo --seconds=1 --count=4 \
  --out=heard
python -m launch.train --config=experiments/wavenet/fsdd_laptop.py:vocoder --workdir=runs/vocoder
python -m launch.generate --model=runs/vocoder --source=digit.wav --out=heard

$OIDO_DATA holds the folder fsdd with its labels.csv (path, speaker, split). The default is
conditioned on the speaker, `:vocoder` on mel frames too; `:debug` is a few steps on the built-in
corpus. Figures are in experiments/notes/wavenet.md.

The network is narrower than ibab's: 18 layers, a receptive field of 1025 samples (128 ms). Digits
are short, so samples without a whole field before them are learned too.
"""

import os

import ml_collections

SPEAKERS = ('george', 'jackson', 'lucas', 'nicolas', 'theo', 'yweweler')


def get_config(arg=''):
  if arg not in ('', 'vocoder', 'debug'):
    raise ValueError(f"fsdd_laptop.py has no variant {arg!r}: give nothing, 'vocoder' or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1500

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=f'{root}/fsdd',
    split='train',
    sample_rate=8000,
    seconds=3200 / 8000,
    crop='random',
    batch_size=4,
    fields=dict(speaker=dict(name='label', args=dict(column='speaker'))),
  )
  config.model = dict(
    name='wavenet',
    args=dict(
      size='laptop', full_context=False, speakers=len(SPEAKERS), speaker_channels=16,
      speaker_names=SPEAKERS,
    ),
  )  # fmt: skip
  config.objective = dict(name='sample_codes', args=dict())
  config.optim = dict(
    name='adam', lr=2e-3, clip_norm=1.0, schedule=dict(name='cosine', warmup_steps=50)
  )
  config.evals = dict(
    valid=dict(name='validation', every=500, batches=20, data=dict(split='test', batch_size=4))
  )
  config.watch = dict(bits_per_sample=dict(max=7.5, after=500, patience=3))
  config.log_every = 10
  config.checkpoint = dict(every=500, keep=2)

  if arg == 'vocoder':
    mel = dict(sample_rate=8000, n_fft=256, hop=64, bands=40, lowest=60.0, highest=3900.0)
    config.data.fields.mel = dict(name='mel', args=dict(context=2, **mel))
    # Mean and deviation of the frames of the training clips.
    config.model.args.update(
      mel=mel, local='mel', local_channels=40, local_pad=2, conv_in=True, upsample='nearest',
      scales=(8, 8), local_mean=-2.98, local_scale=0.83,
    )  # fmt: skip
  if arg == 'debug':
    config.total_steps = 3
    config.data.update(source='builtin', where=dict(kind='digit'), seconds=0.2)
    config.model.args.update(size='tiny', speakers=25, speaker_names=())
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.update(every=2, batches=1)
    config.evals.valid.data.split = 'valid'
    config.log_every = 1
    config.checkpoint.every = 2
  return config

"""A small GCRN on noisy read speech: what a laptop learns in an hour.

export OIDO_DATA=/data
python -m launch.make_mixtures --recipe=small_noisy --source=/data/librispeech_test_clean_sub \
  --noise=/data/esc10 --out=/data/noisy_laptop --args='{"train": 2000, "valid": 60, "test": 100}'
python -m launch.train --config=experiments/gcrn/laptop.py --workdir=runs/laptop
python -m launch.enhance --model=runs/laptop --input=/data/noisy_laptop/test/noisy \
  --reference=/data/noisy_laptop/test/clean --compare=wiener,spectral_gate --out=enhanced

Neither speakers nor recordings of noise of the test are in training, nor are its four ratios.
`:folders` mixes on the device instead, speech and noise of any folders (here the same data, whose
noise is then not held out); `:debug` is a few steps on the built-in corpus. A step takes about two
CPU seconds. It has not been run to its end: there is no score to expect.

The network masks, normalises levels and has both directions of time; magnitudes are compressed.
"""

import os

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'folders', 'debug'):
    raise ValueError(f"laptop.py has no variant {arg!r}: give nothing, 'folders' or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1500

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=dict(name='superb_se', args=dict(root=f'{root}/noisy_laptop')),
    split='train',
    sample_rate=16_000,
    seconds=2.0,
    crop='random',
    batch_size=8,
    fields=dict(sources=dict(args=dict(columns='clean'))),
  )
  config.augment = [dict(name='remix_noise', args=dict(snr=(-2.0, 18.0)))]
  config.model = dict(
    name='gcrn',
    args=dict(size='laptop', output='mask', bidirectional=True, normalise=True),
  )
  config.objective = dict(
    name='compressed_spectra',
    args=dict(n_fft=512, hop=256, power=0.3, magnitude=1.0, sdr=0.005),
  )
  config.optim = dict(
    name='adam', lr=2e-3, clip_norm=5.0, schedule=dict(name='cosine', warmup_steps=50)
  )
  config.evals = dict(
    valid=dict(name='validation', every=500, batches=7, data=dict(split='valid', batch_size=8))
  )
  config.log_every = 10
  config.checkpoint = dict(every=250, keep=2)

  if arg in ('folders', 'debug'):
    speech, noise = f'{root}/librispeech_test_clean_sub', f'{root}/esc10'
    with config.ignore_type():  # a name instead of a source with arguments
      config.data.source = 'builtin' if arg == 'debug' else speech
    noise = 'builtin' if arg == 'debug' else noise
    config.data.fields = dict(noise=dict(args=dict(source=noise, rows_per_clip=1)))
    config.augment = [dict(name='reverberate', args=dict(prob=0.3))]
    config.augment += [dict(name='add_noise', args=dict(snr=(-2.0, 18.0), level=(-6.0, 6.0)))]
    config.evals = dict()

  if arg == 'debug':
    config.total_steps = 3
    config.data.update(split=None, batch_size=4, seconds=0.5)
    config.model.args.update(size='tiny')
    config.objective.args.update(n_fft=64, hop=32)
    config.optim.schedule.warmup_steps = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config

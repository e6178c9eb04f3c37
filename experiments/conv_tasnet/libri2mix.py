"""Conv-TasNet on Libri2Mix: two speakers, each by itself.

export OIDO_DATA=/data
python -m launch.train --config=experiments/conv_tasnet/libri2mix.py --workdir=runs/separator
python -m launch.separate --model=runs/separator --input=/data/Libri2Mix/wav8k/min/test/mix_clean \
  --out=voices

$OIDO_DATA holds Libri2Mix (launch.make_mixtures makes its folders of 16 kHz; those of 8 kHz come
from LibriMix). Settings are those of asteroid's recipe (egs/librimix/ConvTasNet): train-100, clips
of 3 s at 8 kHz, 24 a batch, Adam with 1e-3, 200 epochs; there the rate is halved where validation
stands still, here it falls by a cosine. To expect: SI-SNRi 13.0 dB of the test set (asteroid's
README; 14.7 dB with train-360), on WSJ0-2mix 15.3 dB (the paper). Not run.

`:causal` sees nothing behind a frame, `:wav16k` is of 16 kHz, `:on_the_fly` mixes the clips of any
folder of speech on the device, `:debug` is a few steps on the built-in corpus.
"""

import os

import ml_collections

# 5.1M in the paper, which counts the residual convolution of the last block too: 65,664.
PARAMETERS = {'': 4_984_881}
VARIANTS = ('', 'causal', 'wav16k', 'on_the_fly', 'debug')


def get_config(arg=''):
  if arg not in VARIANTS:
    raise ValueError(f'libri2mix.py has no variant {arg!r}: give one of {VARIANTS}.')
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 115_000  # 200 epochs of 13,900 mixtures
  rate = 16_000 if arg in ('wav16k', 'debug') else 8000

  root = os.environ.get('OIDO_DATA', 'data')
  folder = f'{root}/Libri2Mix/wav{rate // 1000}k/min'
  config.data = dict(
    source=dict(name='superb_ss', args=dict(root=folder, dev=0)),
    split='train',
    sample_rate=rate,
    seconds=3.0,
    crop='random',
    batch_size=24,
    fields=dict(sources=dict(args=dict(columns=('s1', 's2')))),
  )
  config.model = dict(
    name='conv_tasnet',
    args=dict(
      size='paper_16khz' if rate == 16_000 else 'paper',
      frontend=dict(sample_rate=rate),
      signals=2,
      causal=arg == 'causal',
    ),
  )
  config.objective = dict(name='negative_si_sdr', args=dict())
  config.optim = dict(
    name='adam', lr=1e-3, clip_norm=5.0, schedule=dict(name='cosine', warmup_steps=0)
  )
  config.evals = dict(
    valid=dict(name='validation', every=2000, batches=40, data=dict(split='valid', batch_size=24))
  )
  config.log_every = 50
  config.checkpoint = dict(every=2000, keep=2, best='valid/loss')

  if arg in ('on_the_fly', 'debug'):
    with config.ignore_type():  # a name instead of a source with arguments
      config.data.source = 'builtin' if arg == 'debug' else f'{root}/speech'
    config.data.split = None
    config.data.fields = dict()
    config.augment = [dict(name='mix_speakers', args=dict(count=2, ratio=(-5.0, 5.0)))]
    config.evals = dict()
    config.checkpoint = dict(every=2000, keep=2)

  if arg == 'debug':
    config.total_steps = 3
    config.data.update(batch_size=4, seconds=0.5)
    config.model.args.size = 'tiny'
    config.log_every = 1
    config.checkpoint.every = 2
  return config

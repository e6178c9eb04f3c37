"""GCRN on VoiceBank-DEMAND: speech without its noise.

export OIDO_DATA=/data
python -m launch.train --config=experiments/gcrn/voicebank.py --workdir=runs/enhancer
python -m launch.enhance --model=runs/enhancer --input=/data/VoiceBank-DEMAND/noisy_testset_wav \
  --reference=/data/VoiceBank-DEMAND/clean_testset_wav --out=enhanced

$OIDO_DATA holds VoiceBank-DEMAND as published (noisy_trainset_28spk_wav, clean_trainset_28spk_wav,
noisy_testset_wav, clean_testset_wav; speakers p226 and p287 validate). `:mask` learns a complex
mask in the place of the spectrum, `:debug` is a few steps on the built-in corpus, with its clips as
noise.

The network is that of the published code, the objective that of the paper (Tan and Wang, TASLP
2020), which trains on other data; batch, length, rate and steps are ours. Noise is moved between
the clips of a batch (Remix, arXiv 2006.12847). Not run: there is no score to expect of it here.
"""

import os

import ml_collections

PARAMETERS = {'': 9_771_340}


def get_config(arg=''):
  if arg not in ('', 'mask', 'debug'):
    raise ValueError(f"voicebank.py has no variant {arg!r}: give nothing, 'mask' or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 70_000  # 100 epochs

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=dict(name='superb_se', args=dict(root=f'{root}/VoiceBank-DEMAND')),
    split='train',
    sample_rate=16_000,
    seconds=4.0,
    crop='random',
    batch_size=16,
    fields=dict(sources=dict(args=dict(columns='clean'))),
  )
  config.augment = [dict(name='remix_noise', args=dict(level=(-6.0, 6.0)))]
  config.model = dict(
    name='gcrn', args=dict(size='paper', output='mask' if arg == 'mask' else 'map')
  )
  config.objective = dict(name='compressed_spectra', args=dict(n_fft=320, hop=160))
  config.optim = dict(
    name='adam', lr=1e-3, clip_norm=5.0, schedule=dict(name='cosine', warmup_steps=1000)
  )
  config.evals = dict(
    valid=dict(name='validation', every=2000, batches=40, data=dict(split='valid', batch_size=16))
  )
  config.log_every = 50
  config.checkpoint = dict(every=2000, keep=2, best='valid/spectral_loss')

  if arg == 'debug':
    config.total_steps = 3
    with config.ignore_type():  # a name instead of a source with arguments
      config.data.source = 'builtin'
    config.data.update(split=None, batch_size=4, seconds=0.5)
    config.data.fields = dict(noise=dict(args=dict(source='builtin', rows_per_clip=1)))
    config.augment = [dict(name='reverberate', args=dict(t60=(0.1, 0.2)))]
    config.augment += [dict(name='add_noise', args=dict(noise_prob=1.0))]
    config.model.args.size = 'tiny'
    config.objective.args.update(n_fft=64, hop=32)
    config.optim.schedule.warmup_steps = 1
    config.evals = dict()
    config.log_every = 1
    config.checkpoint = dict(every=2, keep=2)
  return config

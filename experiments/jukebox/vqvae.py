"""Jukebox's VQ-VAE on music at 44.1 kHz: the published sizes and losses (arXiv 2005.00341).

python -m launch.train --config=experiments/jukebox/vqvae.py --workdir=DIR \
  --config.data.source=/data/music

Variants: `:small` is the README's training demo (22.05 kHz, two levels, l2 loss, crops of 262,144
samples, 4 clips on each of 8 GPUs); `:debug` is a few steps of a narrow model on the built-in
corpus. Codes of experiments/jukebox/prior.py and upsampler.py are those of such a run.

Hardware of the authors: 256 V100 for 3 days. Not reproduced here: the data is not included.

Numbers: hparams 'vqvae', 'small_vqvae' and the defaults of hparams.py of openai/jukebox (Adam at
3e-4, warm-up of 100 steps, gradients clipped at 1, EMA of the weights). Crops of 393,216 samples,
batches of 256 and 384,618 steps are the paper's, as remembered, not checked against it. Bandwidths
of the losses are measured on the first 600 s of training.
"""

import os

import ml_collections

# Published numbers of parameters, by variant: those of openai/jukebox without codebooks.
PARAMETERS = {'': 1_485_763}


def get_config(arg=''):
  variant = arg or 'published'
  if variant not in ('published', 'small', 'debug'):
    raise ValueError(f'vqvae.py has no variant {arg!r}: give nothing, small or debug.')
  small = variant == 'small'
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 384_618

  samples, rate = (262_144, 22_050) if small else (393_216, 44_100)
  config.data = dict(
    source=f'{os.environ.get("OIDO_DATA", "data")}/music',
    split='train',
    sample_rate=rate,
    seconds=samples / rate,
    crop='random',
    batch_size=32 if small else 256,
    num_threads=16,
  )
  config.model = dict(
    name='jukebox_vqvae', args=dict(size='small' if small else 'jukebox', dtype='float32')
  )
  config.objective = dict(
    name='jukebox_vqvae',
    args=dict(loss_fn='l2' if small else 'lmix', commit=0.02, multispectral=1.0),
  )
  config.optim = dict(
    name='adam',
    lr=3e-4,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    clip_norm=1.0,
    schedule=dict(name='constant', warmup_steps=100),
  )
  # mu = 1 - (clips a GPU x GPUs / 8) / 1000.
  config.teacher = dict(decay=1 - config.data.batch_size / 8 / 1000, forward=False)
  config.evals = dict(
    valid=dict(name='validation', every=5000, data=dict(split='valid', batch_size=32)),
  )
  # Our limit: fewer than a tenth of the codes of any level in use is a collapse.
  config.watch = dict(min_code_usage=dict(min=0.1, after=2000, patience=3))
  config.log_every = 100
  config.checkpoint = dict(every=5000, keep=2)

  if variant == 'debug':
    config.total_steps = 4
    config.data.update(source='builtin', sample_rate=16_000, seconds=0.512, batch_size=4)
    config.data.num_threads = 2
    config.model.args.update(size='tiny', downs_t=(3, 1), width=8, depth=1, emb_width=8, l_bins=16)
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.every = 2
    config.evals.valid.data.batch_size = 4
    config.evals.valid.batches = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config

"""Jukebox's upsamplers over the codes of a VQ-VAE: the published sizes (arXiv 2005.00341).

python -m launch.train --config=experiments/jukebox/upsampler.py --workdir=DIR \
  --config.init.path=VQVAE --config.data.source=/data/music

VQVAE is a run of experiments/jukebox/vqvae.py or the converted vqvae.pth.tar. Variants: `:level_1`
(default), `:level_0`; `:small` is the README's training demo over the small VQ-VAE, without labels;
`:debug` is a few steps of a narrow model with a random VQ-VAE on the built-in corpus. Songs have
columns artist and genre, as in experiments/jukebox/prior.py.

Hardware of the authors: 128 V100 for 2 weeks each. Not reproduced here: the data is not included.

Numbers: hparams.py and README of openai/jukebox, see experiments/jukebox/prior.py. Batches of 192
(level 1) and 184, 265,000 and 279,000 steps are the paper's, as remembered, not checked against it.
"""

import os

import ml_collections

# Published numbers of parameters, by variant.
PARAMETERS = {'': 981_298_176, 'level_0': 981_298_176}
# Size, samples of a window, sample rate, batch, steps.
RECIPE = {
  'level_1': ('upsampler_level_1', 262_144, 44_100, 192, 265_000),
  'level_0': ('upsampler_level_0', 65_536, 44_100, 184, 279_000),
  'small': ('small_upsampler', 262_144, 22_050, 32, 265_000),
}


def get_config(arg='level_1'):
  variant = arg or 'level_1'
  if variant not in (*RECIPE, 'debug'):
    raise ValueError(f'upsampler.py has no variant {arg!r}: {", ".join(RECIPE)} or debug.')
  size, samples, rate, clips, steps = RECIPE.get(variant, RECIPE['small'])
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = steps

  config.data = dict(
    source=f'{os.environ.get("OIDO_DATA", "data")}/music',
    split='train',
    sample_rate=rate,
    seconds=samples / rate,
    crop='random',
    batch_size=clips,
    num_threads=16,
    fields={},
  )
  if size != 'small_upsampler':
    config.data.fields = dict(labels=dict(name='song_labels', args={}))
  config.model = dict(name='jukebox', args=dict(size=size, dtype='bfloat16', remat=True))
  config.init = dict(path=None, under='frozen/vqvae')
  config.objective = dict(name='jukebox_prior', args={})
  config.optim = dict(
    name='adamw',
    lr=3e-4,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.01,
    no_decay='$^',
    clip_norm=1.0,
    schedule=dict(name='constant', warmup_steps=100),
  )
  # mu = 1 - (clips a GPU x GPUs / 8) / 1000.
  config.teacher = dict(decay=1 - clips / 8 / 1000, forward=False)
  config.evals = dict(
    valid=dict(name='validation', every=1000, data=dict(split='valid', batch_size=32)),
  )
  # Our limit: 11 bits are those of 2048 codes drawn evenly.
  config.watch = dict(gen_loss=dict(max=11.5, after=2000, patience=3))
  config.log_every = 100
  config.checkpoint = dict(every=1000, keep=2)

  if variant == 'debug':
    config.total_steps = 4
    config.init = None
    config.data.update(source='builtin', sample_rate=16_000, seconds=0.512, batch_size=4)
    config.data.num_threads = 2
    config.model.args.update(
      size='tiny',
      vqvae=dict(size='tiny', downs_t=(3, 3), width=8, depth=1, emb_width=8, l_bins=16),
      level=0,
      n_ctx=1024,
      prior_width=16,
      heads=1,
      cond_width=16,
      cond_depth=2,
      dtype='float32',
      remat=False,
    )
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.every = 2
    config.evals.valid.data.batch_size = 4
    config.evals.valid.batches = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config

"""Jukebox's top-level priors over the codes of a VQ-VAE: the published sizes (arXiv 2005.00341).

python -m launch.train --config=experiments/jukebox/prior.py --workdir=DIR \
  --config.init.path=VQVAE --config.data.source=/data/music

VQVAE is a run of experiments/jukebox/vqvae.py or the converted vqvae.pth.tar. Variants:
`:1b_lyrics` (default), `:5b`, `:5b_lyrics`; of the README's training demos `:small` (no labels),
`:small_labelled`, `:small_lyrics` (lyrics in front) and `:small_sep_lyrics` (a lyric encoder);
`:debug` is a few steps of a narrow model with a random VQ-VAE on the built-in corpus. Songs have
columns artist, genre and lyrics; files of their numbers are
--config.data.fields.labels.args.artists=FILE and .genres=FILE.

Hardware of the authors: 512 V100 for 4 weeks for the 5b. Not reproduced here: the data is not
included.

Numbers: hparams.py and README of openai/jukebox: Adam at 3e-4, warm-up of 100 steps, gradients
clipped at 1, 4 clips on each of 8 GPUs and weight decay 0.01 for the demos. Batch 512, 310,500
steps, 1.5e-4 and weight decay 0.002 of the 5b are the paper's, as remembered, not checked against
it. Near the end the README lets the learning rate fall to 0, here
--config.optim.schedule.name=linear in a run that starts from the first.
"""

import os

import ml_collections

# Published numbers of parameters, by variant.
PARAMETERS = {'': 942_643_200, '5b': 5_060_452_800, '5b_lyrics': 5_640_506_800}
# Samples of a window are its codes x 128.
SIZES = {
  '1b_lyrics': ('prior_1b_lyrics', 786_432),
  '5b': ('prior_5b', 1_048_576),
  '5b_lyrics': ('prior_5b_lyrics', 1_048_576),
  'small': ('small_prior', 1_048_576),
  'small_labelled': ('small_labelled_prior', 1_048_576),
  'small_lyrics': ('small_single_enc_dec_prior', 786_432),
  'small_sep_lyrics': ('small_sep_enc_dec_prior', 786_432),
}


def get_config(arg='1b_lyrics'):
  variant = arg or '1b_lyrics'
  if variant not in (*SIZES, 'debug'):
    raise ValueError(f'prior.py has no variant {arg!r}: {", ".join(SIZES)} or debug.')
  size, samples = SIZES.get(variant, SIZES['small'])
  large = variant.startswith('5b')
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 310_500

  config.data = dict(
    source=f'{os.environ.get("OIDO_DATA", "data")}/music',
    split='train',
    sample_rate=44_100,
    seconds=samples / 44_100,
    crop='random',
    batch_size=512 if large else 32,
    num_threads=16,
    fields={},
  )
  if size != 'small_prior':
    config.data.fields = dict(labels=dict(name='song_labels', args={}))
  config.model = dict(name='jukebox', args=dict(size=size, dtype='bfloat16', remat=True))
  config.init = dict(path=None, under='frozen/vqvae')
  config.objective = dict(name='jukebox_prior', args=dict(prime_loss_fraction=0.4))
  config.optim = dict(
    name='adamw',
    lr=1.5e-4 if large else 3e-4,
    b1=0.9,
    b2=0.925 if variant == '5b' else 0.999,
    eps=1e-8,
    weight_decay=0.002 if large else 0.01,
    no_decay='$^',
    clip_norm=1.0,
    schedule=dict(name='constant', warmup_steps=100),
  )
  # mu = 1 - (clips a GPU x GPUs / 8) / 1000.
  config.teacher = dict(decay=1 - config.data.batch_size / 8 / 1000, forward=False)
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
    config.data.update(source='builtin', sample_rate=16_000, seconds=1.024, batch_size=4)
    config.data.num_threads = 2
    config.data.fields = dict(labels=dict(name='song_labels', args={}))
    config.model.args.update(
      size='tiny',
      vqvae=dict(size='tiny', downs_t=(3, 3), width=8, depth=1, emb_width=8, l_bins=16),
      labels=True,
      n_ctx=256,
      prior_width=16,
      heads=1,
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

"""VQ-VAE on the speech of LibriSpeech: 128 samples a code, or 640 (arXiv 1711.00937, §4.2).

python -m launch.train --config=experiments/vq_vae/librispeech.py --workdir=DIR \
  --config.data.source=/data/LibriSpeech/train-clean-100 --config.model.args.speakers=251
python -m launch.codec --model=DIR --format=tsv --input=/data/LibriSpeech/dev-clean --out=codes.tsv
python -m launch.generate --model=DIR --source=speech.wav --labels=speaker=12 --fold=1 --out=heard

The default is the paper's network for 460 speakers: seven convolutions, 512 codes, 40,960 samples
as 320 codes. `:phonemes` has 128 codes, 25 a second, which named 49.3 % of 41 phonemes where each
stands for its most frequent one (a guess: 7.2 %); `:log_mel` codes four frames of 80 mel bins by
the network that the paper has for images. `:debug` is a few steps of a narrow `:log_mel` on the
built-in corpus.

Published: strides, taps, number of codes, beta 0.25, gradients for the codebook; of images width
256, two residual blocks, Adam at 2e-4, batches of 128, 250,000 steps. Ours: what is left, as in
vctk.py; how 640 is divided (seven strides of 2 and one of 5); everything of mel frames but the
figures of images. Not reproduced.
"""

import ml_collections


def get_config(arg=''):
  kind = arg or 'speakers'
  if kind not in ('speakers', 'phonemes', 'log_mel', 'debug'):
    raise ValueError(
      f'librispeech.py has no variant {arg!r}: give nothing, phonemes, log_mel or debug.'
    )
  mel = kind in ('log_mel', 'debug')
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 250_000

  config.data = dict(
    source='/data/LibriSpeech/train-clean-100',
    split=None,
    sample_rate=16_000,
    seconds=40_960 / 16_000,
    crop='random',
    batch_size=128 if mel else 8,
    fields={} if mel else dict(speaker=dict(name='label', args=dict(column='label'))),
  )
  args = dict(size='log_mel') if mel else dict(size=kind, speakers=251)
  config.model = dict(name='vq_vae', args=args)
  config.objective = dict(name='vq_vae', args=dict())
  config.optim = dict(name='adam', lr=2e-4)
  config.evals = dict()
  # Our limit: fewer than a tenth of the codes in use is a collapse.
  config.watch = dict(code_usage=dict(min=0.1, after=2000, patience=3))
  config.log_every = 50
  config.checkpoint = dict(every=2000, keep=5)

  if kind == 'debug':
    config.total_steps = 3
    config.data.update(source='builtin', split='train', seconds=0.5, batch_size=4)
    config.model.args.update(width=16, latent_dim=8, codebook_size=16)
    config.evals.pictures = dict(
      name='pictures', every=2, args=dict(count=2), data=dict(split='valid')
    )
    config.log_every = 1
    config.checkpoint.every = 2
  return config

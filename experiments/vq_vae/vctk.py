"""VQ-VAE on the speech of VCTK's 109 speakers: 64 samples a code (arXiv 1711.00937, §4.2).

python -m launch.train --config=experiments/vq_vae/vctk.py --workdir=DIR \
  --config.data.source=/data/VCTK-Corpus/wav48
python -m launch.generate --model=DIR --source=speech.wav --labels=speaker=12 --fold=1 --out=heard

The source is a folder with a folder of recordings for every speaker. `:ema` learns the codebook by
running averages, as the paper's appendix has it; `:debug` is a few steps of a tiny network on the
built-in corpus.

Published: six convolutions of stride 2 and 4 taps, 512 codes, a WaveNet that hears the codes and
the speaker, beta 0.25, the codebook learned by gradients; Adam at 2e-4 is that of the images.
Ours, as the paper does not give them: all widths and the layers of the WaveNet (see
`models/vq_vae.SIZES`), the width of codes, crops, batch and steps (for images 128 and 250,000).
No score of the audio models was published; samples are on the page of the authors.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'ema', 'debug'):
    raise ValueError(f"vctk.py has no variant {arg!r}: give nothing, 'ema' or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 250_000

  config.data = dict(
    source='/data/VCTK-Corpus/wav48',
    split=None,
    sample_rate=16_000,
    seconds=10_240 / 16_000,
    crop='random',
    batch_size=32,
    fields=dict(speaker=dict(name='label', args=dict(column='label'))),
  )
  codebook = 'ema' if arg == 'ema' else 'gradient'
  config.model = dict(name='vq_vae', args=dict(size='vctk', speakers=109, codebook=codebook))
  config.objective = dict(name='vq_vae', args=dict())
  config.optim = dict(name='adam', lr=2e-4)
  config.evals = dict()
  # Our limits: a uniform distribution over 256 levels has 8 bits; fewer than a tenth of the codes
  # in use is a collapse.
  config.watch = dict(
    bits_per_sample=dict(max=7.5, after=2000, patience=3),
    code_usage=dict(min=0.1, after=2000, patience=3),
  )
  config.log_every = 50
  config.checkpoint = dict(every=2000, keep=5)

  if arg == 'debug':
    config.total_steps = 3
    config.data.update(source='builtin', split='train', seconds=0.1, batch_size=4)
    config.model.args.update(size='tiny', speakers=43)  # classes of the corpus
    config.log_every = 1
    config.checkpoint.every = 2
  return config

"""WaveNet of many speakers on VCTK: the recipe of ibab/tensorflow-wavenet (3c973c0).

python -m launch.train --config=experiments/wavenet/vctk_ibab.py --workdir=DIR \
  --config.data.source=/data/VCTK-Corpus/wav48
python -m launch.generate --model=DIR --labels=speaker=12 --seconds=3 --out=heard

The source is a folder with a folder of recordings for every speaker; another number of speakers
than 109 is --config.model.args.speakers. `:debug` is a few steps of a tiny network on the built-in
corpus.

Numbers: train.py and wavenet_params.json there, and --gc_channels=32 of its README: crops of
100,000 samples behind a receptive field of 5117, one at a time, Adam at 1e-3 with epsilon 1e-4,
100,000 steps. Crops are random here and start anywhere; there, pieces follow each other and the
first has zeros before it, and silence at both ends is cut off. Hardware and score were not
published.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"vctk_ibab.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 100_000

  config.data = dict(
    source='/data/VCTK-Corpus/wav48',
    split=None,
    sample_rate=16_000,
    seconds=(100_000 + 5117) / 16_000,
    crop='random',
    batch_size=1,
    fields=dict(speaker=dict(name='label', args=dict(column='label'))),
  )
  config.model = dict(name='wavenet', args=dict(size='ibab', speakers=109))
  config.objective = dict(name='sample_codes', args=dict())
  config.optim = dict(name='adam', lr=1e-3, eps=1e-4)
  config.evals = dict()
  # Our limit: a uniform distribution over 256 codes has 8 bits.
  config.watch = dict(bits_per_sample=dict(max=7.5, after=2000, patience=3))
  config.log_every = 50
  config.checkpoint = dict(every=2000, keep=5)

  if arg == 'debug':
    config.total_steps = 3
    config.data.update(source='builtin', split='train', sample_rate=8000, seconds=0.4, batch_size=4)
    config.model.args.update(size='tiny', speakers=43)  # classes of the corpus
    config.log_every = 1
    config.checkpoint.every = 2
  return config

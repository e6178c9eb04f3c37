"""HuBERT base's two iterations on LibriSpeech, 960 hours (arXiv 2106.07447).

python -m launch.hubert_iterations --config=experiments/hubert/librispeech_iterations.py \
  --workdir=DIR --data_root=/data

100 clusters of MFCC, 250,000 updates; 500 clusters of the sixth layer of that model (fitted to a
tenth of the clips), 400,000 updates; then 500 clusters of the ninth layer of the second model, as
in the released codebook and the targets of the large models (librilight_large.py). For recipes,
hardware and scores see librispeech_base.py. `:debug` is three small stages on the built-in corpus.
"""

import ml_collections

BASE = 'experiments/hubert/librispeech_base.py'


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"librispeech_iterations.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.iterations = [
    dict(clusters=100, train=f'{BASE}:it1'),
    dict(layer=6, clusters=500, percent=0.1, train=f'{BASE}:it2'),
    dict(layer=9, clusters=500, percent=0.1),
  ]
  if arg == 'debug':
    config.iterations = [
      dict(clusters=20, max_epochs=2, train=f'{BASE}:debug'),
      dict(layer=1, clusters=20, max_epochs=2, percent=0.5),
    ]
  return config

"""HuBERT's two iterations on 79 minutes of LibriSpeech, on a laptop.

export OIDO_DATA=/data
python -m launch.hubert_iterations --config=experiments/hubert/librispeech_subset_iterations.py \
  --workdir=runs/hubert_subset

100 clusters of MFCC, 1250 updates of a small model; 100 clusters of its third layer, 1250 updates
more; then clusters of the third layer of the second model, to compare their quality (see
librispeech_subset.py; results are in experiments/notes/hubert.md). `:debug` is smaller and runs on
the built-in corpus.
"""

import ml_collections

SUBSET = 'experiments/hubert/librispeech_subset.py'


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(
      f"librispeech_subset_iterations.py has no variant {arg!r}: give nothing, or 'debug'."
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.iterations = [
    dict(clusters=100, max_epochs=10, train=f'{SUBSET}:it1'),
    dict(layer=3, clusters=100, max_epochs=10, train=f'{SUBSET}:it2'),
    dict(layer=3, clusters=100, max_epochs=10),
  ]
  if arg == 'debug':
    config.iterations = [
      dict(clusters=20, max_epochs=2, train=f'{SUBSET}:debug'),
      dict(layer=1, clusters=20, max_epochs=2),
    ]
  return config

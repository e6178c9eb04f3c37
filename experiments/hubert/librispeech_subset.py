"""HuBERT, small, on 79 minutes of LibriSpeech: two iterations in an hour on a laptop.

export OIDO_DATA=/data
python -m launch.hubert_iterations --config=experiments/hubert/librispeech_subset_iterations.py \
  --workdir=runs/hubert_subset

runs both. To run one iteration by hand:

python -m launch.label_kmeans --features=mfcc --clusters=100 \
  --input=$OIDO_DATA/librispeech_test_clean_sub --split=train --out=runs/mfcc
python -m launch.train --config=experiments/hubert/librispeech_subset.py:it1 --workdir=runs/it1 \
  --config.data.fields.units=runs/mfcc/units

$OIDO_DATA holds the folder librispeech_test_clean_sub with its labels.csv (path, split,
transcript). Transcripts are not used. `:it1` (default) learns 100 clusters of MFCC, `:it2` 100
clusters of a layer of the first model. Continue with finetune_librispeech_subset.py. Results are in
experiments/notes/hubert.md. `:debug` runs on the built-in corpus.

The model is a narrow version of the large model: layer norm in the convolutions, pre-norm blocks,
no dropout; no feature penalty, as in the wav2vec 2.0 of the same size. Unmasked frames are
predicted too, for a stronger signal in so few updates. The eight clips of a batch get equal numbers
of masked frames, like the clips of a GPU in fairseq.
"""

import os

import ml_collections


def get_config(arg='it1'):
  variant = arg or 'it1'
  if variant not in ('it1', 'it2', 'debug'):
    raise ValueError(f'librispeech_subset.py has no variant {arg!r}: it1, it2 or debug.')
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1250

  root = os.environ.get('OIDO_DATA', 'data')
  config.data = dict(
    source=f'{root}/librispeech_test_clean_sub',
    split='train',
    fields=dict(units=None),
    sample_rate=16_000,
    seconds=4.0,
    crop='random',
    batch_size=8,
  )
  config.model = dict(
    name='hubert',
    args=dict(
      size='tiny',
      channels=64,
      num_clusters=100,
      label_rate=50.0 if variant == 'it2' else 100.0,
      frontend=dict(normalise=True),
      norm='layer',
      conv_bias=True,
      pre_norm=True,
      dropout=0.0,
      attention_dropout=0.0,
      input_dropout=0.0,
      feature_grad_mult=1.0,
      predict_unmasked=True,
      mask_seconds=32.0,
    ),
  )
  config.objective = dict(
    name='masked_units', args=dict(logit_temp=0.1, pred_nomask_weight=1.0, penalty=0.0)
  )
  config.optim = dict(
    name='adamw',
    lr=2e-3,
    b1=0.9,
    b2=0.98,
    eps=1e-6,
    weight_decay=0.01,
    no_decay='$^',
    clip_norm=10.0,
    schedule=dict(name='polynomial', warmup_steps=125, power=1.0),
  )
  config.evals = dict(
    valid=dict(name='validation', every=250, data=dict(split='dev', batch_size=8), batches=8),
  )
  config.watch = dict(representation_std=dict(min=1e-3, after=50))
  config.log_every = 50
  config.checkpoint = dict(every=250, keep=2)

  if variant == 'debug':
    config.total_steps = 4
    config.data.update(source='builtin', seconds=2.0, batch_size=4)
    config.model.args.update(
      channels=32, width=32, depth=2, heads=2, hidden=64, final_dim=16, num_clusters=20
    )
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.every = 2
    config.evals.valid.data = dict(split='valid', batch_size=4)
    config.evals.valid.batches = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config

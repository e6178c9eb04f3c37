"""HuBERT base pre-trained on LibriSpeech, 960 hours, unlabelled: the published recipe (arXiv
2106.07447).

python -m launch.label_kmeans --features=mfcc --clusters=100 --input=librispeech \
  --split=train --label_splits=train,valid --data_root=/data --out=DIR/mfcc
python -m launch.train --config=experiments/hubert/librispeech_base.py:it1 --workdir=DIR/it1 \
  --config.data.fields.units=DIR/mfcc/units --config.data.root=/data

python -m launch.label_kmeans --features=DIR/it1 --layer=6 --clusters=500 --percent=0.1 \
  --input=librispeech --split=train --label_splits=train,valid --data_root=/data --out=DIR/layer6
python -m launch.train --config=experiments/hubert/librispeech_base.py:it2 --workdir=DIR/it2 \
  --config.data.fields.units=DIR/layer6/units --config.data.root=/data

launch.hubert_iterations with librispeech_iterations.py runs all of this. `:it1` (default) learns
100 clusters of MFCC at 100 Hz; `:it2` 500 clusters of the sixth layer of the first model at 50 Hz;
`:debug` is a few steps of a narrow model on the built-in corpus, with 20 clusters of MFCC.

Hardware of the authors: 32 GPUs. Fine-tuned on 10 hours, the model of the second iteration has 10.9
/ 17.8 % word errors on test clean / other without a language model, 4.4 / 9.5 % with a 4-gram
(torchaudio's reproduction). Not reproduced here: the data is not included.

Numbers: fairseq's examples/hubert/config/pretrain/hubert_base_librispeech.yaml and the paper: crops
of 250,000 samples, 1.4 million samples per GPU, 250,000 updates in the first iteration and 400,000
in the second. A batch here holds 32 times as many clips as a GPU. As many consecutive clips as a
GPU holds get equal numbers of masked frames. Clips under two seconds are left out. There is no
padding: fairseq crops a batch to its shortest clip; here every clip is cropped to the longest of
eight lengths that it fills.
"""

import ml_collections

# Published numbers of parameters, by variant.
PARAMETERS = {'': 94_595_200, 'it2': 94_697_600}


def get_config(arg='it1'):
  size = arg or 'it1'
  if size not in ('it1', 'it2', 'debug'):
    raise ValueError(f'librispeech_base.py has no variant {arg!r}: it1, it2 or debug.')
  second = size == 'it2'
  config = ml_collections.ConfigDict()
  config.seed = 1337
  config.total_steps = 400_000 if second else 250_000

  config.data = dict(
    source='librispeech',
    split='train',
    fields=dict(units=None),
    sample_rate=16_000,
    seconds=15.625,
    min_seconds=2.0,
    crop='random',
    buckets=8,
    fill='crop',
    batch_seconds=32 * 87.5,
    batch_multiple=32,
    batch_size=32 * 43,
    num_threads=16,
  )
  config.model = dict(
    name='hubert',
    args=dict(
      size='base',
      num_clusters=500 if second else 100,
      label_rate=50.0 if second else 100.0,
      mask_seconds=87.5,
      dtype='bfloat16',
    ),
  )
  config.objective = dict(
    name='masked_units', args=dict(logit_temp=0.1, pred_masked_weight=1.0, penalty=10.0)
  )
  # Weight decay on every parameter, including norms and biases, as in fairseq's Adam.
  config.optim = dict(
    name='adamw',
    lr=5e-4,
    b1=0.9,
    b2=0.98,
    eps=1e-6,
    weight_decay=0.01,
    no_decay='$^',
    clip_norm=10.0,
    schedule=dict(name='polynomial', warmup_steps=32_000, power=1.0),
  )
  config.evals = dict(
    valid=dict(name='validation', every=5000, data=dict(split='valid', batch_size=32)),
  )
  # Our limits, not from a published run. Units are roughly uniform, so always predicting the most
  # frequent unit gives an accuracy far below 0.1.
  config.watch = dict(
    representation_std=dict(min=1e-3, after=50),
    accuracy=dict(min=0.1, after=20_000, patience=3),
    grad_norm=dict(max=100.0, after=1000, patience=3),
  )
  config.log_every = 100
  config.checkpoint = dict(every=5000, keep=2)

  if size == 'debug':
    config.total_steps = 4
    config.data.update(batch_seconds=None, batch_multiple=1)
    config.data.update(source='builtin', seconds=2.0, min_seconds=0.0, batch_size=4, num_threads=2)
    config.model.args.update(
      size='tiny',
      channels=32,
      width=32,
      depth=2,
      heads=2,
      hidden=64,
      final_dim=16,
      num_clusters=20,
      dtype='float32',
    )
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.every = 2
    config.evals.valid.data.batch_size = 4
    config.evals.valid.batches = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config

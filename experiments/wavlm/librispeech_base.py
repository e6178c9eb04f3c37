"""WavLM base pre-trained on LibriSpeech, 960 hours, unlabelled: the published recipe (arXiv
2110.13900).

python -m launch.label_kmeans --features=HUBERT_BASE_IT1 --layer=6 --clusters=500 --percent=0.1 \
  --input=librispeech --split=train --label_splits=train,valid --data_root=/data --out=DIR/layer6
python -m launch.train --config=experiments/wavlm/librispeech_base.py --workdir=DIR/base \
  --config.data.fields.units=DIR/layer6/units --config.data.root=/data

`:base` (default); `:debug` is a few steps of a narrow model on the built-in corpus, with 20
clusters of MFCC. Units are 500 clusters of the sixth layer of HuBERT base's first iteration. One
clip in five is mixed with a stretch of another clip; the model predicts the units of the original
clip.

Hardware of the authors: 32 GPUs. SUPERB of the released encoder (its authors' table): phone errors
4.84, word errors 6.21 without a language model, keywords 96.79, intents 98.63, speakers 84.51,
emotions 65.94, query by example 8.70, slots F1 89.38 and CER 22.86, verification EER 4.69,
diarisation DER 4.83 (%); without mixing 4.85, 6.08, 96.79, 98.42, 84.39, 65.55, 7.99, 88.69, 23.43,
4.91, 6.03. Continue with finetune_librispeech.py. Not reproduced here: the data is not included.

Numbers: the paper, section 5, and microsoft/UniSpeech: the recipe of HuBERT base with 350 seconds
per GPU, 400,000 updates. A batch here holds 32 times as many clips as a GPU. As many consecutive
clips as a GPU holds get equal numbers of masked frames.
"""

import ml_collections

# Published encoders of 94,381,936 (unilm), and HuBERT's heads: a projection and 504 units.
PARAMETERS = {'': 94_707_824}


def get_config(arg='base'):
  size = arg or 'base'
  if size not in ('base', 'debug'):
    raise ValueError(f'librispeech_base.py has no variant {arg!r}: base or debug.')
  config = ml_collections.ConfigDict()
  config.seed = 1337
  config.total_steps = 400_000

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
    batch_seconds=32 * 350.0,
    batch_multiple=32,
    batch_size=32 * 175,
    num_threads=16,
  )
  config.augment = [dict(name='mix_utterances', args=dict(prob=0.2))]
  config.model = dict(
    name='wavlm',
    args=dict(size='base', num_clusters=500, label_rate=50.0, mask_seconds=350.0, dtype='bfloat16'),
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
      label_rate=100.0,
      dtype='float32',
    )
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.every = 2
    config.evals.valid.data.batch_size = 4
    config.evals.valid.batches = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config

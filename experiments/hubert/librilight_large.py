"""HuBERT large and x-large pre-trained on Libri-Light, 60,000 hours, unlabelled: the published
recipe (arXiv 2106.07447).

python -m launch.label_kmeans --features=BASE_IT2 --layer=9 --clusters=500 --percent=0.1 \
  --input=librispeech --split=train --data_root=/data --out=DIR/layer9
python -m launch.label_kmeans --codebook=DIR/layer9/codebook --features=BASE_IT2 --layer=9 \
  --input='{"name": "libri_light", "args": {"voice_seconds": 60}}' --data_root=/data --out=DIR/light
python -m launch.train --config=experiments/hubert/librilight_large.py:large --workdir=DIR/large \
  --config.data.fields.units=DIR/light/units --config.data.root=/data

Variants: `:large` (default), `:xlarge`; `:debug` is a few steps of a narrow model on the built-in
corpus. Units are 500 clusters of the ninth layer of the base model's second iteration. Libri-Light
has chapters of many minutes, which are cut at pauses into clips of about one minute: in the same
way for units and training, or once by launch.prepare_data. One clip in twenty is held out.

Hardware of the authors: 128 GPUs (large), 256 (x-large). Word errors on test clean / other with a
4-gram: large 4.7 / 7.6 after 10 minutes of labels, 1.9 / 3.3 after 960 hours; x-large 1.8 / 2.9
(the paper). Not reproduced here: the data is not included.

Numbers: fairseq's hubert_large_librivox.yaml and hubert_xlarge_librivox.yaml: crops of 250,000
samples, 900,000 samples per GPU (large) or 360,000 (x-large), 400,000 updates. A GPU holds three
(one) of the longest crops; a batch here holds 128 (256) times as many clips as a GPU. As many
consecutive clips as a GPU holds get equal numbers of masked frames.
"""

import ml_collections

# Published numbers of parameters, by variant.
PARAMETERS = {'': 316_609_408, 'xlarge': 964_321_664}


def get_config(arg='large'):
  size = arg or 'large'
  if size not in ('large', 'xlarge', 'debug'):
    raise ValueError(f'librilight_large.py has no variant {arg!r}: large, xlarge or debug.')
  huge = size == 'xlarge'
  config = ml_collections.ConfigDict()
  config.seed = 1337
  config.total_steps = 400_000

  config.data = dict(
    source=dict(name='libri_light', args=dict(voice_seconds=60)),
    split='train',
    fields=dict(units=None),
    sample_rate=16_000,
    seconds=15.625,
    min_seconds=2.0,
    crop='random',
    buckets=8,
    fill='crop',
    batch_seconds=256 * 22.5 if huge else 128 * 56.25,
    batch_multiple=256 if huge else 128,
    batch_size=256 * 11 if huge else 128 * 28,
    num_threads=16,
  )
  config.model = dict(
    name='hubert',
    args=dict(
      size='xlarge' if huge else 'large',
      num_clusters=500,
      mask_seconds=22.5 if huge else 56.25,
      label_rate=50.0,
      dtype='bfloat16',
      scan_layers=True,
      remat=True,
    ),
  )
  config.objective = dict(
    name='masked_units', args=dict(logit_temp=0.1, pred_masked_weight=1.0, penalty=10.0)
  )
  # Weight decay on every parameter, including norms and biases, as in fairseq's Adam.
  config.optim = dict(
    name='adamw',
    lr=3e-3 if huge else 1.5e-3,
    b1=0.9,
    b2=0.98,
    eps=1e-6,
    weight_decay=0.01,
    no_decay='$^',
    clip_norm=1.0,
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
    with config.ignore_type():  # a name instead of a dict
      config.data.source = 'builtin'
    config.data.update(seconds=2.0, min_seconds=0.0, batch_size=4, num_threads=2)
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

"""WavLM base+ and large pre-trained on 94,000 hours of Libri-Light, GigaSpeech and VoxPopuli: the
published recipe (arXiv 2110.13900).

python -m launch.label_kmeans --features=HUBERT_BASE --layer=9 --clusters=500 \
  --input=/data/mix94k --codebook=hubert_base_ls960_L9_km500.bin --out=DIR/layer9
python -m launch.train --config=experiments/wavlm/mix94k.py:base_plus --workdir=DIR/base_plus \
  --config.data.source=/data/mix94k --config.data.fields.units=DIR/layer9/units \
  --config.data.fields.noise=/data/dns/noise

Variants: `:base_plus` (default), `:large`; `:debug` is a few steps of a narrow model on the
built-in corpus. /data/mix94k is any folder of clips, or of ArrayRecord shards
(launch.prepare_data), of the three corpora. Units are those of the ninth layer of the released
HuBERT base, with its codebook. One clip in five is mixed with a stretch of another clip, or, one
time in ten, of noise (DNS challenge).

Hardware of the authors: 32 GPUs (base+), 64 (large). SUPERB of the released encoders, base+ / large
(their authors' table): phone errors 4.07 / 3.09, word errors 5.64 / 3.51 without a language model,
keywords 96.69 / 97.40, intents 99.16 / 99.10, speakers 86.84 / 95.25, emotions 67.98 / 70.03, query
by example 9.90 / 8.27, slots F1 89.73 / 92.25 and CER 21.54 / 17.61, verification EER 4.26 / 4.04,
diarisation DER 4.07 / 3.47 (%). Not reproduced here: the data is not included.

Numbers: the paper, section 5: 350 seconds per GPU and 1,000,000 updates (base+), 700,000 updates
(large). As many consecutive clips as a GPU holds get equal numbers of masked frames; a batch holds
32 times as many clips. For large the paper states 720 seconds without a unit of reference; here a
batch has two hours, as in HuBERT large, over 64 GPUs.
"""

import ml_collections

# Published encoders of 94,381,936 and 315,453,120 (unilm), and HuBERT's heads: a projection and 504
# units.
PARAMETERS = {'': 94_707_824, 'large': 315_453_120 + 768 * (1024 + 1) + 768 * 504}


def get_config(arg='base_plus'):
  size = arg or 'base_plus'
  if size not in ('base_plus', 'large', 'debug'):
    raise ValueError(f'mix94k.py has no variant {arg!r}: base_plus, large or debug.')
  large = size == 'large'
  config = ml_collections.ConfigDict()
  config.seed = 1337
  config.total_steps = 700_000 if large else 1_000_000

  config.data = dict(
    source='/data/mix94k',
    split='train',
    fields=dict(units=None, noise='/data/dns/noise'),
    sample_rate=16_000,
    seconds=15.625,
    min_seconds=2.0,
    crop='random',
    buckets=8,
    fill='crop',
    batch_seconds=64 * 112.5 if large else 32 * 350.0,
    batch_multiple=64 if large else 32,
    batch_size=64 * 56 if large else 32 * 175,
    num_threads=16,
  )
  config.augment = [dict(name='mix_utterances', args=dict(prob=0.2, noise_prob=0.1))]
  config.model = dict(
    name='wavlm',
    args=dict(
      size='large' if large else 'base_plus',
      num_clusters=500,
      mask_seconds=112.5 if large else 350.0,
      label_rate=50.0,
      dtype='bfloat16',
      scan_layers=large,
      remat=large,
    ),
  )
  config.objective = dict(
    name='masked_units', args=dict(logit_temp=0.1, pred_masked_weight=1.0, penalty=10.0)
  )
  # Weight decay on every parameter, including norms and biases, as in fairseq's Adam.
  config.optim = dict(
    name='adamw',
    lr=1.5e-3 if large else 5e-4,
    b1=0.9,
    b2=0.98,
    eps=1e-6,
    weight_decay=0.01,
    no_decay='$^',
    clip_norm=1.0 if large else 10.0,
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
    config.data.update(
      source='builtin',
      fields=dict(noise='builtin'),
      seconds=2.0,
      min_seconds=0.0,
      batch_size=4,
      num_threads=2,
    )
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

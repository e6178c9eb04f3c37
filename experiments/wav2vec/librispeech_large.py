"""wav2vec pre-trained on LibriSpeech, 960 hours, unlabelled: the published recipe (arXiv
1904.05862).

python -m launch.train --config=experiments/wav2vec/librispeech_large.py --workdir=DIR \
  --config.data.root=/data/LibriSpeech

Variants: `:large` (default), `:base` (the smaller model of the paper, under the same settings);
`:debug` is a few steps of a narrow model on the built-in corpus.

Hardware of the authors: 16 GPUs. SUPERB scores of the released large model: 31.58 % phone errors,
15.86 % word errors without a language model and 95.59 % keyword accuracy (leaderboard). Not
reproduced here: the data is not included.

Numbers: the command "wav2vec" of fairseq's examples/wav2vec/README.md: crops of 150,000 samples,
1,500,000 samples per GPU (ten full crops, or more shorter ones), 400,000 updates of Adam at 0.005,
warm-up of 500 (there from 1e-7, here from 0), cosine decay to 1e-6. It recommends files of 10 to 30
s. Clips shorter than a crop are padded and masked here; fairseq crops a batch to its shortest clip.
"""

import ml_collections

# Published numbers of parameters, by variant.
PARAMETERS = {'': 32_537_088}


def get_config(arg='large'):
  size = arg or 'large'
  if size not in ('large', 'base', 'debug'):
    raise ValueError(f'librispeech_large.py has no variant {arg!r}: large, base or debug.')
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 400_000

  config.data = dict(
    source='librispeech',
    split='train',
    sample_rate=16_000,
    seconds=9.375,
    crop='random',
    buckets=8,
    batch_seconds=16 * 93.75,
    batch_multiple=16,
    batch_size=16 * 64,
    num_threads=16,
  )
  config.model = dict(
    name='wav2vec', args=dict(size='large' if size == 'debug' else size, dtype='bfloat16')
  )
  config.objective = dict(name='wav2vec_contrastive', args=dict(infonce=False))
  config.optim = dict(
    name='adam',
    lr=0.005,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    schedule=dict(name='cosine', warmup_steps=500, final_lr=1e-6),
  )
  config.evals = dict(
    valid=dict(name='validation', every=5000, data=dict(split='valid', batch_size=32)),
  )
  # Our limits, not from a published run. Chance accuracy is 9 % among the ten distractors of large,
  # 50 % with the single one of base.
  config.watch = dict(
    representation_std=dict(min=1e-3, after=50),
    accuracy=dict(min=0.55 if size == 'base' else 0.15, after=20_000, patience=3),
    grad_norm=dict(max=100.0, after=1000, patience=3),
  )
  config.log_every = 100
  config.checkpoint = dict(every=5000, keep=2)

  if size == 'debug':
    config.total_steps = 4
    config.data.update(batch_seconds=None, batch_multiple=1)
    config.data.update(source='builtin', seconds=2.0, batch_size=4, num_threads=2)
    config.model.args.update(size='tiny', channels=32, kernels=(2, 3), dtype='float32')
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.every = 2
    config.evals.valid.data.batch_size = 4
    config.evals.valid.batches = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config

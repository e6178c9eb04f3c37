"""vq-wav2vec pre-trained on LibriSpeech, 960 hours, unlabelled: the published recipe (arXiv
1910.05453).

python -m launch.train --config=experiments/vq_wav2vec/librispeech_gumbel.py --workdir=DIR \
  --config.data.root=/data/LibriSpeech

Variants: `:gumbel` (default), `:kmeans`; `:debug` is a few steps of a narrow model on the built-in
corpus. The model is the tokenizer of experiments/vq_wav2vec/bert.py.

Hardware of the authors: 16 GPUs. SUPERB scores of the released Gumbel model: 33.48 % phone errors,
17.71 % word errors without a language model and 93.38 % keyword accuracy (leaderboard). Not
reproduced here: the data is not included.

Numbers: the command "vq-wav2vec" of fairseq's examples/wav2vec/README.md: crops of 150,000 samples,
300,000 samples per GPU (two full crops, or more shorter ones), 400,000 updates of Adam at 1e-5,
warm-up of 1000, cosine decay to 1e-6; two groups of 320 codes with a shared codebook, temperature
from 2 to 0.5. The released model has separate codebooks (--config.model.args.combine_groups=False).
The k-means loss has weight 1.
"""

import ml_collections

# Published numbers of parameters, by variant.
PARAMETERS = {'': 34_063_488, 'kmeans': 33_014_272}


def get_config(arg='gumbel'):
  variant = arg or 'gumbel'
  if variant not in ('gumbel', 'kmeans', 'debug'):
    raise ValueError(f'librispeech_gumbel.py has no variant {arg!r}: gumbel, kmeans or debug.')
  kind = 'gumbel' if variant == 'debug' else variant
  config = ml_collections.ConfigDict()
  config.seed = 2
  config.total_steps = 400_000

  config.data = dict(
    source='librispeech',
    split='train',
    sample_rate=16_000,
    seconds=9.375,
    crop='random',
    buckets=8,
    batch_seconds=16 * 18.75,
    batch_multiple=16,
    batch_size=16 * 16,
    num_threads=16,
  )
  config.model = dict(
    name='wav2vec', args=dict(size=f'vq_{kind}', combine_groups=True, dtype='bfloat16')
  )
  config.objective = dict(
    name='wav2vec_contrastive', args=dict(quantiser=1.0 if kind == 'kmeans' else 0.0)
  )
  config.optim = dict(
    name='adam',
    lr=1e-5,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    schedule=dict(name='cosine', warmup_steps=1000, final_lr=1e-6),
  )
  config.evals = dict(
    valid=dict(name='validation', every=5000, data=dict(split='valid', batch_size=32)),
  )
  # Our limits, not from a published run. Fewer than ten of 320 codes in use in either group is a
  # collapse; chance accuracy among ten distractors is 9 %.
  config.watch = dict(
    representation_std=dict(min=1e-3, after=50),
    min_code_perplexity=dict(min=10.0, after=20_000, patience=3),
    accuracy=dict(min=0.15, after=50_000, patience=3),
    grad_norm=dict(max=100.0, after=1000, patience=3),
  )
  if kind == 'gumbel':
    config.watch.min_prob_perplexity = dict(min=10.0, after=20_000, patience=3)
  config.log_every = 100
  config.checkpoint = dict(every=5000, keep=2)

  if variant == 'debug':
    config.total_steps = 4
    config.data.update(batch_seconds=None, batch_multiple=1)
    config.data.update(source='builtin', seconds=2.0, batch_size=4, num_threads=2)
    config.model.args.update(
      size='tiny',
      channels=32,
      kernels=(2, 3),
      vq_type='gumbel',
      activation='gelu',
      codebook_size=20,
      dtype='float32',
    )
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.every = 2
    config.evals.valid.data.batch_size = 4
    config.evals.valid.batches = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config

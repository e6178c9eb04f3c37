"""BERT base over the codes of vq-wav2vec, on LibriSpeech, 960 hours, unlabelled (arXiv 1910.05453,
section 4).

python -m launch.train --config=experiments/vq_wav2vec/bert.py --workdir=DIR \
  --config.data.root=/data/LibriSpeech --config.init.path=VQ_WAV2VEC

VQ_WAV2VEC is a run of experiments/vq_wav2vec/librispeech_gumbel.py:kmeans or a converted release.
Variants are the kinds of quantizer: `:kmeans` (default, as in the released bundle), `:gumbel`;
`:debug` is a few steps of a narrow model with a random tokenizer, on the built-in corpus.

Hardware of the authors: 128 GPUs. The paper evaluates it with the acoustic model and decoder of
another system on TIMIT and WSJ; there are no comparable scores of this model.

Numbers: from summaries of the paper, not checked against it: BERT base, spans of 10 frames that
start at 5 % of the frames, 128 x 3072 frames per batch (here crops of up to 2048 frames, 20.5 s),
250,000 updates, 10,000 of warm-up to 1e-5, then linear decay to 0. The rest (betas and weight decay
of Adam, dropout, random replacement of codes) is that of RoBERTa in fairseq. Code inputs and
targets differ: see research/models/code_bert.py.
"""

import ml_collections


def get_config(arg='kmeans'):
  variant = arg or 'kmeans'
  if variant not in ('kmeans', 'gumbel', 'debug'):
    raise ValueError(f'bert.py has no variant {arg!r}: kmeans, gumbel or debug.')
  kind = 'kmeans' if variant == 'debug' else variant
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 250_000

  config.data = dict(
    source='librispeech',
    split='train',
    sample_rate=16_000,
    seconds=20.5,
    crop='random',
    buckets=8,
    batch_seconds=64 * 61.5,
    batch_multiple=64,
    batch_size=64 * 32,
    num_threads=16,
  )
  tokenizer = dict(size=f'vq_{kind}', combine_groups=True)
  config.model = dict(
    name='code_bert', args=dict(size='base', tokenizer=tokenizer, dtype='bfloat16')
  )
  config.init = dict(path=None, under='frozen/vq_wav2vec')
  config.objective = dict(name='masked_codes', args={})
  config.optim = dict(
    name='adamw',
    lr=1e-5,
    b1=0.9,
    b2=0.98,
    eps=1e-6,
    weight_decay=0.01,
    no_decay='$^',
    schedule=dict(name='polynomial', warmup_steps=10_000, power=1.0),
  )
  config.evals = dict(
    valid=dict(name='validation', every=5000, data=dict(split='valid', batch_size=32)),
  )
  # Our limits. With fewer than ten codes of a group in use there is nothing to predict. The most
  # frequent of thousands of words (pairs of codes) covers less than 2 % of frames.
  config.watch = dict(
    representation_std=dict(min=1e-3, after=50),
    min_code_perplexity=dict(min=10.0, after=0),
    accuracy=dict(min=0.02, after=20_000, patience=3),
    grad_norm=dict(max=100.0, after=1000, patience=3),
  )
  config.log_every = 100
  config.checkpoint = dict(every=5000, keep=2)

  if variant == 'debug':
    config.total_steps = 4
    config.data.update(batch_seconds=None, batch_multiple=1)
    config.init = None
    config.watch.min_code_perplexity.min = 1.0
    config.data.update(source='builtin', seconds=2.0, batch_size=4, num_threads=2)
    config.model.args.update(
      size='tiny',
      tokenizer=dict(size='tiny', channels=32, kernels=(2, 3), vq_type='kmeans', codebook_size=20),
      width=32,
      depth=2,
      heads=2,
      hidden=64,
      dtype='float32',
    )
    config.optim.schedule.warmup_steps = 1
    config.evals.valid.every = 2
    config.evals.valid.data.batch_size = 4
    config.evals.valid.batches = 1
    config.log_every = 1
    config.checkpoint.every = 2
  return config

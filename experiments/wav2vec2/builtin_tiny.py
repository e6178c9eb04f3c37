"""wav2vec 2.0, tiny, pre-trained on the speech of the built-in corpus, on a laptop.

python -m launch.train --config=experiments/wav2vec2/builtin_tiny.py --workdir=runs/tiny_wav2vec2

`:debug` is a few steps of a smaller model.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"builtin_tiny.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 500

  # Words last 0.25 to 0.67 s; sentences are cropped.
  config.data = dict(
    source='builtin',
    split='train',
    where=dict(kind=['digit', 'word', 'sentence']),
    sample_rate=16_000,
    seconds=0.8,
    min_seconds=0.4,
    crop='random',
    batch_size=16,
  )
  config.model = dict(
    name='wav2vec2',
    args=dict(
      size='tiny',
      channels=64,
      width=128,
      heads=4,
      hidden=512,
      frontend=dict(normalise=True),
      norm='layer',
      conv_bias=True,
      pre_norm=True,
      codebook_size=40,
      negatives=20,
      mask_length=4,
      mask_prob=0.65,
      mask_seconds=12.8,
      dropout=0.0,
      attention_dropout=0.0,
      input_dropout=0.0,
      feature_grad_mult=1.0,
    ),
  )
  config.objective = dict(
    name='wav2vec2_contrastive', args=dict(logit_temp=0.1, diversity=1.0, penalty=0.0)
  )
  config.optim = dict(
    name='adamw',
    lr=1e-3,
    b1=0.9,
    b2=0.98,
    eps=1e-6,
    weight_decay=0.01,
    clip_norm=5.0,
    schedule=dict(name='polynomial', warmup_fraction=0.1, power=1.0),
  )
  config.evals = dict(
    valid=dict(name='validation', every=100, data=dict(split='valid')),
  )
  config.log_every = 10
  config.checkpoint = dict(every=250, keep=2)

  if arg == 'debug':
    config.total_steps = 4
    config.data.batch_size = 8
    config.model.args.update(
      channels=32, width=32, depth=2, heads=2, hidden=64, final_dim=16, codebook_size=20
    )
    config.log_every = 1
    config.checkpoint.every = 2
    config.evals.valid.every = 2
    config.evals.valid.batches = 1
  return config

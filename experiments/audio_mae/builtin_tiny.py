"""AudioMAE, tiny, on the built-in corpus: the whole pipeline on a laptop.

python -m launch.train --config=experiments/audio_mae/builtin_tiny.py --workdir=runs/tiny

For run time on two CPU cores and probe results, see experiments/notes/audio_mae.md. `:debug` is a
few steps of a smaller model.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"builtin_tiny.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 1500

  config.data = dict(
    source='builtin',
    split='train',
    sample_rate=16_000,
    seconds=1.0,
    crop='random',
    batch_size=16,
  )

  # 1 s is 98 frames; 112 = 7 x 16. Most clips are shorter; padding is masked in attention and loss.
  config.model = dict(
    name='audio_mae',
    args=dict(
      size='tiny',
      frames=112,
      mask_ratio=0.8,
      decoder='global',
      padding='masked',
      positions='time_frequency',
    ),
  )
  config.objective = dict(name='masked_patch_mse', args=dict(norm_pix=True))

  # Small batches give more steps in the same time. At 1e-3, one direction of the residual stream
  # grows until it dominates (see experiments/notes/audio_mae.md).
  config.optim = dict(
    name='adamw',
    lr=5e-4,
    b1=0.9,
    b2=0.95,
    weight_decay=1e-4,
    schedule=dict(name='cosine', warmup_steps=150),
  )

  config.evals = dict(
    valid=dict(name='validation', every=500, data=dict(split='valid')),
    pictures=dict(name='pictures', data=dict(split='valid')),
  )
  config.log_every = 10
  config.checkpoint = dict(every=300, keep=2)

  if arg == 'debug':
    config.total_steps = 4
    config.data.batch_size = 8
    config.model.args.update(width=32, depth=2, heads=2)
    config.optim.schedule.warmup_steps = 1
    config.log_every = 1
    config.checkpoint.every = 2
    config.evals.valid.every = 2
    config.evals.valid.batches = 1
  return config

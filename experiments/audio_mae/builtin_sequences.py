"""AudioMAE, tiny, on the built-in sequences: `make demo`.

python -m launch.train --config=experiments/audio_mae/builtin_sequences.py --workdir=runs/demo

Two minutes and a half on two CPU cores; scores, run time and what else was tried are in
experiments/notes/audio_mae.md. `:debug` is a few steps of a smaller model.
"""

import ml_collections


def get_config(arg=''):
  if arg not in ('', 'debug'):
    raise ValueError(f"builtin_sequences.py has no variant {arg!r}: give nothing, or 'debug'.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 2000

  config.data = dict(
    source='builtin_sequences',
    split='train',
    sample_rate=16_000,
    seconds=1.0,
    crop='random',
    batch_size=16,
  )

  # 1 s is 98 frames; 112 = 14 x 8. Patches of 8 frames (80 ms) show the order of short sounds.
  config.model = dict(
    name='audio_mae',
    args=dict(
      size='tiny',
      width=128,
      heads=4,
      decoder_width=96,
      frontend=dict(num_mel_bins=64),
      frames=112,
      patch=8,
      mask_ratio=0.8,
      decoder='global',
      padding='masked',
      positions='time_frequency',
    ),
  )
  # Without norm_pix: levels separate sounds from their background.
  config.objective = dict(name='masked_patch_mse', args=dict(norm_pix=False))

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
    pictures=dict(name='pictures', data=dict(split='valid'), args=dict(count=6)),
  )
  config.log_every = 10
  config.checkpoint = dict(every=500, keep=2)

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

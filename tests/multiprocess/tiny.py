"""A training of many quick steps, for tests that stop it."""

import ml_collections


def get_config(arg=''):
  assert not arg
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.total_steps = 130
  config.data = dict(source='builtin', split='train', sample_rate=16_000, seconds=0.5, batch_size=8)
  config.model = dict(
    name='audio_mae',
    args=dict(
      size='tiny', frames=64, width=16, depth=1, heads=2, decoder_width=16, decoder_depth=1,
      decoder_heads=2, mask_ratio=0.5, decoder='global', padding='masked',
      positions='time_frequency',
    ),
  )  # fmt: skip
  config.objective = dict(name='masked_patch_mse', args=dict(norm_pix=True))
  config.optim = dict(name='adamw', lr=5e-4, schedule=dict(name='cosine', warmup_steps=10))
  config.log_every = 5
  config.checkpoint = dict(every=20, keep=2)
  return config

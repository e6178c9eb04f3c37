"""A config small enough to lower and compile in seconds."""

from research.train.config import complete


def config(**groups):
  """A completed config of a tiny AudioMAE; `groups` replace its settings."""
  args = dict(
    size='tiny', width=64, heads=2, depth=2, decoder_width=32, decoder_heads=2, decoder_depth=1,
    decoder='global', frames=128, scan_layers=True,
  )  # fmt: skip
  return complete(
    dict(
      total_steps=1000,
      model=dict(name='audio_mae', args={**args, **groups.pop('model', {})}),
      objective=dict(name='masked_patch_mse'),
      data=dict(batch_size=16, seconds=1.28, **groups.pop('data', {})),
      **groups,
    )
  )

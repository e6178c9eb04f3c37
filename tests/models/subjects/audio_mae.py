"""AudioMAE in pre-training."""

import numpy as np

from research.objectives.reconstruction import masked_patch_mse
from tests.contract import MESHES, Subject

ENCODER = dict(size='tiny', width=32, depth=2, heads=2, frames=64)
DECODER = dict(decoder_width=16, decoder_depth=2, decoder_heads=2)


def mask_noise(model, b):
  rows, columns = model.grid
  rng = [np.random.default_rng(100 + i) for i in range(b)]
  names = {'mask_noise': rows * columns, 'mask_noise_t': rows, 'mask_noise_f': columns}
  return {k: np.stack([r.random(n, np.float32) for r in rng]) for k, n in names.items()}


def pretraining(meshes=(), **args):
  return Subject(
    'audio_mae',
    ENCODER | DECODER | args,
    masked_patch_mse,
    outputs=('pred', 'target', 'mask', 'latent'),
    draws=mask_noise,
    meshes=meshes,
  )


SUBJECTS = {
  'audio_mae': pretraining(MESHES),
  'audio_mae, global decoder, masked padding, scan': pretraining(
    decoder='global', masking='time_frequency', padding='masked', scan_layers=True
  ),
  'audio_mae, overlap, masked padding': pretraining(
    stride=10, masking='time', mask_ratio=0.5, padding='masked'
  ),
}

"""VQ-VAE: of waveforms by gradients and by averages, with speakers; of log-mel frames."""

import numpy as np

from research.objectives.waveform import vq_vae
from tests.contract import MESHES, Subject

MEL = dict(
  size='log_mel', width=12, latent_dim=6, codebook_size=9, residual_blocks=1,
  frontend=dict(num_mel_bins=10, n_fft=128, hop_length=64),
)  # fmt: skip


def speakers(b):
  return {'speaker': np.arange(b).astype(np.int32) % 3}


SUBJECTS = {
  'vq_vae': Subject(
    'vq_vae',
    MEL | dict(codebook='ema_restarts'),
    vq_vae,
    outputs=('embedding',),
    framed={'mel_mean': 'mel_mask'},
    meshes=MESHES[-1:],
  ),
  'vq_vae, waveform': Subject(
    'vq_vae',
    dict(size='tiny', speakers=3),
    vq_vae,
    outputs=('embedding',),
    framed={'logits': 'predicted', 'vectors': 'code_mask'},
    extra=speakers,
  ),
}

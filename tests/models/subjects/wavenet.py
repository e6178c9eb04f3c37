"""WaveNet: codes with speakers, and mixtures of logistics over mel frames."""

import numpy as np

from research.objectives.waveform import sample_codes, sample_logistics
from tests.contract import MESHES, Subject

TINY = dict(size='tiny', layers=2, stacks=1, full_context=False, speakers=3, speaker_channels=8)
# Frames of a hop of 16 samples at 8 kHz.
MOL = dict(
  size='r9y9_mol', layers=2, stacks=1, residual_channels=8, gate_channels=16, skip_channels=8,
  mixtures=2, local_channels=6, local_pad=1, scales=(4, 4), upsample_bands=3, preemphasis=0.5,
  frontend={'sample_rate': 8000},
)  # fmt: skip


def speakers(b):
  return {'speaker': np.arange(b).astype(np.int32) % 3}


def frames(model, b):
  """Frames of the clips of the contract; NaN behind those of the first, which is shortest."""
  rng = [np.random.default_rng(700 + i) for i in range(b)]
  mel = np.stack([r.standard_normal((600, model.local_channels)) for r in rng]).astype(np.float32)
  mask = np.ones(mel.shape[:2], bool)
  mask[0, 400:] = False
  mel[0, 400:] = np.nan
  return {'mel': mel, 'mel_mask': mask}


SUBJECTS = {
  'wavenet': Subject(
    'wavenet',
    TINY,
    sample_codes,
    outputs=('embedding',),
    framed={'logits': 'predicted'},
    extra=speakers,
    meshes=MESHES[-1:],
  ),
  'wavenet, logistics of mel': Subject(
    'wavenet',
    MOL,
    sample_logistics,
    outputs=('embedding',),
    draws=frames,
    framed={'logistics': 'predicted'},
  ),
}

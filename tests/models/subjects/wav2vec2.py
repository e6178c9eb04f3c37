"""wav2vec 2.0 in pre-training."""

import numpy as np

from research.objectives.contrastive import wav2vec2_contrastive
from tests.contract import MESHES, Subject
from tests.models.subjects import SPEECH, spans


def spans_and_noise(model, b):
  """Noise that decides the codes: rounding to bf16 must not, where two are nearly as good."""
  codes = [np.random.default_rng(400 + i).integers(0, 12, (300, 2)) for i in range(b)]
  noise = 1000.0 * np.eye(12, dtype=np.float32)[np.stack(codes)]
  return {**spans(model, b), 'gumbel_noise': noise}


def wav2vec2(meshes=(), **args):
  return Subject(
    'wav2vec2',
    SPEECH | dict(final_dim=16, codebook_size=12, mask_prob=0.5, mask_length=2, negatives=7) | args,
    wav2vec2_contrastive,
    outputs=('embedding',),
    framed={'context': 'used', 'targets': 'used', 'features': 'frame_mask'},
    draws=spans_and_noise,
    meshes=meshes,
  )


SUBJECTS = {
  'wav2vec2': wav2vec2(MESHES),
  'wav2vec2, layer norm, scan': wav2vec2(
    norm='layer', conv_bias=True, pre_norm=True, scan_layers=True, frontend={'normalise': True}
  ),
}

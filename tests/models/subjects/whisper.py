"""Whisper in fine-tuning."""

import numpy as np

from research.objectives.autoregressive import next_tokens
from tests.contract import MESHES, Subject


def texts(b):
  tokens = np.random.default_rng(0).integers(0, 60, (b, 7)).astype(np.int32)
  tokens[:, 5:] = -1
  return {'tokens': tokens}


def whisper(meshes=(), **args):
  small = dict(size='nano', width=32, n_vocab=60, n_audio_ctx=32, n_text_ctx=16)
  return Subject(
    'whisper',
    small | args,
    next_tokens,
    outputs=('logits',),
    extra=texts,
    meshes=meshes,
  )


SUBJECTS = {
  'whisper': whisper(MESHES),
  'whisper, 128 bins, scan': whisper(scan_layers=True, frontend={'num_mel_bins': 128}),
}

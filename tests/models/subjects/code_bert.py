"""BERT over the codes of vq-wav2vec."""

import numpy as np

from research.objectives.prediction import masked_codes
from tests.contract import MESHES, Subject


def code_masks(model, b):
  rng = [np.random.default_rng(300 + i) for i in range(b)]
  draws = {
    'span_mask': [r.random(300) < 0.4 for r in rng],
    'replace_draws': [r.random(300, np.float32) for r in rng],
    'random_codes': [r.integers(0, 12, (300, 2)).astype(np.int32) for r in rng],
  }
  return {name: np.stack(x) for name, x in draws.items()}


def code_bert(meshes=(), **args):
  tokenizer = dict(size='tiny', channels=16, codebook_size=12, vq_type='kmeans')
  return Subject(
    'code_bert',
    dict(size='tiny', width=32, depth=2, heads=2, hidden=64, tokenizer=tokenizer) | args,
    masked_codes,
    outputs=('embedding',),
    framed={'code_logits': 'frame_mask', 'codes': 'frame_mask'},
    draws=code_masks,
    meshes=meshes,
  )


SUBJECTS = {
  'code_bert': code_bert(MESHES),
  'code_bert, windows, scan': code_bert(
    frames=40,
    scan_layers=True,
    tokenizer=dict(size='tiny', channels=16, codebook_size=12, vq_type='gumbel'),
  ),
}

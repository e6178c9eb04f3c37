"""A language model of codes: two codebooks with a delay and classes, one codebook."""

import numpy as np

from research.objectives.autoregressive import next_codes
from tests.contract import MESHES, Subject

SMALL = dict(
  width=32, depth=2, heads=2, hidden=64, dropout=0.0, condition_dropout=0.0, max_steps=64
)


def codes(model, b):
  """Codes of clips of 12 to 20 frames; what is behind a clip is no code."""
  found = np.full((b, 20, model.codebooks), -1, np.int32)
  for i, row in enumerate(found):
    rng = np.random.default_rng(800 + i)
    count = 12 + 4 * (i % 3)
    row[:count] = np.stack([rng.integers(0, k, count) for k in model.sets], axis=1)
  return {'units': found}


def classes(b):
  # The last class is the one of dropped conditions, and none of a clip.
  return {'label': np.arange(b).astype(np.int32) % 2}


def code_lm(meshes=(), **args):
  return Subject(
    'code_lm',
    SMALL | args,
    next_codes,
    outputs=(),
    framed={'states': 'real'},
    draws=codes,
    extra=classes,
    meshes=meshes,
    embeds=False,
  )


SUBJECTS = {
  'code_lm': code_lm(MESHES[-1:], num_clusters=(9, 7), conditions={'label': 2}),
  'code_lm, flat': code_lm(num_clusters=9, pattern='flat'),
}

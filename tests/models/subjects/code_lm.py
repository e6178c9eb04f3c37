"""A language model of codes: two codebooks with a delay and classes, one codebook, a text."""

import functools

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


def spoken(b):
  """Texts of states of 2 to 4 places behind which is NaN, and vectors; one row has none."""
  text = np.full((b, 4, 3), np.nan, np.float32)
  mask = np.arange(4) < 2 + np.arange(b)[:, None] % 3
  for row, real, own in zip(text, mask, range(b)):
    row[real] = np.random.default_rng(910 + own).standard_normal((real.sum(), 3))
  voice = np.stack([np.random.default_rng(920 + i).standard_normal(5) for i in range(b)])
  voice[1:2] = np.nan
  return {'text': text, 'text_mask': mask, 'voice': voice.astype(np.float32)}


def code_lm(meshes=(), objective=next_codes, extra=classes, **args):
  return Subject(
    'code_lm',
    SMALL | args,
    objective,
    outputs=(),
    framed={'states': 'real'},
    draws=codes,
    extra=extra,
    meshes=meshes,
    embeds=False,
  )


SUBJECTS = {
  'code_lm': code_lm(MESHES[-1:], num_clusters=(9, 7), conditions={'label': 2}),
  'code_lm, flat': code_lm(num_clusters=9, pattern='flat'),
  'code_lm, states of texts and vectors': code_lm(
    MESHES[-1:],
    functools.partial(next_codes, alignment=0.5),
    spoken,
    num_clusters=(9, 7),
    vectors={'voice': 5},
    text={'states': 3, 'depth': 1},
    depth=1,
  ),
}

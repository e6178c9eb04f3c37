"""BYOL-A in pre-training."""

import numpy as np

from research.objectives.bootstrap import bootstrap
from tests.contract import MESHES, Subject


def view_draws(model, b):
  rng = [np.random.default_rng(100 + i) for i in range(b)]
  return {'draws': np.stack([r.random((2, 8), np.float32) for r in rng])}


def of_itself(out, batch):
  """Without a teacher: each view is foretold by the other's projection."""
  return bootstrap(out | {'teacher': out}, batch)


def byol_a(size, meshes=(), **args):
  small = dict(hidden=24, width=32, channels=8, projection=16, projection_hidden=24, bank=6)
  return Subject(
    'byol_a',
    dict(size=size, frames=32) | small | args,
    of_itself,
    outputs=('embedding',),
    draws=view_draws,
    meshes=meshes,
  )


SUBJECTS = {
  'byol_a': byol_a('v1_d512', MESHES),
  'byol_a, v2': byol_a('v2', norm='frontend', frontend=dict(mean=-9.66, std=4.72)),
}

"""wav2vec and vq-wav2vec."""

import functools

import numpy as np

from research.objectives.contrastive import wav2vec_contrastive
from tests.contract import MESHES, Subject


def negatives(model, b):
  draws = [np.random.default_rng(200 + i).integers(0, 19, (300, 5)) for i in range(b)]
  return {'negative_draws': np.stack(draws).astype(np.int32)}


def wav2vec(meshes=(), **args):
  return Subject(
    'wav2vec',
    dict(size='tiny', channels=32, kernels=(2, 3), codebook_size=12, steps=4) | args,
    functools.partial(wav2vec_contrastive, quantiser=1.0),
    outputs=('embedding',),
    framed={'predictions': 'used', 'targets': 'frame_mask'},
    draws=negatives,
    meshes=meshes,
  )


SUBJECTS = {
  'wav2vec': wav2vec(MESHES),
  'wav2vec, Gumbel': wav2vec(vq_type='gumbel', activation='gelu'),
  'wav2vec, k-means': wav2vec(vq_type='kmeans', combine_groups=True, skip=False),
}

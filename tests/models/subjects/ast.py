"""AST: alone, and under its published head."""

import jax.numpy as jnp
import numpy as np

from research.models.ast import HEAD
from research.objectives.supervised import binary_cross_entropy
from tests.contract import MESHES, Subject
from tests.models.subjects import labels

ENCODER = dict(size='tiny', width=32, depth=2, heads=2, frames=64)


def spread(out, batch):
  """A loss that every parameter of the encoder enters."""
  latent = out['latent'].astype(jnp.float32)
  wave = np.cos(np.arange(latent.shape[-1])).astype(np.float32)
  return jnp.mean(jnp.square(latent @ wave - 1.0)), {}


def classes(meshes=(), **args):
  return Subject(
    'finetuned',
    dict(
      encoder=dict(name='ast', args=ENCODER | dict(freq_mask=8, time_mask=8) | args),
      head=dict(name='classifier', args=dict(HEAD, classes=5)),
    ),
    binary_cross_entropy,
    outputs=('logits', 'pooled', 'cls'),
    extra=labels,
    untrained={},
    meshes=meshes,
  )


SUBJECTS = {
  'ast': Subject('ast', ENCODER, spread, outputs=('cls', 'latent'), meshes=MESHES[-1:]),
  'ast, masked padding, scan, other strides': Subject(
    'ast',
    ENCODER | dict(padding='masked', scan_layers=True, time_stride=8, frequency_stride=16),
    spread,
    outputs=('cls',),
  ),
  'finetuned, ast': classes(MESHES),
}

"""EnCodec, causal and in segments of stereo."""

import functools

import jax.numpy as jnp

from research.objectives.adversarial_codec import codec_adversarial
from research.objectives.codec import codec_reconstruction
from tests.contract import MESHES, Subject

SMALL = dict(n_filters=4, dimension=6, ratios=(5, 4), quantizers=2, codebook_size=16)


def against(out, batch, **how):
  """The hinge loss is linear while all logits are within [-1, 1], as at first, where biases cancel
  between real and decoded audio: their squares too, so that a gradient reaches all."""
  loss, metrics = codec_adversarial(out, batch, **how)
  return loss + sum(jnp.square(x).mean() for x in out['judged_real'][0]), metrics


def encodec(meshes=(), objective=codec_reconstruction, **args):
  return Subject(
    'encodec',
    SMALL | dict(size='small', lstm=1, bandwidths=(3.2, 6.4)) | args,
    functools.partial(objective, sample_rate=16_000, scales=(5, 7), bins=8),
    outputs=('embedding',),
    framed={'latents': 'frame_mask', 'reconstruction': 'sample_mask'},
    meshes=meshes,
  )


SUBJECTS = {
  'encodec': encodec(MESHES),
  'encodec, segments': encodec(
    causal=False, norm='time_group_norm', normalize=True, segment=0.05, channels=2
  ),
  'encodec, against a discriminator': encodec(
    objective=against, discriminator=dict(n_ffts=(64, 32), filters=2)
  ),
}

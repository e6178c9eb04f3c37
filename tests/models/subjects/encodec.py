"""EnCodec, causal and in segments of stereo."""

import functools

from research.objectives.codec import codec_reconstruction
from tests.contract import MESHES, Subject

SMALL = dict(n_filters=4, dimension=6, ratios=(5, 4), quantizers=2, codebook_size=16)


def encodec(meshes=(), **args):
  return Subject(
    'encodec',
    SMALL | dict(size='small', lstm=1, bandwidths=(3.2, 6.4)) | args,
    functools.partial(codec_reconstruction, sample_rate=16_000, scales=(5, 7), bins=8),
    outputs=('embedding',),
    framed={'latents': 'frame_mask', 'reconstruction': 'sample_mask'},
    meshes=meshes,
  )


SUBJECTS = {
  'encodec': encodec(MESHES),
  'encodec, segments': encodec(
    causal=False, norm='time_group_norm', normalize=True, segment=0.05, channels=2
  ),
}

"""Jukebox's VQ-VAE."""

from research.objectives.jukebox import jukebox_vqvae
from tests.contract import MESHES, Subject

SUBJECTS = {
  'jukebox_vqvae': Subject(
    'jukebox_vqvae',
    dict(size='tiny', downs_t=(2, 1), multipliers=(2, 1), width=8, depth=2, emb_width=8, l_bins=16),
    jukebox_vqvae,
    outputs=('embedding',),
    framed={'encoded_0': 'code_mask_0', 'codes_1': 'code_mask_1'},
    meshes=MESHES,
  ),
}

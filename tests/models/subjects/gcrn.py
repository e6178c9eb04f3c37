"""GCRN, mapping as published, and masking two signals in both directions of time."""

from research.objectives.signals import compressed_spectra
from tests.contract import MESHES, Subject
from tests.models.subjects.conv_tasnet import sources


def loss(out, batch):
  cut = {**batch, 'sources': batch['sources'][..., : out['estimates'].shape[-1]]}
  return compressed_spectra(out, cut, n_fft=64, hop=32, power=0.5, magnitude=1.0)


def gcrn(meshes=(), **args):
  return Subject(
    'gcrn',
    dict(size='tiny') | args,
    loss,
    outputs=(),
    framed={'estimates': 'estimates_mask'},
    extra=sources(args.get('signals', 1)),
    meshes=meshes,
    embeds=False,
  )


SUBJECTS = {
  'gcrn': gcrn(MESHES[:1]),
  'gcrn, masks': gcrn(output='mask', signals=2, bidirectional=True, normalise=True),
}

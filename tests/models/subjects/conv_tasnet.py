"""Conv-TasNet, in both directions and causal."""

import numpy as np

from research.objectives.signals import negative_si_sdr
from tests.contract import MESHES, Subject, wave


def sources(count, samples=12_000):
  """Signals of clips, whatever their length."""

  def made(b):
    found = [[wave(10 + 7 * i + k, samples) for k in range(count)] for i in range(b)]
    return {'sources': np.array(found)}

  return made


def loss(out, batch):
  """Of the samples that a clip has; positive, as the contract compares ratios of losses."""
  t = out['estimates'].shape[-1]
  cut = {**batch, 'sources': batch['sources'][..., :t]}
  value, metrics = negative_si_sdr(out, cut)
  return value + 100.0, metrics


def conv_tasnet(meshes=(), **args):
  return Subject(
    'conv_tasnet',
    dict(size='tiny') | args,
    loss,
    outputs=(),
    framed={'estimates': 'estimates_mask'},
    extra=sources(args.get('signals', 2)),
    meshes=meshes,
    embeds=False,
  )


SUBJECTS = {
  'conv_tasnet': conv_tasnet(MESHES),
  'conv_tasnet, causal': conv_tasnet(causal=True, signals=3, mask='relu'),
}

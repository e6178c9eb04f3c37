"""Small wav2vec 2.0 models of every kind, and their weights under the original names."""

from research.weights import revert
from tests.models import toy
from tests.weights.toy import filled

SIZES = dict(
  size='tiny', channels=8, width=16, depth=2, heads=2, hidden=24, conv_pos=6, conv_pos_groups=4
)
LAYERED = dict(norm='layer', conv_bias=True, pre_norm=True, frontend={'normalise': True})
SYMBOLS = ('a', '|', '[UNK]', '[PAD]', 'b')

PRETRAINING = ('wav2vec2', dict(final_dim=12, latent_dim=8, codebook_size=5))
CONTINUOUS = ('wav2vec2', dict(final_dim=12, quantise=False))
ENCODER = ('wav2vec2+', {})
CTC = ('wav2vec2+ctc', {})
OTHER = ('wav2vec2+ctc', dict(vocabulary=SYMBOLS, blank=3))
KINDS = {
  'pretraining': PRETRAINING,
  'continuous targets': CONTINUOUS,
  'encoder': ENCODER,
  'letters': CTC,
  'other symbols': OTHER,
}


def make(kind, **args):
  name, own = kind
  return toy.make(name, **{**SIZES, **own, **args})


def original(kind, release='wav2vec2', **args):
  model = make(kind, **args)
  return revert(release, model, filled(model))

"""EnCodec under facebookresearch/encodec's names: a .th that is a state dict."""

import functools

from research.weights.families import encodec as family
from research.weights.release import Release

# By what it is recognised, see `weights/detect.py`.
MARKS = (('encoder.model.0.conv.conv.', 'quantizer.vq.layers.0._codebook.'),)
RELEASE = Release(
  rules=functools.partial(family.rules, names=family.OWN),
  infer=functools.partial(family.infer, names=family.OWN),
  renew=family.renew,
)

"""EnCodec's language model, with a window that is shorter than the clips."""

import numpy as np

from research.objectives.autoregressive import next_codes
from tests.contract import Subject

SMALL = dict(
  quantizers=2, codebook_size=9, width=16, heads=2, depth=2, past_context=5, label_rate=50.0,
  frontend=dict(sample_rate=16_000),
)  # fmt: skip


def codes(model, b):
  """Codes of clips of 12 to 20 frames; what is behind a clip is no code."""
  found = np.full((b, 20, model.quantizers), -1, np.int32)
  for i, row in enumerate(found):
    count = 12 + 4 * (i % 3)
    row[:count] = np.random.default_rng(900 + i).integers(0, 9, (count, model.quantizers))
  return {'units': found}


SUBJECTS = {
  'encodec_lm': Subject(
    'encodec_lm', SMALL, next_codes, outputs=(), framed={'states': 'real'}, draws=codes,
    embeds=False,
  ),
}  # fmt: skip

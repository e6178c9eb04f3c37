"""WavLM (arXiv 2110.13900): HuBERT's pre-training with a gated relative position bias, on speech
that other speech and noise were mixed into (`augment.mix_utterances`).

Figures are those of unilm's wavlm and of the paper's section 4.
"""

from collections.abc import Mapping
from typing import ClassVar

from research.models.speech import LAYERED, Size
from research.models.unit_prediction import MaskedUnits

_BASE = Size(width=768, depth=12, heads=12, hidden=3072, final_dim=256, layerdrop=0.05)
# base_plus is base on more data.
SIZES = {
  'tiny': Size(width=192, depth=4, heads=3, hidden=768, final_dim=64),  # ours
  'base': _BASE,
  'base_plus': _BASE,
  'large': Size(width=1024, depth=24, heads=16, hidden=4096, final_dim=768, **LAYERED),
}


class WavLM(MaskedUnits):
  """WavLM in pre-training."""

  SIZES: ClassVar[Mapping[str, Size]] = SIZES
  TITLE: ClassVar[str] = 'WavLM'

  buckets: int = 320

"""HuBERT (arXiv 2106.07447): masked frames are told by the clusters that they belong to.

Figures are those of fairseq's models/hubert/hubert.py and examples/hubert/config.
"""

from collections.abc import Mapping
from typing import ClassVar

from research.models.speech import LAYERED, Size
from research.models.unit_prediction import MaskedUnits

# fairseq's hubert_base_librispeech, hubert_large_librivox and hubert_xlarge_librivox.
SIZES = {
  'tiny': Size(width=192, depth=4, heads=3, hidden=768, final_dim=64),  # ours
  'base': Size(width=768, depth=12, heads=12, hidden=3072, final_dim=256, layerdrop=0.05),
  'large': Size(width=1024, depth=24, heads=16, hidden=4096, final_dim=768, **LAYERED),
  'xlarge': Size(width=1280, depth=48, heads=16, hidden=5120, final_dim=1024, **LAYERED),
}


class Hubert(MaskedUnits):
  """HuBERT in pre-training."""

  SIZES: ClassVar[Mapping[str, Size]] = SIZES
  TITLE: ClassVar[str] = 'HuBERT'

"""HuBERT (arXiv 2106.07447): masked frames are told by the clusters that they belong to.

Figures are those of fairseq's models/hubert/hubert.py and examples/hubert/config.
"""

from collections.abc import Mapping
from typing import ClassVar

from research.models.heads.ctc import SpeechCTC
from research.models.masked_units import MaskedUnits
from research.models.speech import Size

# fairseq's hubert_base_librispeech, hubert_large_librivox and hubert_xlarge_librivox.
SIZES = {
  'tiny': Size(192, 4, 3, 768, 'group', False, False, False, 64, 0.1, 0.0, 0.1),  # ours
  'base': Size(768, 12, 12, 3072, 'group', False, False, False, 256, 0.1, 0.05, 0.1),
  'large': Size(1024, 24, 16, 4096, 'layer', False, True, True, 768, 0.0, 0.0, 1.0),
  'xlarge': Size(1280, 48, 16, 5120, 'layer', False, True, True, 1024, 0.0, 0.0, 1.0),
}
TITLE = 'HuBERT'


class Hubert(MaskedUnits):
  """HuBERT in pre-training."""

  SIZES: ClassVar[Mapping[str, Size]] = SIZES
  TITLE: ClassVar[str] = TITLE


class HubertCTC(SpeechCTC):
  """HuBERT for transcripts."""

  SIZES: ClassVar[Mapping[str, Size]] = SIZES
  TITLE: ClassVar[str] = TITLE
  BLOCKS: ClassVar[bool] = True

"""WavLM (arXiv 2110.13900): HuBERT's pre-training with a gated relative position bias, on speech
that other speech and noise were mixed into (`augment.mix_utterances`).

Figures are those of unilm's wavlm and of the paper's section 4.
"""

from collections.abc import Mapping
from typing import ClassVar

from research.models.heads.ctc import SpeechCTC
from research.models.masked_units import MaskedUnits
from research.models.speech import Size

_BASE = Size(768, 12, 12, 3072, 'group', False, False, False, 256, 0.1, 0.05, 0.1)
# base_plus is base on more data.
SIZES = {
  'tiny': Size(192, 4, 3, 768, 'group', False, False, False, 64, 0.1, 0.0, 0.1),  # ours
  'base': _BASE,
  'base_plus': _BASE,
  'large': Size(1024, 24, 16, 4096, 'layer', False, True, True, 768, 0.0, 0.0, 1.0),
}
TITLE = 'WavLM'
BUCKETS = 320


class WavLM(MaskedUnits):
  """WavLM in pre-training."""

  SIZES: ClassVar[Mapping[str, Size]] = SIZES
  TITLE: ClassVar[str] = TITLE

  buckets: int = BUCKETS


class WavLMCTC(SpeechCTC):
  """WavLM for transcripts."""

  SIZES: ClassVar[Mapping[str, Size]] = SIZES
  TITLE: ClassVar[str] = TITLE
  BLOCKS: ClassVar[bool] = True

  buckets: int = BUCKETS

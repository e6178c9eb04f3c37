"""HuBERT under fairseq's names, see `speech`."""

import functools
from collections.abc import Sequence

from research.models.hubert import SIZES
from research.weights import speech, unit_heads
from research.weights.speech_cfg import describe

__all__ = ['FAMILY', 'IGNORED', 'describe', 'infer', 'rules']

IGNORED: Sequence[str] = ()
FAMILY = speech.Family(
  'HuBERT', 'hubert', SIZES, unit_heads.MARKS, unit_heads.head_rules, unit_heads.head_args
)
rules = functools.partial(speech.rules, family=FAMILY)
infer = functools.partial(speech.infer, family=FAMILY)

"""HuBERT under fairseq's names, see `speech`."""

import functools
from collections.abc import Sequence

from research.models.hubert import SIZES
from research.weights import speech, speech_cfg, unit_heads
from research.weights.speech_cfg import describe, lacks

__all__ = ['FAMILY', 'IGNORED', 'compose', 'describe', 'infer', 'lacks', 'rules']

IGNORED: Sequence[str] = ()
FAMILY = speech.Family(
  'HuBERT', 'hubert', SIZES, unit_heads.MARKS, unit_heads.head_rules, unit_heads.head_args
)
compose = functools.partial(speech_cfg.compose, family=FAMILY.name)
rules = functools.partial(speech.rules, family=FAMILY)
infer = functools.partial(speech.infer, family=FAMILY)

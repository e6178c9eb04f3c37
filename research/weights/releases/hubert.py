"""HuBERT under fairseq's names, see `speech`."""

import functools
from collections.abc import Sequence

from research.models.hubert import SIZES
from research.weights.releases import fairseq_config, speech, unit_heads
from research.weights.releases.fairseq_config import describe, lacks

__all__ = ['FAMILY', 'IGNORED', 'compose', 'describe', 'infer', 'lacks', 'rules']

IGNORED: Sequence[str] = ()
FAMILY = speech.Family(
  'HuBERT', 'hubert', SIZES, unit_heads.MARKS, unit_heads.head_rules, unit_heads.head_args
)
compose = functools.partial(fairseq_config.compose, family=FAMILY.name)
rules = functools.partial(speech.rules, family=FAMILY)
infer = functools.partial(speech.infer, family=FAMILY)

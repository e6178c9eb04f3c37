"""HuBERT under fairseq's names, see `families.speech`."""

import functools

from research.models.hubert import SIZES
from research.weights.families import fairseq_config, speech, unit_heads
from research.weights.release import Release

FAMILY = speech.Family(
  'HuBERT', 'hubert', SIZES, unit_heads.MARKS, unit_heads.head_rules, unit_heads.head_args
)
RELEASE = Release(
  rules=functools.partial(speech.rules, family=FAMILY),
  infer=functools.partial(speech.infer, family=FAMILY),
  describe=fairseq_config.describe,
  compose=functools.partial(fairseq_config.compose, family=FAMILY.name),
  lacks=fairseq_config.lacks,
)

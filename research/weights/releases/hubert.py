"""HuBERT under fairseq's names, see `families.speech`."""

import functools

from research.models.hubert import SIZES
from research.weights.families import fairseq_config, speech, unit_heads
from research.weights.release import Release

FAMILY = speech.Family(
  'HuBERT', 'hubert', SIZES, unit_heads.MARKS, unit_heads.head_rules, unit_heads.head_args
)
# By what it is recognised, see `weights/detect.py`.
MARKS = (('label_embs_concat', 'feature_extractor.'), ('feature_extractor.conv_layers.0.0.',))
FAIRSEQ = ('hubert', 'hubert_ctc')
RELEASE = Release(
  rules=functools.partial(speech.rules, family=FAMILY),
  infer=functools.partial(speech.infer, family=FAMILY),
  describe=fairseq_config.describe,
  compose=functools.partial(fairseq_config.compose, family=FAMILY.name),
  lacks=fairseq_config.lacks,
)

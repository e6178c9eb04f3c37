"""WavLM under the names of unilm, which are fairseq's, see `speech`.

Released files hold the encoder alone, with a flat configuration, and unilm's loader (WavLM.py)
takes nothing else.
"""

import functools

from research.models.wavlm import SIZES
from research.weights.families import fairseq_config, speech, speech_hf, unit_heads
from research.weights.release import Release

FAMILY = speech.Family(
  'WavLM',
  'wavlm',
  SIZES,
  unit_heads.MARKS,
  unit_heads.head_rules,
  unit_heads.head_args,
  relative=True,
)
# By what it is recognised, see `weights/detect.py`.
MARKS = (('self_attn.grep_linear', 'encoder.layers.'),)
RELEASE = Release(
  rules=functools.partial(speech.rules, family=FAMILY),
  infer=functools.partial(speech.infer, family=FAMILY),
  describe=fairseq_config.describe,
  compose=functools.partial(fairseq_config.compose, family=FAMILY.name),
  encoder_alone={'.pt': functools.partial(speech_hf.encoder_alone, family=FAMILY)},
  lacks=fairseq_config.lacks,
)

"""WavLM under the names of unilm, which are fairseq's, see `speech`.

Released files hold the encoder alone, with a flat configuration, and unilm's loader (WavLM.py)
takes nothing else.
"""

import functools
from collections.abc import Sequence

from research.models.wavlm import SIZES
from research.weights.releases import fairseq_config, speech, speech_hf, unit_heads
from research.weights.releases.fairseq_config import describe, lacks

__all__ = ['ALONE', 'FAMILY', 'IGNORED', 'compose', 'describe', 'infer', 'lacks', 'rules']

IGNORED: Sequence[str] = ()
FAMILY = speech.Family(
  'WavLM',
  'wavlm',
  SIZES,
  unit_heads.MARKS,
  unit_heads.head_rules,
  unit_heads.head_args,
  relative=True,
)
compose = functools.partial(fairseq_config.compose, family=FAMILY.name)
rules = functools.partial(speech.rules, family=FAMILY)
infer = functools.partial(speech.infer, family=FAMILY)
ALONE = {'.pt': functools.partial(speech_hf.encoder_alone, family=FAMILY)}

"""WavLM under the names of unilm, which are fairseq's, see `speech`.

Released files hold the encoder alone, with a flat configuration, and unilm's loader (WavLM.py)
takes nothing else.
"""

import functools
from collections.abc import Sequence

from research.models.wavlm import SIZES
from research.weights import speech, speech_cfg, speech_hf, unit_heads
from research.weights.speech_cfg import describe, lacks

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
compose = functools.partial(speech_cfg.compose, family=FAMILY.name)
rules = functools.partial(speech.rules, family=FAMILY)
infer = functools.partial(speech.infer, family=FAMILY)
ALONE = {'.pt': functools.partial(speech_hf.encoder_alone, family=FAMILY)}

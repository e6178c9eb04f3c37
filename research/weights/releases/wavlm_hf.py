"""WavLM under transformers' names, see `speech_hf`."""

import functools
from collections.abc import Sequence

from research.weights.releases import speech_hf, transformers_config
from research.weights.releases.transformers_config import FILES
from research.weights.releases.wavlm import FAMILY

__all__ = [
  'FILES',
  'IGNORED',
  'compose',
  'describe',
  'encoder_alone',
  'infer',
  'renew',
  'rules',
]

IGNORED: Sequence[str] = ()
describe = functools.partial(transformers_config.describe, family=FAMILY.name)
compose = functools.partial(transformers_config.compose, family=FAMILY.name)
encoder_alone = functools.partial(speech_hf.encoder_alone, family=FAMILY)
infer = functools.partial(speech_hf.infer, family=FAMILY)
renew = functools.partial(speech_hf.renew, family=FAMILY)
rules = functools.partial(speech_hf.rules, family=FAMILY)

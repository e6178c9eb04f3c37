"""wav2vec 2.0 under transformers' names, see `speech_hf`."""

import functools
from collections.abc import Sequence

from research.weights import speech_hf, speech_hf_files
from research.weights.speech_hf_files import FILES
from research.weights.wav2vec2 import FAMILY

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
describe = functools.partial(speech_hf_files.describe, family=FAMILY.name)
compose = functools.partial(speech_hf_files.compose, family=FAMILY.name)
encoder_alone = functools.partial(speech_hf.encoder_alone, family=FAMILY)
infer = functools.partial(speech_hf.infer, family=FAMILY)
renew = functools.partial(speech_hf.renew, family=FAMILY)
rules = functools.partial(speech_hf.rules, family=FAMILY)

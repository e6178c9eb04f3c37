"""Audio Flamingo 3 as transformers saves it (nvidia/audio-flamingo-3-hf), see
`families.audio_language`."""

import functools
from typing import Any

from research.errors import InputError
from research.models.audio_flamingo3 import SIZES
from research.weights.families import audio_language
from research.weights.release import Release
from research.weights.tables import Rule

TOKEN = 'audio_token_id'
ENCODER = 'audioflamingo3_encoder'


def rules(model: Any) -> list[Rule]:
  """The key table."""
  linears = {'linear_1': '/linear_1', 'linear_2': '/linear_2'}
  return audio_language.rules(model, 'AudioFlamingo3', linears)


def compose(model: Any) -> dict[str, dict[str, Any]]:
  """The .json files of a folder."""
  if model.time_rotary_base:
    raise InputError('A Music Flamingo has another layout: give release=music_flamingo.')
  return audio_language.compose(
    model, 'audioflamingo3', 'AudioFlamingo3ForConditionalGeneration', TOKEN, ENCODER
  )


# By what it is recognised, see `weights/detect.py`.
MARKS = (('audio_tower.conv1.', 'multi_modal_projector.linear_1.', 'self_attn.q_proj'),)
MODEL_TYPE = 'audioflamingo3'
_PLAIN = {name: figures for name, figures in SIZES.items() if not figures['time_rotary_base']}
RELEASE = Release(
  rules=rules,
  infer=functools.partial(audio_language.infer, name='audio_flamingo3', sizes=_PLAIN),
  files=('config.json',),
  describe=functools.partial(
    audio_language.describe, kind='audioflamingo3', audio_token=(TOKEN, 151669)
  ),
  compose=compose,
  renew=audio_language.renew,
)

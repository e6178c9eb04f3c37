"""Qwen2-Audio as transformers saves it (Qwen/Qwen2-Audio-7B, -Instruct), see
`families.audio_language`."""

import functools
from typing import Any

from research.models.qwen2_audio import SIZES
from research.weights.families import audio_language
from research.weights.release import Release
from research.weights.tables import Rule

TOKEN = 'audio_token_index'


def rules(model: Any) -> list[Rule]:
  """The key table."""
  return audio_language.rules(model, 'Qwen2Audio', {'linear': ''})


def compose(model: Any) -> dict[str, dict[str, Any]]:
  """The .json files of a folder."""
  return audio_language.compose(
    model, 'qwen2_audio', 'Qwen2AudioForConditionalGeneration', TOKEN, 'qwen2_audio_encoder'
  )


# By what it is recognised, see `weights/detect.py`.
MARKS = (('audio_tower.conv1.', 'multi_modal_projector.linear.', 'self_attn.q_proj'),)
MODEL_TYPE = 'qwen2_audio'
RELEASE = Release(
  rules=rules,
  infer=functools.partial(audio_language.infer, name='qwen2_audio', sizes=SIZES),
  files=('config.json',),
  describe=functools.partial(
    audio_language.describe, kind='qwen2_audio', audio_token=(TOKEN, 151646)
  ),
  compose=compose,
  renew=audio_language.renew,
)

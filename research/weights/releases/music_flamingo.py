"""Music Flamingo as transformers saves it (nvidia/music-flamingo-hf): the arrays of Audio Flamingo
3, which are the same, and a config.json that says how its vectors turn with time."""

from collections.abc import Mapping
from typing import Any

from research.errors import InputError
from research.models.audio_flamingo3 import SIZES
from research.weights.families import audio_language
from research.weights.release import Release
from research.weights.releases import audio_flamingo3
from research.weights.stated import Fact, Stated

KIND = 'musicflamingo'
BASE, FACTOR, STEP = 1200.0, 0.2, 0.01
BOS, EOS = 1, 2  # places of the ids of the tags behind that of the placeholder


def describe(files: Mapping[str, Any]) -> Stated:
  """What config.json says."""
  said = audio_language.describe(files, KIND, (audio_flamingo3.TOKEN, 151669))
  config = files.get('config.json')
  if config is None:
    return said
  rope = audio_language.part_of(config, 'rope_parameters')
  own = {
    'time_rotary_base': Fact(
      float(rope.get('rope_theta', BASE)), 'config.json (rope_parameters.rope_theta)'
    ),
    'time_rotary_factor': Fact(
      float(rope.get('partial_rotary_factor', FACTOR)),
      'config.json (rope_parameters.partial_rotary_factor)',
    ),
    'frame_seconds': Fact(
      float(config.get('audio_frame_step', STEP)), 'config.json (audio_frame_step)'
    ),
  }
  return said._replace(facts={**said.facts, **own})


def infer(arrays: Any, given: Mapping[str, Any], stated: Stated) -> tuple[str, dict[str, Any]]:
  """(model name, arguments); the published turn where nothing says another."""
  name, args = audio_language.infer(arrays, given, stated, 'audio_flamingo3', _SIZES)
  return name, {
    'time_rotary_base': BASE,
    'time_rotary_factor': FACTOR,
    'frame_seconds': STEP,
    'max_windows': SIZES['music_7b']['max_windows'],
    **args,
  }


def compose(model: Any) -> dict[str, dict[str, Any]]:
  """The .json files of a folder."""
  if not model.time_rotary_base:
    raise InputError('An Audio Flamingo 3 has another layout: give release=audio_flamingo3.')
  files = audio_language.compose(
    model, KIND, 'MusicFlamingoForConditionalGeneration', audio_flamingo3.TOKEN,
    audio_flamingo3.ENCODER,
  )  # fmt: skip
  files['config.json'] |= {
    'audio_bos_token_id': model.audio_token + BOS,
    'audio_eos_token_id': model.audio_token + EOS,
    'audio_frame_step': model.frame_seconds,
    'rope_parameters': {
      'rope_type': 'default',
      'rope_theta': model.time_rotary_base,
      'partial_rotary_factor': model.time_rotary_factor,
    },
  }
  return files


# Its arrays are those of Audio Flamingo 3: config.json alone says which it is.
MODEL_TYPE = KIND
_SIZES = {name: figures for name, figures in SIZES.items() if figures['time_rotary_base']}
RELEASE = Release(
  rules=audio_flamingo3.rules,
  infer=infer,
  files=('config.json',),
  describe=describe,
  compose=compose,
  renew=audio_language.renew,
)

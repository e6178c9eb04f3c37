"""Audio Flamingo as NVIDIA saves it (`foundation.pt`, `chat.pt`, nvidia/audio-flamingo), with the
arrays of `clapcap_weights_2023.pth` beside it or without: it does not hold its audio tower."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from research.models.audio_flamingo import SIZES
from research.weights.families import audio_flamingo as family
from research.weights.release import Arrays, Release
from research.weights.stated import Stated
from research.weights.tables import Rule, vector

NAMES = family.Names(
  model='AudioFlamingo',
  style='opt',
  transformer='audio_transformer',
  buffer=('pos_table', 'positions', 'table'),
  gates='lang_encoder.gated_cross_attn_layers',
  tower='clap.base.htsat.',
  layers='lang_encoder.model.decoder.layers',
  gate='gated_cross_attn_layer',
  figures=('audio_heads', 'text_heads', 'text_kv_heads', 'max_windows', 'max_clips'),
)
PROJECTION = 'clap.projection'


def rules(model: Any) -> list[Rule]:
  """The key table."""
  found = family.rules(model, NAMES)
  if not model.encoder:
    return found
  o = 'params/clap_projection'
  return [
    *found,
    Rule(f'{PROJECTION}.linear1.weight', f'{o}/fc1', 'linear'),
    Rule(f'{PROJECTION}.linear2.weight', f'{o}/fc2', 'linear'),
    *vector(f'{PROJECTION}.layer_norm', f'{o}/norm'),
  ]


def infer(arrays: Arrays, given: Mapping[str, Any], stated: Stated) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that arrays under these names need."""
  del stated
  table = f'{NAMES.transformer}.position_enc.pos_table'
  positions = f'{family.LANGUAGE}model.decoder.embed_positions.weight'
  further = {}
  if table in arrays and positions in arrays:  # else the key table names them
    further = dict(
      max_media=int(np.shape(arrays[table])[1]), max_tokens=int(np.shape(arrays[positions])[0]) - 2
    )
  return 'audio_flamingo', family.infer(arrays, given, NAMES, SIZES, 'fc1.weight', further)


# By what it is recognised, see `weights/detect.py`.
MARKS = (('audio_transformer.layer_stack.', 'gated_cross_attn_layer', 'old_decoder_blocks.'),)
RELEASE = Release(
  rules=rules,
  infer=infer,
  ignored=(*family.IGNORED, f'{NAMES.tower}head.*', 'gpt.*', 'clap_project.*'),
  renew=lambda arrays: family.renew(arrays, NAMES),
)

"""Audio Flamingo 2 as NVIDIA saves it (nvidia/audio-flamingo-2: the tensors of `safe_ckpt`), with
its AF-CLAP (`clap.nvclap.`, or `audio_branch.` of `epoch_16.pt`) or without."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from research.models.audio_flamingo2 import SIZES
from research.weights.families import audio_flamingo as family
from research.weights.release import Arrays, Release
from research.weights.stated import Stated

NAMES = family.Names(
  model='AudioFlamingo2',
  style='qwen2',
  transformer='audio_transformer_clap',
  buffer=('inv_freq', 'frequencies', 'same'),
  gates='lang_encoder.gated_cross_attn_layers_sound',
  tower='clap.nvclap.',
  layers='lang_encoder.model.layers',
  gate='gated_cross_attn_layer_sound',
  figures=('audio_heads', 'text_heads', 'text_kv_heads'),
)


def infer(arrays: Arrays, given: Mapping[str, Any], stated: Stated) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that arrays under these names need."""
  del stated
  hidden = 'mlp.up_proj.weight'
  return 'audio_flamingo2', family.infer(arrays, given, NAMES, SIZES, hidden, {})


def renew(arrays: Arrays) -> dict[str, np.ndarray]:
  """The arrays, each under one name."""
  found = family.renew(arrays, NAMES)
  return {re.sub(r'^audio_branch\.', NAMES.tower, key): x for key, x in found.items()}


# By what it is recognised, see `weights/detect.py`.
MARKS = (
  ('audio_transformer_clap.layer_stack.', 'gated_cross_attn_layers_sound', 'old_decoder_blocks.'),
)
RELEASE = Release(
  rules=lambda model: family.rules(model, NAMES),
  infer=infer,
  ignored=(
    *family.IGNORED, f'{NAMES.tower}head.*', 'text_branch.*', 'text_transform.*',
    'text_projection.*', 'audio_transform.*', 'audio_projection.*', 'logit_scale_*',
  ),
  renew=renew,
)  # fmt: skip

"""wav2vec 2.0 under transformers' names: Wav2Vec2ForPreTraining, of today or with the names of
weight norm that older files have."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from research.weights import wav2vec2
from research.weights.tables import Rule

IGNORED: Sequence[str] = ()

# fairseq's name -> transformers', in this order, each at most once.
_NAMES = (
  (r'^mask_emb$', 'wav2vec2.masked_spec_embed'),
  (
    r'^feature_extractor\.conv_layers\.(\d)\.0\.',
    r'wav2vec2.feature_extractor.conv_layers.\1.conv.',
  ),
  (
    r'^feature_extractor\.conv_layers\.(\d)\.2\.(1\.)?',
    r'wav2vec2.feature_extractor.conv_layers.\1.layer_norm.',
  ),
  (r'^layer_norm\.', 'wav2vec2.feature_projection.layer_norm.'),
  (r'^post_extract_proj\.', 'wav2vec2.feature_projection.projection.'),
  (
    r'^encoder\.pos_conv\.0\.weight_g$',
    'wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0',
  ),
  (
    r'^encoder\.pos_conv\.0\.weight_v$',
    'wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1',
  ),
  (r'^encoder\.pos_conv\.0\.', 'wav2vec2.encoder.pos_conv_embed.conv.'),
  (r'^(encoder\.layers\..*)\.self_attn\.', r'wav2vec2.\1.attention.'),
  (r'^(encoder\.layers\..*)\.self_attn_layer_norm\.', r'wav2vec2.\1.layer_norm.'),
  (r'^(encoder\.layers\..*)\.fc1\.', r'wav2vec2.\1.feed_forward.intermediate_dense.'),
  (r'^(encoder\.layers\..*)\.fc2\.', r'wav2vec2.\1.feed_forward.output_dense.'),
  (r'^(encoder\.layers\..*)\.final_layer_norm\.', r'wav2vec2.\1.final_layer_norm.'),
  (r'^encoder\.layer_norm\.', 'wav2vec2.encoder.layer_norm.'),
  (r'^quantizer\.vars$', 'quantizer.codevectors'),
  (r'^final_proj\.', 'project_hid.'),
)


def rename(name: str) -> str:
  """fairseq's name of a tensor -> transformers'."""
  for pattern, theirs in _NAMES:
    if re.match(pattern, name):
      return re.sub(pattern, theirs, name)
  return name


def rules(model: nn.Module) -> list[Rule]:
  """The key table of a model."""
  return [rule._replace(theirs=rename(rule.theirs)) for rule in wav2vec2.rules(model)]


def infer(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need; see `wav2vec2.infer`."""
  named = {}
  for i in range(7):
    for part in ('0.weight', '0.bias', '2.1.weight'):
      key = f'feature_extractor.conv_layers.{i}.{part}'
      named[rename(key)] = key
  # The norm of the first convolution has one name for both kinds; the second's tells them apart.
  layered = 'wav2vec2.feature_extractor.conv_layers.1.layer_norm.weight' in arrays
  theirs = {}
  for key in arrays:
    own = named.get(key, key)
    if own.endswith('.2.1.weight') and not layered:
      own = own.replace('.2.1.', '.2.')
    theirs[own] = arrays[key]
  for key in (
    'post_extract_proj.weight', 'encoder.pos_conv.0.weight_v', 'quantizer.vars',
    'final_proj.weight', *(f'encoder.layers.{i}.fc1.weight' for i in range(200)),
  ):  # fmt: skip
    if rename(key) in arrays:
      theirs[key] = arrays[rename(key)]
  return wav2vec2.infer(theirs, given)

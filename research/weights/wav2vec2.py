"""wav2vec 2.0 under fairseq's names: pre-trained models, with quantiser and heads."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models.wav2vec2 import SIZES
from research.weights.tables import Rule, linear, vector
from research.weights.vit import settle

IGNORED: Sequence[str] = ()
_LAYER = 'encoder.layers.{i}'
_OURS = 'params/encoder/blocks_{i}'


def projections(theirs: str, ours: str) -> list[Rule]:
  """Rules of one attention: separate q, k, v there, one fused array here."""
  made = []
  for part, name in enumerate(('q_proj', 'k_proj', 'v_proj')):
    weight, bias = f'{theirs}.{name}.weight', f'{theirs}.{name}.bias'
    made.append(Rule(weight, f'{ours}/attn/qkv/kernel#{part}', 'heads', 'depth', 'heads'))
    made.append(Rule(bias, f'{ours}/attn/qkv/bias#{part}', 'heads_bias', 'depth', 'heads'))
  out = f'{theirs}.out_proj'
  return [
    *made,
    Rule(f'{out}.weight', f'{ours}/attn/proj/kernel', 'heads_out', 'depth', 'heads'),
    Rule(f'{out}.bias', f'{ours}/attn/proj/bias', layers='depth'),
  ]


def rules(model: nn.Module) -> list[Rule]:
  """The key table of a model."""
  stem = []
  for i in range(7):
    theirs, ours = f'feature_extractor.conv_layers.{i}', f'params/extractor/conv_{i}'
    stem.append(Rule(f'{theirs}.0.weight', f'{ours}/kernel', 'conv1d'))
    if model.conv_bias:
      stem.append(Rule(f'{theirs}.0.bias', f'{ours}/bias'))
    if model.norm == 'layer':
      stem += vector(f'{theirs}.2.1', f'{ours}/norm')
    elif i == 0:
      stem.append(Rule(f'{theirs}.2.weight', f'{ours}/norm_scale'))
      stem.append(Rule(f'{theirs}.2.bias', f'{ours}/norm_bias'))
  quantizer = [
    Rule('quantizer.vars', 'params/quantizer/codebook', 'codebook', heads='groups'),
    *linear('quantizer.weight_proj', 'params/quantizer/logits'),
  ]
  return [
    *stem,
    Rule('mask_emb', 'params/mask_token'),
    *vector('layer_norm', 'params/feature_norm'),
    *linear('post_extract_proj', 'params/project'),
    Rule('encoder.pos_conv.0.bias', 'params/encoder/positions/bias'),
    Rule('encoder.pos_conv.0.weight_g', 'params/encoder/positions/kernel_scale', 'taps'),
    Rule('encoder.pos_conv.0.weight_v', 'params/encoder/positions/kernel', 'conv1d'),
    *projections(f'{_LAYER}.self_attn', _OURS),
    *vector(f'{_LAYER}.self_attn_layer_norm', f'{_OURS}/norm1', 'depth'),
    *linear(f'{_LAYER}.fc1', f'{_OURS}/fc1', 'depth'),
    *linear(f'{_LAYER}.fc2', f'{_OURS}/fc2', 'depth'),
    *vector(f'{_LAYER}.final_layer_norm', f'{_OURS}/norm2', 'depth'),
    *vector('encoder.layer_norm', 'params/encoder/norm'),
    *(quantizer if model.quantise else []),
    *linear('project_q', 'params/project_targets'),
    *linear('final_proj', 'params/project_context'),
  ]


def infer(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need.

  Heads come from the table of published sizes. Whether norms come first does not show in the
  arrays: as published, they do where every convolution has a layer norm; give pre_norm otherwise.
  """
  need = ('post_extract_proj.weight', 'encoder.layers.0.fc1.weight', 'encoder.pos_conv.0.weight_v')
  absent = [k for k in need if k not in arrays]
  if absent:
    raise InputError(
      f'The file holds no {", ".join(absent)}: these are no wav2vec 2.0 weights of fairseq.'
    )
  width, channels = arrays['post_extract_proj.weight'].shape
  _, per_group, taps = arrays['encoder.pos_conv.0.weight_v'].shape
  layered = 'feature_extractor.conv_layers.0.2.1.weight' in arrays
  found = dict(
    width=width,
    channels=channels,
    depth=1 + max(int(k.split('.')[2]) for k in arrays if k.startswith('encoder.layers.')),
    hidden=arrays['encoder.layers.0.fc1.weight'].shape[0],
    norm='layer' if layered else 'group',
    conv_bias='feature_extractor.conv_layers.0.0.bias' in arrays,
    taps=taps,
    tap_groups=width // per_group,
    quantise='quantizer.vars' in arrays,
  )
  if 'final_proj.weight' in arrays:
    found['final_width'] = arrays['final_proj.weight'].shape[0]
  if found['quantise']:
    # Groups do not show in the arrays; all published models have two.
    groups = given.get('groups', 2)
    _, rows, part = arrays['quantizer.vars'].shape
    found |= dict(codes=rows // groups, code_width=part * groups)
  defaults = {'pre_norm': layered, 'frontend': {'normalise': layered}}
  if 'heads' not in given:
    names = {s.heads for s in SIZES.values() if s.width == width}
    if len(names) != 1:
      raise InputError(
        f'An encoder of width {width} is in no table: give its number of heads, heads=… '
        '(launch.convert: --args=heads=…).'
      )
    defaults['heads'] = names.pop()
  return 'wav2vec2', {**defaults, **settle(found, given)}

"""Official weights of Microsoft's captioner: `clapcap_weights_2023.pth`.

Tables that a front-end or a window computes are left out, and so are the counters of batch norms,
the classifier of HTSAT's head and the output of GPT-2, whose weights are those of the embedding.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models.clapcap import Clapcap
from research.weights import tables
from research.weights.families import clap as family
from research.weights.release import Release
from research.weights.stated import NOTHING, Stated
from research.weights.tables import Rule, linear, vector

_HTSAT, _GPT, _MAPPER = 'clap.base.htsat.', 'gpt.transformer.', 'clap_project'
OUTPUT, TOKENS = 'gpt.lm_head.weight', f'{_GPT}wte.weight'


def rules(model: nn.Module) -> list[Rule]:
  """The key table.

  Raises:
    InputError: another model.
  """
  if not isinstance(model, Clapcap):
    raise InputError(f'{type(model).__name__} is no clapcap, whose weights this release holds.')
  p, o = 'clap.projection', 'params/audio_projection'
  rows = [
    *family.htsat(model, _HTSAT),
    Rule(f'{p}.linear1.weight', f'{o}/fc1', 'linear'),
    Rule(f'{p}.linear2.weight', f'{o}/fc2', 'linear'),
    *vector(f'{p}.layer_norm', f'{o}/norm'),
    *family.gpt2(model, _GPT),
    Rule(f'{_MAPPER}.prefix_const', 'params/mapper/prefix_const'),
    *linear(f'{_MAPPER}.linear', 'params/mapper/linear'),
  ]
  t, o = f'{_MAPPER}.transformer.layers.{{i}}', 'params/mapper/layers_{i}'
  heads = 'mapper_heads'
  return [
    *rows,
    *vector(f'{t}.norm1', f'{o}/norm1', 'num_layers'),
    *vector(f'{t}.norm2', f'{o}/norm2', 'num_layers'),
    Rule(f'{t}.attn.to_queries.weight', f'{o}/queries/kernel', 'heads', 'num_layers', heads),
    Rule(
      f'{t}.attn.to_keys_values.weight', f'{o}/keys_values', 'pair_of_heads', 'num_layers', heads
    ),
    Rule(f'{t}.attn.project.weight', f'{o}/project/kernel', 'heads_out', 'num_layers', heads),
    Rule(f'{t}.attn.project.bias', f'{o}/project/bias', layers='num_layers'),
    *linear(f'{t}.mlp.fc1', f'{o}/fc1', 'num_layers'),
    *linear(f'{t}.mlp.fc2', f'{o}/fc2', 'num_layers'),
  ]


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need. The mapper has 8 heads where none are given."""
  del stated
  hidden, constant = f'{_GPT}h.0.mlp.c_fc.weight', f'{_MAPPER}.prefix_const'
  if f'{_MAPPER}.model.0.weight' in arrays:
    raise InputError(
      "These weights have ClipCap's mapping_type 'mlp'; a clapcap with 'transformer' can be read."
    )
  family.need(
    arrays, hidden, constant, f'{_MAPPER}.linear.weight', 'clap.projection.linear1.weight'
  )
  found = family.htsat_sizes(arrays, _HTSAT)
  for name in ('audio', 'fusion'):
    del found[name]
  found |= family.text_sizes(
    arrays, TOKENS, f'{_GPT}wpe.weight', f'{_GPT}h.', arrays[hidden].shape[1], given
  )
  width = found['text_width']
  found |= dict(
    size='clapcap_2023',
    dim=len(arrays['clap.projection.linear1.weight']),
    prefix_length=len(arrays[constant]),
    prefix_length_clip=len(arrays[f'{_MAPPER}.linear.weight']) // width,
    num_layers=family.count(arrays, f'{_MAPPER}.transformer.layers.'),
  )
  return 'clapcap', family.check(found, given)


def renew(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same arrays without the second copy of the output.

  Raises:
    InputError: the output's weights are not those of the embedding.
  """
  found = tables.without_module(arrays)
  output = found.pop(OUTPUT, None)
  if output is not None and not np.array_equal(output, found.get(TOKENS, output)):
    raise InputError(
      f'{OUTPUT} differs from {TOKENS}: a GPT-2 whose output has weights of its own cannot be read.'
    )
  return found


# By what it is recognised, see `weights/detect.py`.
MARKS = (('clap.base.', 'clap_project.', 'gpt.transformer.'),)
RELEASE = Release(
  rules=rules,
  infer=infer,
  ignored=(
    '*.spectrogram_extractor.*',
    '*.logmel_extractor.*',
    f'{_HTSAT}head.*',
    f'{_GPT}h.*.attn.bias',
    f'{_GPT}h.*.attn.masked_bias',
    '*.attn_mask',
    '*.relative_position_index',
    '*.num_batches_tracked',
  ),
  renew=renew,
)

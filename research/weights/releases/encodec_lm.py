"""EnCodec's language model under facebookresearch/encodec's names: a .th that is a state dict.

Arrays do not show heads and window: those of the published model with their number of codebooks, or
the caller's.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models.encodec_lm import SIZES, EncodecLm
from research.weights.release import Release
from research.weights.stated import NOTHING, Stated, settle
from research.weights.tables import Rule, linear, vector

LAYER = re.compile(r'transformer\.layers\.(\d+)\.linear1\.weight')


def rules(model: nn.Module) -> list[Rule]:
  """The key table; raises InputError for another model."""
  if not isinstance(model, EncodecLm):
    raise InputError(f'{type(model).__name__} is not the language model of EnCodec.')
  t, o = 'transformer.layers.{i}', 'params/blocks_{i}'
  rows = [
    *vector('transformer.norm_in', 'params/norm'),
    Rule(f'{t}.self_attn.in_proj_weight', f'{o}/qkv/kernel', 'heads_in', 'depth', 'heads'),
    Rule(f'{t}.self_attn.in_proj_bias', f'{o}/qkv/bias', 'heads_in_bias', 'depth', 'heads'),
    Rule(f'{t}.self_attn.out_proj.weight', f'{o}/proj/kernel', 'heads_out', 'depth', 'heads'),
    Rule(f'{t}.self_attn.out_proj.bias', f'{o}/proj/bias', layers='depth'),
    *linear(f'{t}.linear1', f'{o}/fc1', 'depth'),
    *linear(f'{t}.linear2', f'{o}/fc2', 'depth'),
    *vector(f'{t}.norm1', f'{o}/norm1', 'depth'),
    *vector(f'{t}.norm2', f'{o}/norm2', 'depth'),
  ]
  for i in range(model.quantizers):
    rows += [
      Rule(f'emb.{i}.weight', f'params/codes#{i}'),
      Rule(f'linears.{i}.weight', f'params/kernel#{i}', 'linear'),
      Rule(f'linears.{i}.bias', f'params/bias#{i}'),
    ]
  return rows


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need.

  Raises:
    InputError: arrays that are missing or contradict the caller, or whose number of codebooks is
      that of no published model.
  """
  books = sum(re.fullmatch(r'emb\.\d+\.weight', key) is not None for key in arrays)
  layers = sum(LAYER.fullmatch(key) is not None for key in arrays)
  if not books or not layers:
    raise InputError(
      'The weights have no emb.0.weight and transformer.layers.0.linear1.weight: they are not '
      'those of the language model of EnCodec.'
    )
  rows, width = arrays['emb.0.weight'].shape
  found = dict(quantizers=books, codebook_size=rows - 1, width=width, depth=layers)
  sizes = {each.quantizers: name for name, each in SIZES.items()}
  if books not in sizes and not {'size', 'past_context'} & set(given):
    raise InputError(
      f'The weights are for {books} codebooks, where published ones are for '
      f'{" or ".join(str(n) for n in sorted(sizes))}: name the window, as past_context=262, and '
      'the rate of their frames (label_rate).'
    )
  defaults: dict[str, Any] = dict(size=sizes.get(books, '24khz'), frontend={})
  return 'encodec_lm', settle(found, given, stated, defaults)


# By what it is recognised, see `weights/detect.py`.
MARKS = (('transformer.norm_in.', 'linears.0.', 'emb.0.'),)
RELEASE = Release(rules=rules, infer=infer)

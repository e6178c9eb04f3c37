"""Official AST weights (YuanGongND/ast), with or without the prefix of DataParallel; and those of
distilled DeiT image models (timm, facebookresearch/deit), from which AST starts.

Of an image model the colours of the patch embedding are summed and the positions resized
(ast_models.py). Weights of audio are resized too where another `frames` is given. The heads of
images, `head` and `head_dist`, are not used and left out.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models.ast import AST
from research.models.finetuned import encoder_of
from research.weights import tables
from research.weights.families import ast as family
from research.weights.families import vit
from research.weights.release import Arrays, Release
from research.weights.stated import NOTHING, Stated
from research.weights.tables import Rule, blocks, linear, vector

_ENCODER = [
  Rule('v.cls_token', 'params/encoder/cls_token'),
  Rule('v.dist_token', 'params/encoder/dist_token'),
  Rule('v.pos_embed', 'params/encoder/pos_embed', 'table_of_bins', heads='columns'),
  Rule('v.patch_embed.proj.weight', 'params/encoder/patch_embed/kernel', 'patch_of_bins'),
  Rule('v.patch_embed.proj.bias', 'params/encoder/patch_embed/bias'),
  *blocks('v.blocks', 'params/encoder', 'depth', 'heads'),
  *vector('v.norm', 'params/encoder/norm'),
]
_HEAD = [*vector('mlp_head.0', 'params/fc_norm'), *linear('mlp_head.1', 'params/head')]


def rules(model: nn.Module) -> list[Rule]:
  """The key table of a classifier, or of an encoder alone."""
  return [*_ENCODER, *(_HEAD if family.check_head(model) else [])]


def renew(arrays: Arrays) -> dict[str, np.ndarray]:
  """Names without 'module.', and with the 'v.' of the encoder."""
  short = tables.without_module(arrays)
  if 'v.cls_token' in short:
    return short
  return {f'v.{key}': x for key, x in short.items()}


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need."""
  del stated
  need = ('v.patch_embed.proj.weight', 'v.pos_embed', 'v.blocks.0.mlp.fc1.weight')
  absent = [key for key in need if key not in arrays]
  if absent:
    raise InputError(f'The file holds no {", ".join(absent)}: it is not an AST under its names.')
  width, channels, patch, other = arrays['v.patch_embed.proj.weight'].shape
  if patch != other:
    raise InputError(f'The patch embedding is {patch} x {other}; square patches are needed.')
  depth = vit.count_layers({k.removeprefix('v.'): x for k, x in arrays.items()}, 'blocks')
  hidden = arrays['v.blocks.0.mlp.fc1.weight'].shape[0]
  found = family.sizes(width, depth, hidden, given) | dict(patch=patch)
  if channels == 1:
    found['frames'] = family.frames(arrays['v.pos_embed'].shape[1] - 2, patch, given, True)
  classes = arrays['mlp_head.1.weight'].shape[0] if 'mlp_head.1.weight' in arrays else 0
  return family.named(vit.settle(found, given), classes)


def fit(arrays: Arrays, model: nn.Module) -> dict[str, np.ndarray]:
  """Arrays of the sizes of a model: see the top of this file."""
  encoder, weight = encoder_of(model), np.asarray(arrays['v.patch_embed.proj.weight'])
  assert isinstance(encoder, AST)
  image = weight.shape[1] == 3
  table = family.fit_table(np.asarray(arrays['v.pos_embed']), encoder, image)
  fitted = {**arrays, 'v.pos_embed': table}
  if image:
    fitted['v.patch_embed.proj.weight'] = weight.sum(axis=1, keepdims=True)
  return fitted


# By what it is recognised, see `weights/detect.py`.
MARKS = (('dist_token', 'patch_embed.proj.', 'pos_embed'),)
RELEASE = Release(
  rules=rules,
  infer=infer,
  ignored=('v.head.*', 'v.head_dist.*'),
  renew=renew,
  fit=fit,
  lacks=family.lacks,
)

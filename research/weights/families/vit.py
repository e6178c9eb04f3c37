"""Key table and sizes of a spectrogram ViT under timm's names, shared by every release built on
it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.features.frontend import Frontend
from research.models.audio_mae import SIZES
from research.models.finetuned import Finetuned, encoder_of, route
from research.models.heads.classifier import Classifier
from research.weights.stated import NOTHING, Stated
from research.weights.tables import Rule, blocks, linear, vector

ENCODER = [
  Rule('cls_token', 'params/encoder/cls_token'),
  Rule('pos_embed', 'buffers/encoder/pos_embed', 'table'),
  Rule('patch_embed.proj.weight', 'params/encoder/patch_embed/kernel', 'patch'),
  Rule('patch_embed.proj.bias', 'params/encoder/patch_embed/bias'),
  *blocks('blocks', 'params/encoder', 'depth', 'heads'),
]


def rules(model: nn.Module) -> list[Rule]:
  """The key table of a classifier: `fc_norm` behind the mean, or `norm` on the cls token; no head
  if no classes."""
  head = model.top if isinstance(model, Finetuned) else None
  published = ('mean', True), ('cls', False)
  if not isinstance(head, Classifier) or (head.pooling, head.norms) not in published:
    raise InputError(
      f'{type(model).__name__} has no layout of timm: an AudioMAE has one under the head '
      "'classifier', with pooling='mean' and a norm behind it, or pooling='cls' and none."
    )
  norm = vector('fc_norm', 'params/fc_norm')
  if head.pooling == 'cls':
    norm = vector('norm', 'params/encoder/norm')
  return [*ENCODER, *norm, *(linear('head', 'params/head') if head.classes else [])]


# What the arrays do not show, beside the front-end.
_UNSEEN = ('padding', 'positions', 'contextual_depth')


def lacks(model: nn.Module, unseen: Sequence[str] = _UNSEEN) -> str:
  """What does not show in the arrays and is not as published, as arguments for the way back."""
  model = encoder_of(model)
  fields = {f.name: f.default for f in dataclasses.fields(model)}
  unlike = {k: getattr(model, k) for k in unseen if k in fields and getattr(model, k) != fields[k]}
  frontend, usual = model.frontend.to_dict(), Frontend.from_dict({}).to_dict()
  different = {k: v for k, v in frontend.items() if k not in usual or v != usual[k]}
  if different:
    unlike['frontend'] = different
  if not unlike:
    return ''
  args = ' '.join(
    f"--args='{k}={json.dumps(v) if isinstance(v, dict) else v}'" for k, v in unlike.items()
  )
  return f'{", ".join(unlike)} (on the way back: {args})'


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) of the classifier that the arrays need."""
  del stated
  found = encoder_args(arrays, given)
  found['classes'] = arrays['head.weight'].shape[0] if 'head.weight' in arrays else 0
  found['pooling'] = 'mean' if 'fc_norm.weight' in arrays else 'cls'
  parts = {'encoder': {'name': 'audio_mae'}, 'head': {'name': 'classifier'}}
  return 'finetuned', route(parts, settle(found, given))


def encoder_args(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, Any]:
  """Sizes that the encoder's arrays show: width, depth, patch, mlp_ratio, heads, stride and frames.

  Heads and strides do not show in the arrays: heads come from the table of published sizes, and the
  grid is taken as not overlapping if its tokens fill whole rows of patches, else as stride 10.
  """
  need = ('patch_embed.proj.weight', 'pos_embed', 'blocks.0.mlp.fc1.weight')
  absent = [k for k in need if k not in arrays]
  if absent:
    raise InputError(f'The file holds no {", ".join(absent)}: it is not a ViT under timm names.')
  width, channels, patch, other = arrays['patch_embed.proj.weight'].shape
  if channels != 1 or patch != other:
    raise InputError(
      f'The patch embedding is {channels} x {patch} x {other}; one channel and square patches '
      'are needed.'
    )
  depth = count_layers(arrays, 'blocks')
  found = dict(width=width, depth=depth, patch=patch)
  found['mlp_ratio'] = arrays['blocks.0.mlp.fc1.weight'].shape[0] / width
  names = [n for n, s in SIZES.items() if (s.width, s.depth, s.patch) == (width, depth, patch)]
  if names:
    found |= dict(size=names[0])
  if names and 'heads' not in given:
    found['heads'] = SIZES[names[0]].heads
  elif 'heads' not in given:
    raise InputError(
      f'An encoder of width {width} and depth {depth} is in no table: give its number of heads, '
      'heads=… (launch.convert: --args=heads=…).'
    )
  bins = Frontend.from_dict(given.get('frontend') or {}).num_features
  return found | _frames(arrays['pos_embed'].shape[1] - 1, patch, bins, given)


def _frames(tokens: int, patch: int, bins: int, given: Mapping[str, Any]) -> dict[str, int]:
  stride = given.get('stride')
  strides = [stride] if stride else [patch, 10]
  for s in strides:
    columns = (bins - patch) // s + 1
    if tokens % columns:
      continue
    # The rows fit several lengths; take the given one, else 1024 if it fits, else the shortest.
    rows = tokens // columns
    least = patch + s * (rows - 1)
    frames = given.get('frames', 1024 if least <= 1024 < least + s else least)
    if (frames - patch) // s + 1 != rows:
      raise InputError(
        f'The position table holds {rows} x {columns} tokens, which is not frames={frames} at '
        f'stride {s}: give frames from {least} to {least + s - 1}.'
      )
    return {'frames': frames} | ({'stride': s} if s != patch else {})
  raise InputError(
    f'The position table holds {tokens} tokens, which no grid of {patch} x {patch} patches over '
    f'{bins} mel bins at stride {" or ".join(map(str, strides))} has: give stride=… or the '
    'frontend.'
  )


def settle(found: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
  """What was found and what was given together; raises InputError where they contradict each
  other."""
  for name, value in given.items():
    if found.get(name, value) != value:
      raise InputError(f'{name}={value!r} was given, but the weights have {name}={found[name]!r}.')
  return {**given, **found}


def count_layers(arrays: Mapping[str, np.ndarray], prefix: str) -> int:
  """Number of layers `prefix.0.`, `prefix.1.`, … in the file."""
  found = {int(k.split('.')[1]) for k in arrays if k.startswith(f'{prefix}.')}
  return max(found) + 1 if found else 0

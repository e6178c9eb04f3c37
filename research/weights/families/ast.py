"""Sizes, positions and parts that the official weights of AST and those of transformers share."""

import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.features.frontend import Frontend
from research.models.ast import AST, HEAD, PREFIX, SIZES
from research.models.finetuned import Finetuned, encoder_of, route
from research.models.heads.classifier import Classifier
from research.nn.positions import resize_table
from research.weights.families import vit

# What does not show in the arrays.
UNSEEN = ('padding', 'frames', 'time_stride', 'frequency_stride', 'epsilon')


def check_head(model: nn.Module) -> Classifier | None:
  """The published head of a model; None for an encoder alone.

  Raises:
    InputError: it has another head.
  """
  head = model.top if isinstance(model, Finetuned) else None
  if not isinstance(encoder_of(model), AST):
    raise InputError(f'{type(model).__name__} is not an AST.')
  if head is None:
    return None
  if not isinstance(head, Classifier) or (head.pooling, head.norms) != ('cls', True):
    raise InputError(
      "This AST has another head than the published one: 'classifier' with pooling='cls' and a "
      'norm behind it.'
    )
  return head


def sizes(width: int, depth: int, hidden: int, given: Mapping[str, Any]) -> dict[str, Any]:
  """Arguments that the shapes of the arrays show, and the heads of a published size."""
  found: dict[str, Any] = dict(width=width, depth=depth, mlp_ratio=hidden / width)
  names = [n for n, s in SIZES.items() if (s.width, s.depth) == (width, depth)]
  if names:
    found |= dict(size=names[0])
  heads = {s.heads for s in SIZES.values() if s.width == width}
  if 'heads' not in given and len(heads) == 1:
    found |= dict(heads=heads.pop())
  elif 'heads' not in given:
    raise InputError(
      f'An AST of width {width} and depth {depth} is in no table: give its number of heads, '
      'heads=… (launch.convert: --args=heads=…).'
    )
  return found


def frames(tokens: int, patch: int, given: Mapping[str, Any], resized: bool) -> int:
  """The length of the spectrogram whose patches fill a table: the given one, else 1024 if it fits,
  else the shortest.

  Args:
    tokens: patches of the table.
    patch: side of a patch.
    given: arguments of the model that are known.
    resized: whether the given length may be another than the table's.

  Raises:
    InputError: no grid of these strides has that number of patches, or another length is given.
  """
  bins = Frontend.from_dict(given.get('frontend') or {}).num_features
  columns = (bins - patch) // given.get('frequency_stride', 10) + 1
  if 'frames' in given and resized:
    return int(given['frames'])
  if tokens % columns:
    raise InputError(
      f'The position table holds {tokens} patches, which are no rows of {columns}: give '
      'frequency_stride=…, time_stride=… or the frontend.'
    )
  stride = given.get('time_stride', 10)
  least = patch + stride * (tokens // columns - 1)
  found = given.get('frames', 1024 if least <= 1024 < least + stride else least)
  if not least <= found < least + stride:
    raise InputError(
      f'frames={found} is stated, but the position table holds {tokens // columns} x {columns} '
      f'patches, which are those of {least} to {least + stride - 1} frames.'
    )
  return found


def named(found: Mapping[str, Any], classes: int) -> tuple[str, dict[str, Any]]:
  """(model name, arguments): under the published head where there are classes."""
  if not classes:
    return 'ast', dict(found)
  head = {'name': 'classifier', 'args': dict(HEAD, classes=classes)}
  return 'finetuned', route({'encoder': {'name': 'ast'}, 'head': head}, found)


def fit_table(table: np.ndarray, model: AST, image: bool) -> np.ndarray:
  """Positions [1, n, d], rows of bins, for the grid of a model; those of a square image, or of
  audio of another length."""
  rows, columns = model.grid
  patches = table.shape[1] - len(PREFIX)
  if patches == rows * columns and not image:
    return table
  side = round(patches**0.5)
  old = (side, side) if image else (columns, patches // columns)
  return resize_table(table[0], old, (columns, rows), len(PREFIX))[None]


def lacks(model: nn.Module) -> str:
  """What the way back does not say of a model, see `vit.lacks`."""
  head = check_head(model)
  left = [vit.lacks(model, UNSEEN)]
  if head is not None and head.norm_epsilon != HEAD['norm_epsilon']:
    left.append(f"norm_epsilon (on the way back: --args='norm_epsilon={head.norm_epsilon}')")
  if head is not None and head.labels:
    left.append(f"labels (on the way back: --args='labels={json.dumps(list(head.labels))}')")
  return '; '.join(filter(None, left))

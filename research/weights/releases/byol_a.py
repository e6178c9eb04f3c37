"""Official BYOL-A weights (nttcslab/byol-a): state dicts of AudioNTT2020 and AudioNTT2022.

They hold the encoder alone, and not the mean and deviation that its input was normalised by.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.features import views
from research.models.byol_a import SIZES, ByolA
from research.weights import tables
from research.weights.families.vit import settle
from research.weights.release import Release
from research.weights.stated import NOTHING, Stated
from research.weights.tables import Rule, linear, vector


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need.

  Raises:
    InputError: not such a state dict, or no statistics of the front-end.
  """
  del stated
  need = ('features.0.weight', 'fc.0.weight', 'fc.3.weight')
  absent = [key for key in need if key not in arrays]
  if absent:
    raise InputError(f'The file holds no {", ".join(absent)}: it is no encoder of BYOL-A.')
  blocks = sum(f'features.{4 * i}.weight' in arrays for i in range(len(arrays)))
  channels = arrays['features.0.weight'].shape[0]
  hidden, inputs = arrays['fc.0.weight'].shape
  width = arrays['fc.3.weight'].shape[0]
  bins = inputs // channels * 2**blocks
  sizes = [
    name for name, s in SIZES.items() if (s.blocks, s.hidden, s.width) == (blocks, hidden, width)
  ]
  # Three blocks are the first version, two the second, whose embedding is stacked.
  size = given.get('size') or (sizes[0] if sizes else 'v2' if blocks == 2 else 'v1_d2048')
  if blocks == 2 and not {'stack', 'size'} & set(given):
    warnings.warn(
      'The weights do not say whether convolutions and layers are stacked in the embedding: '
      'stack=True is assumed, as published for AudioNTT2022; give stack=False for the others.',
      stacklevel=2,
    )
  frontend = dict(given.get('frontend') or {})
  if not {'mean', 'std'} <= set(frontend):
    raise InputError(
      'The weights of BYOL-A do not hold the statistics of their input, which are those of the '
      'data that it is used on: give frontend={"mean": …, "std": …} (launch.convert: --args=…). '
      'Published for Speech Commands v2: -5.4919195 and 5.0389895 for v1, -9.660292 and 4.7219563 '
      'for v2.'
    )
  found = dict(
    size=size, blocks=blocks, channels=channels, hidden=hidden, width=width, norm='frontend',
    projection=0, frontend={**frontend, 'num_mel_bins': bins},
  )  # fmt: skip
  return 'byol_a', found | settle(found, {k: v for k, v in given.items() if k != 'frontend'})


def rules(model: nn.Module) -> list[Rule]:
  """The key table."""
  found = [*linear('fc.0', 'params/encoder/fc1'), *linear('fc.3', 'params/encoder/fc2')]
  for i in range(model.blocks):
    conv, norm = f'features.{4 * i}', f'features.{4 * i + 1}'
    ours = f'encoder/block{i}'
    found += [
      Rule(f'{conv}.weight', f'params/{ours}/conv/kernel', 'conv2d'),
      Rule(f'{conv}.bias', f'params/{ours}/conv/bias'),
      *vector(norm, f'params/{ours}/norm'),
      Rule(f'{norm}.running_mean', f'batch_stats/{ours}/norm/mean'),
      Rule(f'{norm}.running_var', f'batch_stats/{ours}/norm/var'),
      Rule(f'{norm}.num_batches_tracked', f'batch_stats/{ours}/norm/count', 'count'),
    ]
  return found


def encoder_alone(
  model: nn.Module, variables: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
  """A model in pre-training as its encoder, normalised by the statistics that it has now.

  Raises:
    InputError: it is no BYOL-A.
  """
  if not isinstance(model, ByolA):
    raise InputError(f'{type(model).__name__} is not BYOL-A: its weights have no such layout.')
  if not model.projection:
    return model, dict(variables)
  if model.norm == 'running':
    s = variables['memory']['statistics']
    model = model.with_statistics(float(s['mean']), max(float(s['square']) ** 0.5, views.EPS))
  alone = model.clone(projection=0)
  flat = tables.flatten(nn.meta.unbox(variables))
  return alone, tables.nest({key: flat[key] for key in tables.expected_shapes(alone)}, alone)


def lacks(model: nn.Module) -> str:
  """The statistics of the input, without which the arrays cannot be used."""
  mean, std = model.frontend.mean, model.frontend.std
  return f'the statistics of the input (mean {mean:.7g}, std {std:.7g})'


# By what it is recognised, see `weights/detect.py`.
MARKS = (('features.0.weight', 'fc.0.weight', 'fc.3.weight'),)
RELEASE = Release(rules=rules, infer=infer, encoder_alone={'': encoder_alone}, lacks=lacks)

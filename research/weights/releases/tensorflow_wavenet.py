"""Variables of ibab/tensorflow-wavenet (3c973c0) by name, in an .npz: np.savez of {v.name: value}.

Names are those of its checkpoints, `wavenet/dilated_stack/layer0/filter`; biases have none of their
own there and are `Variable`, `Variable_1`, … of their layer, in the order filter, gate, dense,
skip. The keys of `WaveNetModel.variables` (`dilated_stack/layer0/filter_bias`) are read too. Slots
of optimisers are left out. Dilations do not show in the arrays: they are the published ones of 50
layers, else an argument, or in a `wavenet_params.json` beside the file.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models.wavenet import WaveNet
from research.weights.families.wavenet import check_model
from research.weights.release import Release
from research.weights.stated import NOTHING, Fact, Stated, check_agreement
from research.weights.tables import Rule

PARAMS = 'wavenet_params.json'
_STACK, _POST = 'wavenet/dilated_stack/layer{i}', 'wavenet/postprocessing'
# Biases of a layer, in the order in which they are made.
BIASES = ('filter', 'gate', 'dense', 'skip')
_RENAMED = {'gc_gateweights': 'gc_gate', 'gc_filtweights': 'gc_filter'}


def rules(model: nn.Module) -> list[Rule]:
  """The key table.

  Raises:
    InputError: another model, or one that this code cannot be.
  """
  wanted = {
    'weight_norm': False, 'scaled': False, 'first_bias': False, 'skip_start': False,
    'local': 'none', 'output': 'categorical',
  }  # fmt: skip
  check_model(model, 'tensorflow-wavenet', wanted)
  assert isinstance(model, WaveNet)
  n = 'layers'
  found = [
    Rule('wavenet/causal_layer/filter', 'params/first/kernel'),
    Rule(f'{_STACK}/filter', 'params/dilated/kernel~{i}@0', layers=n),
    Rule(f'{_STACK}/gate', 'params/dilated/kernel~{i}@1', layers=n),
    Rule(f'{_STACK}/dense', 'params/out/kernel~{i}', layers=n),
    Rule(f'{_STACK}/skip', 'params/skip/kernel~{i}', layers=n),
    Rule(f'{_POST}/postprocess1', 'params/head_0/kernel'),
    Rule(f'{_POST}/postprocess2', 'params/head_1/kernel'),
  ]
  if model.use_bias:
    ours = ('dilated/bias~{i}@0', 'dilated/bias~{i}@1', 'out/bias~{i}', 'skip/bias~{i}')
    names = ('Variable', 'Variable_1', 'Variable_2', 'Variable_3')
    found += [Rule(f'{_STACK}/{name}', f'params/{our}', layers=n) for name, our in zip(names, ours)]
    found += [Rule(f'{_POST}/{names[i]}', f'params/head_{i}/bias') for i in range(2)]
  if model.speakers:
    found += [
      Rule('wavenet/embeddings/gc_embedding', 'params/speaker_embedding'),
      Rule(f'{_STACK}/gc_filter', 'params/speaker_in/kernel~{i}@0', layers=n),
      Rule(f'{_STACK}/gc_gate', 'params/speaker_in/kernel~{i}@1', layers=n),
    ]
  return found


def renew(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same arrays by the names of checkpoints."""
  found = {}
  for key, value in arrays.items():
    name = key.split(':')[0]
    name = name if name.startswith('wavenet/') else f'wavenet/{name}'
    place, _, last = name.rpartition('/')
    if match := re.fullmatch(r'(\w+)_bias', last):
      order = BIASES if 'dilated_stack' in place else ('postprocess1', 'postprocess2')
      if match[1] in order:
        number = order.index(match[1])
        last = f'Variable_{number}' if number else 'Variable'
    found[f'{place}/{_RENAMED.get(last, last)}'] = value
  return found


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need.

  Raises:
    InputError: not such variables, dilations that nothing says, or a contradiction.
  """
  one, first = _STACK.format(i=0), 'wavenet/causal_layer/filter'
  absent = [k for k in (first, f'{one}/filter', f'{_POST}/postprocess2') if k not in arrays]
  if absent:
    raise InputError(
      f'The file holds no {", ".join(absent)}: it has no variables of tensorflow-wavenet.'
    )
  layers = sum(f'{_STACK.format(i=i)}/filter' in arrays for i in range(len(arrays)))
  taps, residual, width = arrays[f'{one}/filter'].shape
  first_taps, inputs, _ = arrays[first].shape
  found: dict[str, Any] = dict(
    size='ibab',
    layers=layers,
    kernel_size=taps,
    residual_channels=residual,
    gate_channels=2 * width,
    skip_channels=arrays[f'{one}/skip'].shape[2],
    quantize_channels=arrays[f'{_POST}/postprocess2'].shape[2],
    input='wave' if inputs == 1 else 'codes',
    first_taps=first_taps,
    use_bias=f'{one}/Variable' in arrays,
    speakers=0,
  )
  table = arrays.get('wavenet/embeddings/gc_embedding')
  if table is not None:
    found |= dict(zip(('speakers', 'speaker_channels'), table.shape))
  args = {**{k: f.value for k, f in stated.facts.items()}, **given}
  if layers != 50 and not {'dilations', 'stacks'} & set(args):
    raise InputError(
      f'The variables of {layers} layers do not say their dilations: give dilations=[1, 2, 4, …], '
      f'or put {PARAMS} beside the file.'
    )
  check_agreement(found, {k: v for k, v in given.items() if k != 'size'}, stated.facts)
  return 'wavenet', {**args, **found}


def describe(files: Mapping[str, Any]) -> Stated:
  """What `wavenet_params.json` says beside the arrays."""
  said = files.get(PARAMS)
  if not isinstance(said, Mapping) or 'dilations' not in said:
    return NOTHING
  found: dict[str, Any] = {'dilations': list(said['dilations'])}
  if said.get('sample_rate'):
    found['frontend'] = {'sample_rate': int(said['sample_rate'])}
  return Stated({name: Fact(value, PARAMS) for name, value in found.items()})


def compose(model: WaveNet) -> dict[str, Any]:
  """`wavenet_params.json` of a model, as tensorflow-wavenet reads it."""
  scalar = model.input == 'wave'
  return {
    PARAMS: dict(
      filter_width=model.kernel_size, sample_rate=model.frontend.sample_rate,
      dilations=list(model.dilations), residual_channels=model.residual_channels,
      dilation_channels=model.gate_channels // 2, quantization_channels=model.quantize_channels,
      skip_channels=model.skip_channels, use_biases=model.use_bias, scalar_input=scalar,
      initial_filter_width=model.first_taps if scalar else 32,
    )
  }  # fmt: skip


# By what it is recognised, see `weights/detect.py`.
MARKS = (('dilated_stack/layer0/filter', 'postprocessing/postprocess2', 'causal_layer/filter'),)
RELEASE = Release(
  rules=rules,
  infer=infer,
  files=(PARAMS,),
  describe=describe,
  renew=renew,
  compose=compose,
  ignored=(
    '*/Adam', '*/Adam_1', '*/RMSProp', '*/RMSProp_1', '*/Momentum', 'wavenet/beta*_power',
    'wavenet/global_step',
  ),
)  # fmt: skip

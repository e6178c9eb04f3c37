"""Weights of r9y9/wavenet_vocoder (a35fff7): `checkpoint_step*.pth`, those of the average too.

`hparams.json`, which its training writes beside them, says what the arrays do not show: stacks, the
spectrogram, gain and pre-emphasis. Without it the published figures stand for 24 and 30 layers, and
others are given as arguments. Statistics of the spectrogram (meanvar.joblib) are arguments too:
local_mean, local_scale.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models.wavenet import WaveNet
from research.weights import tables
from research.weights.families.wavenet import check_model
from research.weights.release import Release
from research.weights.stated import NOTHING, Fact, Stated, check_agreement
from research.weights.tables import Rule

HPARAMS = 'hparams.json'
# Stacks of the published recipes, by layers.
STACKS = {24: 4, 30: 3}
_UP = 'upsample_net.'


def normed(theirs: str, ours: str, bias: bool, layers: str = '') -> list[Rule]:
  """Rules of a Conv1d under weight norm."""
  row = '~{i}' if layers else ''
  found = [
    Rule(f'{theirs}.weight_v', f'params/{ours}/kernel{row}', 'conv1d', layers),
    Rule(f'{theirs}.weight_g', f'params/{ours}/kernel_scale{row}', 'scales', layers),
  ]
  last = Rule(f'{theirs}.bias', f'params/{ours}/bias{row}', layers=layers)
  return [*found, last] if bias else found


def rules(model: nn.Module) -> list[Rule]:
  """The key table.

  Raises:
    InputError: another model, or one that this code cannot be.
  """
  wanted = {
    'weight_norm': True, 'scaled': True, 'use_bias': True, 'first_bias': True, 'first_taps': 1,
    'skip_start': False, 'head_local': False, 'local_units': 0,
  }  # fmt: skip
  check_model(model, 'wavenet_vocoder', wanted)
  assert isinstance(model, WaveNet)
  t = 'conv_layers.{i}'
  found = [
    *normed('first_conv', 'first', True),
    *normed(f'{t}.conv', 'dilated', True, 'layers'),
    *normed(f'{t}.conv1x1_out', 'out', True, 'layers'),
    *normed(f'{t}.conv1x1_skip', 'skip', True, 'layers'),
    *normed('last_conv_layers.1', 'head_0', True),
    *normed('last_conv_layers.3', 'head_1', True),
  ]
  if model.speakers:
    found.append(Rule('embed_speakers.weight', 'params/speaker_embedding'))
    found += normed(f'{t}.conv1x1g', 'speaker_in', False, 'layers')
  if model.local != 'none':
    found += normed(f'{t}.conv1x1c', 'local_in', False, 'layers')
    inner = f'{_UP}upsample.' if model.conv_in else _UP
    if model.conv_in:
      found.append(Rule(f'{_UP}conv_in.weight', 'params/upsampler/conv_in/kernel', 'conv1d'))
    for i in range(len(model.scales) if model.upsample == 'nearest' else 0):
      up, ours = f'{inner}up_layers.{2 * i + 1}', f'params/upsampler/up_{i}'
      found += [
        Rule(f'{up}.weight_v', f'{ours}/kernel', 'conv2d'),
        Rule(f'{up}.weight_g', f'{ours}/kernel_scale', 'scales2d'),
      ]
  return found


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need.

  Raises:
    InputError: not such a state dict, stacks or spectrogram that nothing says, or a contradiction.
  """
  need = ('first_conv.weight_v', 'conv_layers.0.conv.weight_v', 'last_conv_layers.3.weight_v')
  absent = [key for key in need if key not in arrays]
  if absent:
    raise InputError(f'The file holds no {", ".join(absent)}: it is no WaveNet of wavenet_vocoder.')
  layers = sum(f'conv_layers.{i}.conv.weight_v' in arrays for i in range(len(arrays)))
  gate, residual, taps = arrays['conv_layers.0.conv.weight_v'].shape
  outputs, inputs = len(arrays[need[2]]), arrays[need[0]].shape[1]
  found: dict[str, Any] = dict(
    size='r9y9_mol' if inputs == 1 else 'r9y9_mulaw',
    layers=layers,
    kernel_size=taps,
    residual_channels=residual,
    gate_channels=gate,
    skip_channels=len(arrays['last_conv_layers.1.weight_v']),
    input='wave' if inputs == 1 else 'codes',
    output='logistics' if inputs == 1 else 'categorical',
  )
  if inputs == 1 and outputs % 3:
    raise InputError(
      f'These weights give {outputs} values a sample, no mixture of logistics (3 each): a WaveNet '
      'with another distribution cannot be read.'
    )
  found['mixtures' if inputs == 1 else 'quantize_channels'] = (
    outputs // 3 if inputs == 1 else outputs
  )
  found |= _speakers(arrays) | _local(arrays)
  defaults = {'stacks': STACKS.get(layers)}
  args = {**defaults, **{k: f.value for k, f in stated.facts.items()}, **dict(given)}
  if args['stacks'] is None and 'dilations' not in args:
    raise InputError(
      f'The weights of a WaveNet of {layers} layers do not say in how many stacks they are: give '
      f'stacks=…, or put {HPARAMS} beside them.'
    )
  if found['local'] != 'none' and not found['scales'] and 'scales' not in args:
    raise InputError(
      'The weights have no upsampling network, so its rate is not known: give scales=[hop].'
    )
  found = {k: v for k, v in found.items() if k != 'scales' or v}
  check_agreement(found, {k: v for k, v in given.items() if k != 'size'}, stated.facts)
  args = {k: v for k, v in args.items() if v is not None}
  return 'wavenet', {**args, **found}


def _speakers(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  table = arrays.get('embed_speakers.weight')
  if table is None and 'conv_layers.0.conv1x1g.weight_v' in arrays:
    raise InputError(
      'These weights are conditioned on vectors that are not in the file (gin_channels without a '
      'speaker embedding): they cannot be read.'
    )
  return (
    {'speakers': 0} if table is None else dict(zip(('speakers', 'speaker_channels'), table.shape))
  )


def _local(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  kernel = arrays.get('conv_layers.0.conv1x1c.weight_v')
  if kernel is None:
    return dict(local='none', local_channels=0, local_pad=0, scales=(), conv_in=False)
  found: dict[str, Any] = dict(local='mel', local_channels=kernel.shape[1])
  conv_in = arrays.get(f'{_UP}conv_in.weight')
  found['conv_in'] = conv_in is not None
  if conv_in is not None:
    found['local_pad'] = (conv_in.shape[2] - 1) // 2
  stages = {
    int(m[1]): x for k, x in arrays.items() if (m := re.search(r'up_layers\.(\d+)\.weight_v$', k))
  }
  if sorted(stages) != [2 * i + 1 for i in range(len(stages))]:
    raise InputError(
      'The upsampling network of these weights has activations or transposed convolutions between '
      'its stages: only that of the published recipes can be read.'
    )
  kernels = [stages[i] for i in sorted(stages)]
  found['scales'] = tuple((k.shape[3] - 1) // 2 for k in kernels)
  found['upsample'] = 'nearest' if kernels else 'repeat'
  if kernels:
    found['upsample_bands'] = kernels[0].shape[2]
  return found


def describe(files: Mapping[str, Any]) -> Stated:
  """What `hparams.json` says beside the arrays.

  Raises:
    InputError: it is of another kind of model.
  """
  said = files.get(HPARAMS)
  if not isinstance(said, Mapping) or 'stacks' not in said:
    return NOTHING
  if said.get('output_distribution', 'Logistic') != 'Logistic':
    raise InputError(
      f'{HPARAMS} says output_distribution={said["output_distribution"]!r}: only Logistic can be '
      'read.'
    )
  found: dict[str, Any] = {'stacks': said['stacks']}
  if said.get('sample_rate'):
    found['frontend'] = {'sample_rate': int(said['sample_rate'])}
  if said.get('cin_channels', -1) > 0:
    found['local_pad'] = said.get('cin_pad', 0)
    names = dict(
      sample_rate='sample_rate', n_fft='fft_size', hop='hop_size', bands='num_mels', lowest='fmin',
      highest='fmax',
    )  # fmt: skip
    found['mel'] = {ours: said[theirs] for ours, theirs in names.items() if said.get(theirs)}
    if not said.get('upsample_conditional_features', True):
      found['scales'] = [said['hop_size']]
  found['gain'] = float(said.get('global_gain_scale') or 1.0)
  found['preemphasis'] = 0.85 if said.get('preprocess') == 'preemphasis' else 0.0
  return Stated({name: Fact(value, HPARAMS) for name, value in found.items()})


def compose(model: WaveNet) -> dict[str, Any]:
  """`hparams.json` of a model, as wavenet_vocoder reads it."""
  mel = dict(model.mel or {})
  logistics = model.output == 'logistics'
  hop = model.hop if model.local != 'none' else mel.get('hop', 256)
  said = dict(
    name='wavenet_vocoder', input_type='raw' if logistics else 'mulaw-quantize',
    quantize_channels=65_536 if logistics else model.quantize_channels,
    preprocess='preemphasis' if model.preemphasis else '',
    postprocess='inv_preemphasis' if model.preemphasis else '', global_gain_scale=model.gain,
    sample_rate=model.frontend.sample_rate, num_mels=mel.get('bands', model.local_channels or 80),
    fmin=mel.get('lowest', 125), fmax=mel.get('highest', 7600), fft_size=mel.get('n_fft', 1024),
    hop_size=hop, output_distribution='Logistic', out_channels=model.outputs, layers=model.layers,
    stacks=model.stacks, residual_channels=model.residual_channels,
    gate_channels=model.gate_channels, skip_out_channels=model.skip_channels, dropout=0.0,
    kernel_size=model.kernel_size, cin_channels=model.local_channels or -1, cin_pad=model.local_pad,
    upsample_conditional_features=model.upsample == 'nearest' and model.local != 'none',
    upsample_net='ConvInUpsampleNetwork' if model.conv_in else 'UpsampleNetwork',
    upsample_params={'upsample_scales': list(model.scales)},
    gin_channels=model.speaker_channels if model.speakers else -1, n_speakers=model.speakers or 7,
  )  # fmt: skip
  return {HPARAMS: said}


def lacks(model: WaveNet) -> str:
  """Statistics of the spectrogram, which lie in a file of their own there."""
  plain = (model.local_mean, model.local_scale) == (0.0, 1.0)
  return '' if plain else 'local_mean and local_scale, the statistics of the spectrogram'


# By what it is recognised, see `weights/detect.py`.
MARKS = (('first_conv.weight_v', 'conv_layers.0.conv1x1_skip', 'last_conv_layers.3'),)
RELEASE = Release(
  rules=rules,
  infer=infer,
  files=(HPARAMS,),
  describe=describe,
  renew=tables.without_module,
  compose=compose,
  lacks=lacks,
)

"""EnCodec's key table in either spelling: encodec's own, and transformers'.

Arrays show all sizes of the networks; what they do not show (causality, segments, bandwidths,
padding) is that of the published model of their channels and norm, unless files or caller say
otherwise.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models import codec
from research.models.encodec import Encodec
from research.weights.stated import NOTHING, Stated, settle
from research.weights.tables import Rule


@dataclasses.dataclass(frozen=True)
class Names:
  """How a spelling names things.

  Attributes:
    row: where the layers of a network are.
    conv, transposed: of the convolution within its layer.
    norm: of its norm over time.
    gain, direction: of weight norm.
    codebook: of a codebook, with {i}.
  """

  row: str
  conv: str
  transposed: str
  norm: str
  gain: str
  direction: str
  codebook: str


OWN = Names(
  'model', 'conv.conv', 'convtr.convtr', 'conv.norm', 'weight_g', 'weight_v',
  'quantizer.vq.layers.{i}._codebook',
)  # fmt: skip
TRANSFORMERS = Names(
  'layers', 'conv', 'conv', 'norm', 'weight_g', 'weight_v', 'quantizer.layers.{i}.codebook'
)
# The newer spelling of weight norm by PyTorch.
RENAMED = {
  'parametrizations.weight.original0': 'weight_g',
  'parametrizations.weight.original1': 'weight_v',
}
CODEBOOK = {'embed': 'vectors', 'embed_avg': 'sums', 'cluster_size': 'counts', 'inited': 'begun'}


def rules(model: nn.Module, names: Names) -> list[Rule]:
  """The key table; raises InputError for another model."""
  if not isinstance(model, Encodec):
    raise InputError(f'{type(model).__name__} is not an EnCodec.')
  how, rows = model.seanet, []
  for part, made in (('encoder', codec.encoder_layers), ('decoder', codec.decoder_layers)):
    for place, layer in enumerate(made(how)):
      theirs, ours = f'{part}.{names.row}.{place}', f'params/{part}/layers_{place}'
      if isinstance(layer, codec.Residual):
        rows += _convolution(how, names, f'{theirs}.block.1', f'{ours}/first')
        rows += _convolution(how, names, f'{theirs}.block.3', f'{ours}/second')
        if not how.true_skip:
          rows += _convolution(how, names, f'{theirs}.shortcut', f'{ours}/shortcut')
      elif isinstance(layer, codec.Recurrence):
        for i in range(how.lstm):
          rows += _lstm(f'{theirs}.lstm', f'{ours}/layers_{i}/forward', i)
      elif isinstance(layer, codec.Convolution):
        transposed = isinstance(layer, codec.ConvTranspose)
        rows += _convolution(how, names, theirs, ours, transposed)
  for theirs, ours in CODEBOOK.items():
    layout = 'flag' if theirs == 'inited' else 'same'
    rows += [
      Rule(f'{names.codebook.format(i=i)}.{theirs}', f'codebooks/quantizer/{ours}#{i}', layout)
      for i in range(model.quantizers)
    ]
  return rows


def _convolution(
  how: codec.Seanet, names: Names, theirs: str, ours: str, transposed: bool = False
) -> list[Rule]:
  conv = names.transposed if transposed else names.conv
  layout = 'conv1d_transposed' if transposed else 'conv1d'
  norm = theirs + '.' + (names.norm.replace('conv.', 'convtr.') if transposed else names.norm)
  theirs = f'{theirs}.{conv}'
  rows = [Rule(f'{theirs}.bias', f'{ours}/bias')]
  if how.norm == 'weight_norm':
    gain = Rule(f'{theirs}.{names.gain}', f'{ours}/gain', 'scales')
    return [*rows, gain, Rule(f'{theirs}.{names.direction}', f'{ours}/kernel', layout)]
  rows += [Rule(f'{theirs}.weight', f'{ours}/kernel', layout)]
  if how.norm == 'time_group_norm':
    rows += [
      Rule(f'{norm}.weight', f'{ours}/norm_scale'), Rule(f'{norm}.bias', f'{ours}/norm_bias')
    ]  # fmt: skip
  return rows


def _lstm(theirs: str, ours: str, i: int) -> list[Rule]:
  return [
    Rule(f'{theirs}.weight_ih_l{i}', f'{ours}/kernel', 'linear'),
    Rule(f'{theirs}.weight_hh_l{i}', f'{ours}/recurrent', 'linear'),
    Rule(f'{theirs}.bias_ih_l{i}', f'{ours}/bias'),
    Rule(f'{theirs}.bias_hh_l{i}', f'{ours}/recurrent_bias'),
  ]


def renew(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Arrays under one spelling of weight norm."""
  renewed = {}
  for key, x in arrays.items():
    for new, old in RENAMED.items():
      key = key.replace(new, old)
    renewed[key] = x
  return renewed


def infer(
  arrays: Mapping[str, np.ndarray],
  given: Mapping[str, Any],
  stated: Stated = NOTHING,
  names: Names = OWN,
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need.

  Raises:
    InputError: arrays that are missing, or that contradict the files or the caller.
  """
  found = sizes(arrays, names)
  stereo = found['channels'] == 2 and found['norm'] == 'time_group_norm'
  size = given.get('size') or ('48khz' if stereo else '24khz')
  defaults: dict[str, Any] = dict(size=size, frontend={}, learning='published')
  return 'encodec', settle(found, given, stated, defaults)


def sizes(arrays: Mapping[str, np.ndarray], names: Names) -> dict[str, Any]:
  """What arrays show of a model."""
  pattern = re.compile(rf'encoder\.{names.row}\.(\d+)\.{re.escape(names.conv)}\.weight(_v)?$')
  shapes = {int(m[1]): arrays[m[0]].shape for m in map(pattern.match, arrays) if m}
  blocks = re.compile(rf'encoder\.{names.row}\.(\d+)\.block\.1\.{re.escape(names.conv)}\.weight')
  residual = sorted({int(m[1]) for m in map(blocks.match, arrays) if m})
  if len(shapes) < 3 or not residual:
    raise InputError(
      f'The weights have no encoder.{names.row}.0.{names.conv} and no residual units after it: '
      'they are not those of an EnCodec.'
    )
  first, *strided, last = (shapes[i] for i in sorted(shapes))
  weight_norm = any(k.endswith('weight_v') for k in arrays)
  unit = f'encoder.{names.row}.{residual[0]}.block.1.{names.conv}.weight'
  narrow = arrays[f'{unit}_v' if weight_norm else unit].shape
  prefix, suffix = names.codebook.split('{i}')
  books = [k for k in arrays if k.startswith(prefix) and k.endswith(f'{suffix}.embed')]
  if not books:
    raise InputError(f'The weights have no {prefix}0{suffix}.embed: they hold no codebooks.')
  norm = 'weight_norm' if weight_norm else 'none'
  if f'encoder.{names.row}.0.{names.norm}.weight' in arrays:
    norm = 'time_group_norm'
  lstm = rf'encoder\.{names.row}\.\d+\.lstm\.weight_ih_l\d+$'
  return dict(
    channels=first[1],
    n_filters=first[0],
    kernel_size=first[2],
    dimension=last[0],
    last_kernel_size=last[2],
    ratios=tuple(shape[2] // 2 for shape in reversed(strided)),
    n_residual_layers=len(residual) // len(strided),
    residual_kernel_size=narrow[2],
    compress=narrow[1] // narrow[0],
    lstm=sum(re.match(lstm, key) is not None for key in arrays),
    true_skip=not any('.shortcut.' in key for key in arrays),
    norm=norm,
    quantizers=len(books),
    codebook_size=len(arrays[books[0]]),
  )

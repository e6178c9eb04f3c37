"""wav2vec and vq-wav2vec under fairseq's names: one model class there and here."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models.wav2vec import stem_layers
from research.weights.families.fairseq_config import cast, cfg_model, frontend, temperature
from research.weights.release import Release
from research.weights.stated import NOTHING, Fact, Stated, settle
from research.weights.tables import Rule, linear

_ENCODER, _CONTEXT = 'feature_extractor.conv_layers', 'feature_aggregator.conv_layers'
_STEPS, _QUANTIZER = 'wav2vec_predictions.project_to_steps', 'vector_quantizer'

# Of fairseq's Wav2VecConfig: what the arrays do not show, and what only one value of can be read.
_FACTS = {
  'skip_connections_agg': 'skip',
  'log_compression': 'log_compression',
  'activation': 'activation',
  'residual_scale': 'residual_scale',
  'agg_zero_pad': 'zero_pad',
}
_ONLY = {
  'aggregator': 'cnn',
  'project_features': 'none',
  'skip_connections_feat': False,
  'non_affine_group_norm': False,
}
# How it was trained; of two losses the criterion chooses.
_TRAINING = {
  'num_negatives': ('negatives', int),
  'dropout': ('dropout', float),
  'dropout_features': ('input_dropout', float),
  'dropout_agg': ('context_dropout', float),
  'vq_gamma': ('gamma', float),
}


def describe(files: Mapping[str, Any]) -> Stated:
  """What the checkpoint's configuration says, if there is one that is plain data.

  Args:
    files: 'cfg': {'model': …}, or the flat arguments that old checkpoints have.

  Raises:
    InputError: a value that the model does not know.
  """
  cfg = files.get('cfg')
  if not isinstance(cfg, Mapping) or not cfg:
    return NOTHING
  model = cfg_model(cfg)
  for key, known in _ONLY.items():
    if model.get(key, known) != known:
      raise InputError(
        f'cfg says {key}={model[key]!r}; models with {key}={known!r} can be read, and no others.'
      )
  facts = {ours: Fact(model[key], f'cfg ({key})') for key, ours in _FACTS.items() if key in model}
  # A text there: 'auto' or a number.
  if str(model.get('offset', 'auto')).isdecimal():
    facts['offset'] = Fact(int(model['offset']), 'cfg (offset)')
  training = {o: cast(kind, model[k], k) for k, (o, kind) in _TRAINING.items() if k in model}
  return Stated(facts, frontend([cfg]), training | temperature(model, 'vq_temp'))


def compose(model: Any) -> dict[str, dict[str, Any]]:
  """What `describe` and fairseq's loader read, of a model of ours: {'cfg': …}, plain values."""
  section = {key: getattr(model, ours) for key, ours in _FACTS.items()}
  section |= {key: getattr(model, ours) for key, (ours, _) in _TRAINING.items()}
  section |= {
    '_name': 'wav2vec',
    'prediction_steps': model.steps,
    'conv_feature_layers': str(list(stem_layers(model.channels, model.encoder_layers))),
    'conv_aggregator_layers': str([(model.channels, kernel, 1) for kernel in model.kernels]),
    'no_conv_bias': not model.conv_bias,
    'offset': 'auto' if model.offset is None else str(model.offset),
    'vq_type': model.vq_type,
    'vq_vars': model.codebook_size,
    'vq_groups': model.groups,
    'vq_depth': model.head_depth,
    'combine_groups': model.combine_groups,
    'vq_temp': [model.temperature_start, model.temperature_end, model.temperature_decay],
    'infonce': True,
    **_ONLY,
  }
  front = {'normalize': model.frontend.normalise, 'sample_rate': model.frontend.sample_rate}
  task = {'_name': 'audio_pretraining', 'data': '', **front}
  return {'cfg': {'model': section, 'task': task}}


def _convolution(theirs: str, ours: str, layers: str, conv: int, bias: bool) -> list[Rule]:
  """Rules of a row of convolutions with norms, which stand two places behind them."""
  theirs, norm = f'{theirs}.{{i}}.{conv}', f'{theirs}.{{i}}.{conv + 2}'
  return [
    Rule(f'{theirs}.weight', f'{ours}/conv_{{i}}/kernel', 'conv1d', layers),
    *([Rule(f'{theirs}.bias', f'{ours}/conv_{{i}}/bias', layers=layers)] if bias else []),
    Rule(f'{norm}.weight', f'{ours}/conv_{{i}}/norm_scale', layers=layers),
    Rule(f'{norm}.bias', f'{ours}/conv_{{i}}/norm_bias', layers=layers),
  ]


def _quantizer(model: nn.Module) -> list[Rule]:
  ours = 'params/quantizer'
  if model.vq_type == 'kmeans':
    projection = f'{_QUANTIZER}.projection'
    return [
      Rule(f'{_QUANTIZER}.embedding', f'{ours}/codebook', 'grouped_codebook'),
      Rule(f'{projection}.0.weight', f'{ours}/kernel', 'grouped', heads='groups'),
      Rule(f'{projection}.1.weight', f'{ours}/norm_scale'),
      Rule(f'{projection}.1.bias', f'{ours}/norm_bias'),
    ]
  head = f'{_QUANTIZER}.weight_proj'
  last = model.head_depth - 1
  return [
    Rule(f'{_QUANTIZER}.vars', f'{ours}/codebook', 'codebook', heads='codebooks'),
    *(rule for i in range(last) for rule in linear(f'{head}.{i}.0', f'{ours}/hidden_{i}')),
    *linear(f'{head}.{last}' if last else head, f'{ours}/logits'),
  ]


def rules(model: nn.Module) -> list[Rule]:
  """The key table of a model."""
  context = _convolution(_CONTEXT, 'params/aggregator', 'depth', 1, model.conv_bias)
  return [
    *_convolution(_ENCODER, 'params/feature_extractor', 'encoder_layers', 0, False),
    *context,
    *(_quantizer(model) if model.vq_type != 'none' else []),
    Rule(f'{_STEPS}.weight', 'params/predictor/kernel', 'steps'),
    Rule(f'{_STEPS}.bias', 'params/predictor/bias'),
  ]


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need.

  What does not show in them are skip connections, log compression, the activation and the number of
  distractors. They are taken from the checkpoint's cfg or args (`describe`) or else from the
  published size with that quantiser: 'vq_gumbel' and 'vq_kmeans' (GELU, no log compression), and
  without one 'base' for five encoder layers (none of both) or else 'large' (both). Give size=…, or
  skip=…, log_compression=… and activation=…, where bare arrays were trained otherwise.
  """
  need = (f'{_ENCODER}.0.0.weight', f'{_CONTEXT}.0.1.weight', f'{_STEPS}.weight')
  absent = [k for k in need if k not in arrays]
  if absent:
    raise InputError(f'The file holds no {", ".join(absent)}: these are no weights of wav2vec.')
  channels = arrays[f'{_ENCODER}.0.0.weight'].shape[0]
  count = _layers(arrays, _CONTEXT)
  found: dict[str, Any] = dict(
    channels=channels,
    encoder_layers=_layers(arrays, _ENCODER),
    kernels=tuple(arrays[f'{_CONTEXT}.{i}.1.weight'].shape[-1] for i in range(count)),
    conv_bias=f'{_CONTEXT}.0.1.bias' in arrays,
    steps=arrays[f'{_STEPS}.weight'].shape[-1],
    **_codebook(arrays, channels),
  )
  size = f'vq_{found["vq_type"]}'
  if found['vq_type'] == 'none':
    size = 'base' if found['encoder_layers'] == 5 else 'large'
  if 'kernels' in given:
    given = {**given, 'kernels': tuple(given['kernels'])}
  return 'wav2vec', settle(found, given, stated, {'size': size})


def _layers(arrays: Mapping[str, np.ndarray], prefix: str) -> int:
  count = 0
  while any(k.startswith(f'{prefix}.{count}.') for k in arrays):
    count += 1
  return count


def _codebook(arrays: Mapping[str, np.ndarray], channels: int) -> dict[str, Any]:
  """Kind and sizes of the quantiser."""
  if f'{_QUANTIZER}.embedding' in arrays:
    codes, books, part = arrays[f'{_QUANTIZER}.embedding'].shape
    groups = channels // part
    return dict(
      vq_type='kmeans', codebook_size=codes, groups=groups, combine_groups=groups > 1 and books == 1
    )
  if f'{_QUANTIZER}.vars' not in arrays:
    return dict(vq_type='none')
  head = f'{_QUANTIZER}.weight_proj'
  depth = 1 + sum(k.startswith(f'{head}.') and k.endswith('.0.weight') for k in arrays)
  last = f'{head}.{depth - 1}.bias' if depth > 1 else f'{head}.bias'
  if last not in arrays:
    raise InputError(f'The file holds {_QUANTIZER}.vars, but no {last}.')
  _, rows, part = arrays[f'{_QUANTIZER}.vars'].shape
  groups = channels // part
  codes = arrays[last].shape[0] // groups
  return dict(
    vq_type='gumbel', codebook_size=codes, groups=groups, head_depth=depth,
    combine_groups=groups > 1 and rows == codes,
  )  # fmt: skip


# By what it is recognised, see `weights/detect.py`.
MARKS = (('feature_aggregator.', 'feature_extractor.'),)
RELEASE = Release(rules=rules, infer=infer, describe=describe, compose=compose)

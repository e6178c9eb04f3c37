"""EnCodec under transformers' names (EncodecModel), beside its config.json."""

import functools
from collections.abc import Mapping
from typing import Any

from research.errors import InputError
from research.weights.families import encodec as family
from research.weights.release import Release
from research.weights.stated import NOTHING, Fact, Stated

# config.json -> (ours, transformers' default).
CONFIG: dict[str, tuple[str, Any]] = {
  'audio_channels': ('channels', 1),
  'hidden_size': ('dimension', 128),
  'num_filters': ('n_filters', 32),
  'num_residual_layers': ('n_residual_layers', 1),
  'upsampling_ratios': ('ratios', (8, 5, 4, 2)),
  'norm_type': ('norm', 'weight_norm'),
  'kernel_size': ('kernel_size', 7),
  'last_kernel_size': ('last_kernel_size', 7),
  'residual_kernel_size': ('residual_kernel_size', 3),
  'dilation_growth_rate': ('dilation_base', 2),
  'use_causal_conv': ('causal', True),
  'pad_mode': ('pad_mode', 'reflect'),
  'compress': ('compress', 2),
  'num_lstm_layers': ('lstm', 2),
  'trim_right_ratio': ('trim_right_ratio', 1.0),
  'codebook_size': ('codebook_size', 1024),
  'normalize': ('normalize', False),
  'target_bandwidths': ('bandwidths', (1.5, 3.0, 6.0, 12.0, 24.0)),
  'chunk_length_s': ('segment', None),
}


def describe(files: Mapping[str, Any]) -> Stated:
  """What config.json says."""
  config = files.get('config.json')
  if config is None:
    return NOTHING
  if not isinstance(config, Mapping) or config.get('model_type') != 'encodec':
    kind = config.get('model_type') if isinstance(config, Mapping) else config
    raise InputError(f"config.json says model_type={kind!r}; expected 'encodec'.")
  if config.get('codebook_dim', config.get('hidden_size', 128)) != config.get('hidden_size', 128):
    raise InputError(
      f'config.json says codebook_dim={config["codebook_dim"]} and hidden_size='
      f'{config.get("hidden_size", 128)}: codecs where the two are equal can be read.'
    )
  facts = {}
  for key, (ours, default) in CONFIG.items():
    value = config.get(key, default)
    value = tuple(value) if isinstance(value, list) else value
    facts[ours] = Fact(value, f'config.json ({key})')
  facts['true_skip'] = Fact(not config.get('use_conv_shortcut', True), 'config.json')
  if config.get('overlap') is not None:
    facts['overlap'] = Fact(config['overlap'], 'config.json (overlap)')
  rate = Fact(config.get('sampling_rate', 24_000), 'config.json (sampling_rate)')
  return Stated(facts, {'sample_rate': rate})


def compose(model: Any) -> dict[str, dict[str, Any]]:
  """config.json and preprocessor_config.json of a folder that transformers opens."""
  config = {key: getattr(model, ours) for key, (ours, _) in CONFIG.items()}
  config = {k: list(x) if isinstance(x, tuple) else x for k, x in config.items()}
  rate = model.frontend.sample_rate
  segments = {'chunk_length_s': model.segment, 'overlap': model.overlap if model.segment else None}
  config |= {
    'model_type': 'encodec',
    'architectures': ['EncodecModel'],
    'sampling_rate': rate,
    'codebook_dim': model.dimension,
    'use_conv_shortcut': not model.true_skip,
    **segments,
  }
  preprocessor = {
    'feature_extractor_type': 'EncodecFeatureExtractor',
    'feature_size': model.channels,
    'sampling_rate': rate,
    'padding_value': 0.0,
    'return_attention_mask': True,
    **segments,
  }
  return {'config.json': config, 'preprocessor_config.json': preprocessor}


# By what it is recognised, see `weights/detect.py`.
MARKS = (('encoder.layers.0.conv.', 'quantizer.layers.0.codebook.'),)
MODEL_TYPE = 'encodec'
RELEASE = Release(
  rules=functools.partial(family.rules, names=family.TRANSFORMERS),
  infer=functools.partial(family.infer, names=family.TRANSFORMERS),
  files=('config.json', 'preprocessor_config.json'),
  describe=describe,
  compose=compose,
  renew=family.renew,
)

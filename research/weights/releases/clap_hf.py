"""CLAP under transformers' names: ClapModel, LAION's weights without transforms and tagging head.

config.json says the epsilon of the text tower's layer norms, preprocessor_config.json the
front-end: both are taken as they are said. (The class's own default of `frequency_min` is 0; the
published folders have 50.) Counters of batch norms and tables that are computed are left out.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models.clap import CLAP
from research.weights import tables
from research.weights.families import clap as family
from research.weights.release import Release
from research.weights.stated import NOTHING, Fact, Stated, check_agreement
from research.weights.tables import Rule, linear

_AUDIO, _TEXT = 'audio_model.audio_encoder.', 'text_model.'
_SIZES = {96: 'laion', 128: 'laion_base', 256: 'laion_large'}
# {part of config.json: {name there: (ours, default there)}}
_FACTS: dict[str, dict[str, tuple[str, Any]]] = {
  'text_config': {
    'hidden_size': ('text_width', 768),
    'num_hidden_layers': ('text_depth', 12),
    'num_attention_heads': ('text_heads', 12),
    'intermediate_size': ('text_hidden', 3072),
    'vocab_size': ('vocabulary', 50265),
    'max_position_embeddings': ('positions', 514),
    'layer_norm_eps': ('text_epsilon', 1e-12),
  },
  'audio_config': {
    'patch_embeds_hidden_size': ('audio_width', 96),
    'depths': ('depths', (2, 2, 6, 2)),
    'num_attention_heads': ('audio_heads', (4, 8, 16, 32)),
    'enable_fusion': ('fusion', False),
  },
  '': {'projection_dim': ('dim', 512)},
}
# Of these our towers know one value, which is the default too.
_ONLY: dict[str, dict[str, Any]] = {
  'text_config': {'hidden_act': 'gelu', 'type_vocab_size': 1, 'pad_token_id': 1},
  'audio_config': {
    'hidden_act': 'gelu', 'window_size': 8, 'num_mel_bins': 64, 'spec_size': 256, 'patch_size': 4,
    'patch_stride': [4, 4], 'mlp_ratio': 4.0, 'aff_block_r': 4, 'layer_norm_eps': 1e-5,
    'qkv_bias': True, 'patch_embed_input_channels': 1, 'enable_patch_layer_norm': True,
    'flatten_patch_embeds': True,
  },
  '': {'projection_hidden_act': 'relu'},
}  # fmt: skip
# preprocessor_config.json: {name there: (argument of our front-end, default there)}
_FRONT: dict[str, tuple[str, Any]] = {
  'sampling_rate': ('sample_rate', 48_000),
  'feature_size': ('num_mel_bins', 64),
  'fft_window_size': ('n_fft', 1024),
  'hop_length': ('hop_length', 480),
  'frequency_min': ('f_min', 0),
  'frequency_max': ('f_max', 14_000),
}


def rules(model: nn.Module) -> list[Rule]:
  """The key table.

  Raises:
    InputError: transformers has no such towers.
  """
  own = isinstance(model, CLAP) and (model.audio, model.text, model.projection)
  if own != ('htsat', 'roberta', 'mlp'):
    raise InputError(
      f'{type(model).__name__} is not a CLAP of transformers: that has HTSAT, RoBERTa and '
      "projections 'mlp'."
    )
  assert isinstance(model, CLAP)
  if model.transforms or model.classes:
    raise InputError(
      'transformers has no place for the transforms and the tagging head of this CLAP: the way '
      'back is for models without (transforms=False, classes=0).'
    )
  rows = [*family.htsat(model, _AUDIO, hf=True), *family.bert(model, _TEXT)]
  for side in ('audio', 'text'):
    for name in ('1', '2'):
      rows += linear(f'{side}_projection.linear{name}', f'params/{side}_projection/fc{name}')
  scales = ('logit_scale_a', 'logit_scale_t')
  return rows + [Rule(name, f'params/{name}', 'number') for name in scales]


def describe(files: Mapping[str, Any]) -> Stated:
  """What config.json and preprocessor_config.json say.

  Raises:
    InputError: a value that our towers do not know.
  """
  config = files.get('config.json')
  if not isinstance(config, Mapping):
    return NOTHING
  facts, frontend, training = {}, {}, {}
  for part, table in _FACTS.items():
    said = (config.get(part) or {}) if part else config
    for key, known in _ONLY[part].items():
      value = said.get(key, known)
      if (list(value) if isinstance(value, (list, tuple)) else value) != known:
        raise InputError(
          f'config.json says {key}={value!r}; models with {key}={known!r} can be read.'
        )
    for key, (ours, default) in table.items():
      value = said.get(key, default)
      value = tuple(value) if isinstance(value, list) else value
      facts[ours] = Fact(value, f'config.json ({part + "." if part else ""}{key})')
  training['text_epsilon'] = facts.pop('text_epsilon').value
  name = 'preprocessor_config.json'
  settings = files.get(name)
  if isinstance(settings, Mapping):
    fusion = settings.get('truncation', 'fusion') == 'fusion'
    if fusion != facts['fusion'].value or settings.get('padding', 'repeatpad') != 'repeatpad':
      raise InputError(
        f'{name} says truncation={settings.get("truncation")!r} and padding='
        f'{settings.get("padding")!r}, which does not go with {facts["fusion"].where}='
        f'{facts["fusion"].value!r}.'
      )
    for key, (ours, default) in _FRONT.items():
      frontend[ours] = Fact(settings.get(key, default), f'{name} ({key})')
    seconds = settings.get('nb_max_samples', 480_000) / frontend['sample_rate'].value
    facts['seconds'] = Fact(float(seconds), f'{name} (nb_max_samples)')
  return Stated(facts, frontend, training)


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need."""
  layer = f'{_TEXT}encoder.layer.'
  family.need(arrays, 'audio_projection.linear1.weight', f'{layer}0.intermediate.dense.weight')
  found = family.htsat_sizes(arrays, _AUDIO, hf=True)
  heads = {'text_heads': stated.facts['text_heads'].value} if 'text_heads' in stated.facts else {}
  found |= family.text_sizes(
    arrays, f'{_TEXT}embeddings.word_embeddings.weight',
    f'{_TEXT}embeddings.position_embeddings.weight', layer,
    len(arrays[f'{layer}0.intermediate.dense.weight']), {**heads, **given},
  )  # fmt: skip
  found['dim'] = len(arrays['audio_projection.linear1.weight'])
  found['size'] = _SIZES.get(found['audio_width'], 'laion')
  found['transforms'] = False
  check_agreement(found, given, stated.facts)
  front = dict(given.get('frontend') or {})
  check_agreement({}, front, stated.frontend)
  said = {name: fact.value for name, fact in stated.facts.items()}
  frontend = {**{name: fact.value for name, fact in stated.frontend.items()}, **front}
  # That library's feature extractor takes the audio as it is.
  own = {'int16': False, **stated.training, **said, **given, **found, 'frontend': frontend}
  return 'clap', own


def compose(model: CLAP) -> dict[str, dict[str, Any]]:
  """config.json and preprocessor_config.json of a folder that transformers opens."""
  config: dict[str, Any] = {'model_type': 'clap', 'architectures': ['ClapModel']}
  for part, table in _FACTS.items():
    values = {key: getattr(model, ours) for key, (ours, _) in table.items()}
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()} | _ONLY[part]
    config = {**config, **values} if not part else {**config, part: values}
  config['audio_config'] |= {
    'hidden_size': 8 * model.audio_width,
    'num_hidden_layers': len(model.depths),
    'fusion_type': 'aff_2d' if model.fusion else None,
    'projection_dim': model.dim,
  }
  config['text_config']['projection_dim'] = model.dim
  front, settings = model.frontend, model.frontend.to_dict()
  return {
    'config.json': config,
    'preprocessor_config.json': {
      'feature_extractor_type': 'ClapFeatureExtractor',
      **{key: settings[ours] for key, (ours, _) in _FRONT.items()},
      'nb_max_samples': model.samples,
      'max_length_s': model.samples // front.sample_rate,
      'nb_frequency_bins': settings['n_fft'] // 2 + 1,
      'truncation': 'fusion' if model.fusion else 'rand_trunc',
      'padding': 'repeatpad',
      'top_db': None,
      'padding_value': 0.0,
      'padding_side': 'right',
      'return_attention_mask': False,
    },
  }


def alone(model: nn.Module, variables: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
  """A model without transforms and tagging head, and its variables; others as they are."""
  if not isinstance(model, CLAP) or not (model.transforms or model.classes):
    return model, dict(variables)
  plain = model.clone(transforms=False, classes=0)
  flat = tables.flatten(nn.meta.unbox(variables))
  return plain, tables.nest({key: flat[key] for key in tables.expected_shapes(plain)}, plain)


def lacks(model: CLAP) -> str:
  """What transformers does otherwise, as arguments for the way back."""
  return "int16 (on the way back: --args='int16=true')" if model.int16 else ''


# By what it is recognised, see `weights/detect.py`.
MARKS = (('audio_model.audio_encoder.', 'text_model.'),)
MODEL_TYPE = 'clap'
RELEASE = Release(
  rules=rules,
  infer=infer,
  ignored=(
    '*.relative_position_index',
    '*.position_ids',
    '*.token_type_ids',
    '*.num_batches_tracked',
  ),
  files=('config.json', 'preprocessor_config.json'),
  describe=describe,
  compose=compose,
  encoder_alone={'': alone},
  lacks=lacks,
)

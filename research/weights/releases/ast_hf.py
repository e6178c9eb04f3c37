"""AST under transformers' names: ASTModel and ASTForAudioClassification.

config.json says the epsilon of all layer norms, that of the head included: 1e-12 in the published
folders, which were converted from weights trained with 1e-6 and 1e-5. It is taken as it is said,
so that outputs are those of transformers; epsilon=1e-6 and norm_epsilon=1e-5 give the official
ones. Names of classes are kept.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from research.errors import InputError
from research.models.ast import AST
from research.models.finetuned import encoder_of, flat_arguments
from research.weights.families import ast as family
from research.weights.release import Arrays, Release
from research.weights.stated import NOTHING, Fact, Stated, check_agreement
from research.weights.tables import Rule, linear, vector

_PREFIX = 'audio_spectrogram_transformer.'
_FACTS: dict[str, tuple[str, Any]] = {
  'hidden_size': ('width', 768),
  'num_hidden_layers': ('depth', 12),
  'num_attention_heads': ('heads', 12),
  'patch_size': ('patch', 16),
  'time_stride': ('time_stride', 10),
  'frequency_stride': ('frequency_stride', 10),
  'max_length': ('frames', 1024),
}
_ONLY: dict[str, Any] = {'hidden_act': 'gelu', 'qkv_bias': True}


def _encoder(prefix: str) -> list[Rule]:
  e, layer, ours = (
    f'{prefix}embeddings',
    f'{prefix}encoder.layer.{{i}}',
    'params/encoder/blocks_{i}',
  )
  rows: list[Rule] = [
    Rule(f'{e}.cls_token', 'params/encoder/cls_token'),
    Rule(f'{e}.distillation_token', 'params/encoder/dist_token'),
    Rule(f'{e}.position_embeddings', 'params/encoder/pos_embed', 'table_of_bins', heads='columns'),
    Rule(
      f'{e}.patch_embeddings.projection.weight',
      'params/encoder/patch_embed/kernel',
      'patch_of_bins',
    ),
    Rule(f'{e}.patch_embeddings.projection.bias', 'params/encoder/patch_embed/bias'),
  ]
  for i, name in enumerate(('query', 'key', 'value')):
    theirs = f'{layer}.attention.attention.{name}'
    rows += [
      Rule(f'{theirs}.weight', f'{ours}/attn/qkv/kernel#{i}', 'heads', 'depth', 'heads'),
      Rule(f'{theirs}.bias', f'{ours}/attn/qkv/bias#{i}', 'heads_bias', 'depth', 'heads'),
    ]
  out = f'{layer}.attention.output.dense'
  return [
    *rows,
    Rule(f'{out}.weight', f'{ours}/attn/proj/kernel', 'heads_out', 'depth', 'heads'),
    Rule(f'{out}.bias', f'{ours}/attn/proj/bias', layers='depth'),
    *vector(f'{layer}.layernorm_before', f'{ours}/norm1', 'depth'),
    *vector(f'{layer}.layernorm_after', f'{ours}/norm2', 'depth'),
    *linear(f'{layer}.intermediate.dense', f'{ours}/mlp/fc1', 'depth'),
    *linear(f'{layer}.output.dense', f'{ours}/mlp/fc2', 'depth'),
    *vector(f'{prefix}layernorm', 'params/encoder/norm'),
  ]


_HEAD = [
  *vector('classifier.layernorm', 'params/fc_norm'),
  *linear('classifier.dense', 'params/head'),
]


def rules(model: nn.Module) -> list[Rule]:
  """The key table of a classifier, or of an encoder alone."""
  return [*_encoder(_PREFIX), *_HEAD] if family.check_head(model) else _encoder('')


def renew(arrays: Arrays) -> Arrays:
  """An encoder alone has its names without prefix."""
  if any(key.startswith('classifier.') for key in arrays):
    return arrays
  return {key.removeprefix(_PREFIX): x for key, x in arrays.items()}


def describe(files: Mapping[str, Any]) -> Stated:
  """What config.json and preprocessor_config.json say.

  Raises:
    InputError: a value that our AST does not know.
  """
  config = files.get('config.json')
  if not isinstance(config, Mapping):
    return NOTHING
  for key, known in _ONLY.items():
    if config.get(key, known) != known:
      raise InputError(
        f'config.json says {key}={config[key]!r}; models with {key}={known!r} can be read.'
      )
  facts = {
    ours: Fact(config.get(key, default), f'config.json ({key})')
    for key, (ours, default) in _FACTS.items()
  }
  width, hidden = config.get('hidden_size', 768), config.get('intermediate_size', 3072)
  facts['mlp_ratio'] = Fact(hidden / width, 'config.json (intermediate_size)')
  training = {'epsilon': config.get('layer_norm_eps', 1e-12)}
  training['norm_epsilon'] = training['epsilon']
  labels = _labels(config.get('id2label'))
  if labels:
    training['labels'] = labels
  frontend = {'num_mel_bins': Fact(config.get('num_mel_bins', 128), 'config.json (num_mel_bins)')}
  name = 'preprocessor_config.json'
  settings = files.get(name)
  if isinstance(settings, Mapping):
    if not settings.get('do_normalize', True):
      raise InputError(f'{name} says do_normalize=false; a normalised spectrogram is expected.')
    frontend |= {
      'mean': Fact(settings.get('mean', -4.2677393), f'{name} (mean)'),
      'std': Fact(settings.get('std', 4.5689974), f'{name} (std)'),
      'sample_rate': Fact(settings.get('sampling_rate', 16_000), f'{name} (sampling_rate)'),
    }
  return Stated(facts, frontend, training)


def _labels(names: Any) -> tuple[str, ...]:
  """Names of the classes in order; () where they are that library's LABEL_0, LABEL_1 …."""
  if not isinstance(names, Mapping):
    return ()
  by_number = {int(key): str(value) for key, value in names.items()}
  if sorted(by_number) != list(range(len(by_number))):
    raise InputError(f'The numbers of id2label in config.json are not 0 to {len(by_number) - 1}.')
  found = tuple(by_number[i] for i in range(len(by_number)))
  return () if all(name == f'LABEL_{i}' for i, name in enumerate(found)) else found


def infer(
  arrays: Mapping[str, np.ndarray], given: Mapping[str, Any], stated: Stated = NOTHING
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that the arrays need."""
  prefix = _PREFIX if f'{_PREFIX}embeddings.cls_token' in arrays else ''
  projection = f'{prefix}embeddings.patch_embeddings.projection.weight'
  hidden = f'{prefix}encoder.layer.0.intermediate.dense.weight'
  table = f'{prefix}embeddings.position_embeddings'
  absent = [key for key in (projection, hidden, table) if key not in arrays]
  if absent:
    raise InputError(f'The file holds no {", ".join(absent)}: it is not an AST of transformers.')
  width, _, patch, _ = arrays[projection].shape
  layers = {int(k.split('.layer.')[1].split('.')[0]) for k in arrays if '.layer.' in k}
  facts = {k: v for k, v in stated.facts.items() if k != 'frames' or 'frames' not in given}
  said = {k: fact.value for k, fact in facts.items()}
  front = {k: fact.value for k, fact in stated.frontend.items()}
  check_agreement({}, given.get('frontend') or {}, stated.frontend)
  known = {**said, **given, 'frontend': {**front, **(given.get('frontend') or {})}}
  found = family.sizes(width, len(layers), arrays[hidden].shape[0], known) | dict(patch=patch)
  found['frames'] = family.frames(arrays[table].shape[1] - 2, patch, known, 'frames' in given)
  check_agreement(found, given, facts)
  head = arrays.get('classifier.dense.weight')
  training = dict(stated.training)
  if head is None:
    training = {k: v for k, v in training.items() if k not in ('labels', 'norm_epsilon')}
  return family.named({**training, **known, **found}, 0 if head is None else len(head))


def fit(arrays: Arrays, model: nn.Module) -> dict[str, np.ndarray]:
  """The positions resized where another `frames` was given."""
  encoder = encoder_of(model)
  assert isinstance(encoder, AST)
  key = next(k for k in arrays if k.endswith('embeddings.position_embeddings'))
  return {**arrays, key: family.fit_table(np.asarray(arrays[key]), encoder, image=False)}


def compose(model: nn.Module) -> dict[str, dict[str, Any]]:
  """config.json and preprocessor_config.json of a folder that transformers opens."""
  head, args, encoder = family.check_head(model), flat_arguments(model), encoder_of(model)
  config: dict[str, Any] = {
    'model_type': 'audio-spectrogram-transformer',
    'architectures': ['ASTForAudioClassification' if head else 'ASTModel'],
    **{key: args[ours] for key, (ours, _) in _FACTS.items()},
    **_ONLY,
    'intermediate_size': int(args['width'] * args['mlp_ratio']),
    'layer_norm_eps': args['epsilon'],
    'num_mel_bins': encoder.frontend.num_mel_bins,
    'hidden_dropout_prob': 0.0,
    'attention_probs_dropout_prob': 0.0,
  }
  if head:
    labels = head.labels or tuple(f'LABEL_{i}' for i in range(head.classes))
    config['id2label'] = {str(i): name for i, name in enumerate(labels)}
    config['label2id'] = {name: i for i, name in enumerate(labels)}
  front = encoder.frontend
  return {
    'config.json': config,
    'preprocessor_config.json': {
      'feature_extractor_type': 'ASTFeatureExtractor',
      'feature_size': 1,
      'sampling_rate': front.sample_rate,
      'num_mel_bins': front.num_mel_bins,
      'max_length': encoder.frames,
      'do_normalize': True,
      'mean': front.mean,
      'std': front.std * front.std_factor / 2.0,
      'padding_value': 0.0,
      'padding_side': 'right',
      'return_attention_mask': False,
    },
  }


def lacks(model: nn.Module) -> str:
  """transformers has one epsilon for all layer norms, and no attention masks."""
  head, encoder = family.check_head(model), encoder_of(model)
  left = ['padding'] if encoder.padding != 'published' else []
  if head is not None and head.norm_epsilon != encoder.epsilon:
    left.append(
      f"norm_epsilon, in whose place transformers has the encoder's epsilon {encoder.epsilon} (on "
      f"the way back: --args='norm_epsilon={head.norm_epsilon}')"
    )
  return '; '.join(left)


# By what it is recognised, see `weights/detect.py`.
MARKS = (('embeddings.distillation_token',),)
MODEL_TYPE = 'audio-spectrogram-transformer'
RELEASE = Release(
  rules=rules,
  infer=infer,
  files=('config.json', 'preprocessor_config.json'),
  describe=describe,
  renew=renew,
  fit=fit,
  compose=compose,
  lacks=lacks,
)

"""Key tables and figures of audio language models, under the names of transformers.

Half-precision files become float32 variables: the way back gives float32 of equal values. What a
sparse config.json leaves out are the defaults of transformers (5.23, configuration_qwen2.py,
configuration_qwen2_audio.py, configuration_audioflamingo3.py), except for figures that the arrays
show. The number of tokens is that of the arrays: there are files that say another.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from research.errors import InputError
from research.features.frontend import Frontend
from research.models.audio_prompts import AudioLanguageModel
from research.weights.families import language_models
from research.weights.stated import NOTHING, Fact, Stated, check_agreement
from research.weights.tables import Rule, linear, vector

TOWER, PROJECTOR, LANGUAGE = 'audio_tower', 'multi_modal_projector', 'language_model.'
HEAD, WORDS = f'{LANGUAGE}lm_head.weight', f'{LANGUAGE}model.embed_tokens.weight'
# Names in text_config -> (ours, default of transformers).
TEXT: dict[str, tuple[str, Any]] = {
  'hidden_size': ('text_width', 4096),
  'num_hidden_layers': ('text_depth', 32),
  'num_attention_heads': ('text_heads', 32),
  'intermediate_size': ('text_hidden', 22016),
  'max_position_embeddings': ('max_tokens', 32768),
  'rms_norm_eps': ('epsilon', 1e-6),
}
ROPE = 10000.0
# Names in audio_config -> (ours, default of transformers), those of Qwen2-Audio and of AF-Whisper.
AUDIO: dict[str, tuple[str, Any]] = {
  'num_mel_bins': ('num_mel_bins', 128),
  'd_model': ('audio_width', 1280),
  'encoder_layers': ('audio_depth', 32),
  'encoder_attention_heads': ('audio_heads', 20),
  'encoder_ffn_dim': ('audio_hidden', 5120),
  'max_source_positions': ('n_audio_ctx', 1500),
}
AF_WHISPER = {
  'd_model': 'hidden_size', 'encoder_layers': 'num_hidden_layers',
  'encoder_attention_heads': 'num_attention_heads', 'encoder_ffn_dim': 'intermediate_size',
}  # fmt: skip
# Of these the models know one value, which is the default too.
ONLY: dict[str, dict[str, Any]] = {
  'text_config': {'hidden_act': 'silu', 'use_sliding_window': False, 'model_type': 'qwen2'},
  'audio_config': {'activation_function': 'gelu', 'scale_embedding': False},
  '': {'projector_hidden_act': 'gelu', 'projector_bias': True},
}
BINS = 'num_mel_bins'


# -- Key table ---------------------------------------------------------------------------------


def tower(
  theirs: str = TOWER, names: Mapping[str, str] | None = None, ours: str = 'audio_tower'
) -> list[Rule]:
  """The key table of an audio tower; `names` where they are not those of transformers."""
  n = {
    'layers': 'layers', 'attn': 'self_attn', 'query': 'q_proj', 'key': 'k_proj', 'value': 'v_proj',
    'out': 'out_proj', 'attn_norm': 'self_attn_layer_norm', 'mlp_norm': 'final_layer_norm',
    'fc1': 'fc1', 'fc2': 'fc2', 'norm': 'layer_norm', 'positions': 'embed_positions.weight',
    **(names or {}),
  }  # fmt: skip
  params, depth = f'params/{ours}', 'audio_depth'
  found = [
    Rule(f'{theirs}.{n["positions"]}', f'buffers/{ours}/positions'),
    *vector(f'{theirs}.{n["norm"]}', f'{params}/norm'),
  ]
  for conv in ('conv1', 'conv2'):
    found += [
      Rule(f'{theirs}.{conv}.weight', f'{params}/{conv}/kernel', 'conv1d'),
      Rule(f'{theirs}.{conv}.bias', f'{params}/{conv}/bias'),
    ]
  t, o = f'{theirs}.{n["layers"]}.{{i}}', f'{params}/blocks_{{i}}'
  for part in ('query', 'key', 'value'):
    key, own = f'{t}.{n["attn"]}.{n[part]}', f'{o}/attn/{part}'
    found.append(Rule(f'{key}.weight', f'{own}/kernel', 'heads', depth, 'audio_heads'))
    if part != 'key':
      found.append(Rule(f'{key}.bias', f'{own}/bias', 'heads_bias', depth, 'audio_heads'))
  out = f'{t}.{n["attn"]}.{n["out"]}'
  found += [
    Rule(f'{out}.weight', f'{o}/attn/out/kernel', 'heads_out', depth, 'audio_heads'),
    Rule(f'{out}.bias', f'{o}/attn/out/bias', layers=depth),
  ]
  for norm in ('attn_norm', 'mlp_norm'):
    found += vector(f'{t}.{n[norm]}', f'{o}/{norm}', depth)
  for part in ('fc1', 'fc2'):
    found += linear(f'{t}.{n[part]}', f'{o}/mlp/{part}', depth)
  return found


def rules(model: Any, name: str, projector: Mapping[str, str]) -> list[Rule]:
  """The key table of a model.

  Args:
    model: of the release.
    name: of the model that the release is of.
    projector: {their name of a Linear: our path below 'projector'}.
  """
  check_model(model, name)
  found = tower() + language_models.rules('qwen2', LANGUAGE, tied=model.tied)
  for theirs, ours in projector.items():
    found += linear(f'{PROJECTOR}.{theirs}', f'params/projector{ours}')
  return found


def check_model(model: Any, name: str) -> None:
  """Raises InputError for a model of another kind."""
  if not isinstance(model, AudioLanguageModel) or type(model).__name__ != name:
    raise InputError(f'{type(model).__name__} has no layout of {name}: give a model of it.')


def renew(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
  """The arrays under the names on disk; those of models in memory become them."""
  if not any(key.startswith(f'model.{TOWER}.') for key in arrays):
    return arrays
  renewed = {}
  for key, x in arrays.items():
    inner = key.removeprefix('model.')
    if inner.startswith(LANGUAGE):
      inner = f'{LANGUAGE}model.{inner.removeprefix(LANGUAGE)}'
    renewed[f'{LANGUAGE}{key}' if key.startswith('lm_head.') else inner] = x
  return renewed


# -- Figures -----------------------------------------------------------------------------------


def describe(files: Mapping[str, Any], kind: str, audio_token: tuple[str, int]) -> Stated:
  """What config.json says.

  Args:
    files: {name: content} of the .json files of a folder.
    kind: the model_type.
    audio_token: its name in config.json and the default.
  """
  config = files.get('config.json')
  if config is None:
    return NOTHING
  if not isinstance(config, Mapping) or config.get('model_type') != kind:
    said = config.get('model_type') if isinstance(config, Mapping) else config
    raise InputError(f'config.json says model_type={said!r}; expected {kind!r}.')
  facts: dict[str, Fact] = {}
  defaults: dict[str, Any] = {}
  for part, table in (('text_config', TEXT), ('audio_config', AUDIO)):
    own = part_of(config, part)
    for key, (ours, default) in table.items():
      name = key if key in own else AF_WHISPER.get(key, key)
      if name in own:
        facts[ours] = Fact(own[name], f'config.json ({part}.{name})')
      else:
        defaults[ours] = default
  check_only(config)
  text = part_of(config, 'text_config')
  rope = text.get('rope_parameters') or text
  facts['rope_base'] = Fact(
    float(rope.get('rope_theta', ROPE)), 'config.json (text_config.rope_theta)'
  )
  groups = text.get('num_key_value_heads', 32)
  if groups is None:  # as many as heads
    groups = text.get('num_attention_heads', 32)
  facts['text_kv_heads'] = Fact(groups, 'config.json (text_config.num_key_value_heads)')
  key, default = audio_token
  token = config.get(key, config.get('audio_token_index', config.get('audio_token_id', default)))
  facts['audio_token'] = Fact(token, f'config.json ({key})')
  return Stated(facts, training=defaults)


def part_of(config: Mapping[str, Any], part: str) -> Mapping[str, Any]:
  """A part of a configuration, which may be left out."""
  own = config.get(part) or {}
  if not isinstance(own, Mapping):
    raise InputError(f'config.json says {part}={own!r}; expected names with values.')
  return own


def check_only(config: Mapping[str, Any]) -> None:
  """Raises InputError for a value that the models do not know."""
  for part, table in ONLY.items():
    own = part_of(config, part) if part else config
    for key, known in table.items():
      if own.get(key, known) != known:
        raise InputError(
          f'config.json says {part}{"." * bool(part)}{key}={own[key]!r}; models with {known!r} can '
          'be read, and no others.'
        )
  rope = part_of(config, 'text_config').get('rope_parameters') or {}
  if rope.get('rope_type', 'default') != 'default':
    raise InputError(
      f'config.json says rope_type={rope["rope_type"]!r}; the default alone can be read.'
    )


def infer(
  arrays: Mapping[str, np.ndarray],
  given: Mapping[str, Any],
  stated: Stated,
  name: str,
  sizes: Mapping[str, Mapping[str, Any]],
) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that arrays under these names need."""
  keys = dict(
    conv=f'{TOWER}.conv1.weight', positions=f'{TOWER}.embed_positions.weight', words=WORDS,
    audio_mlp=f'{TOWER}.layers.0.fc1.weight',
    text_mlp=f'{LANGUAGE}model.layers.0.mlp.gate_proj.weight',
  )  # fmt: skip
  absent = [key for key in keys.values() if key not in arrays]
  if absent:
    raise InputError(f'The files hold no {", ".join(absent)}: they are no {name}.')
  shapes = {part: arrays[key].shape for part, key in keys.items()}
  found = dict(
    audio_width=shapes['conv'][0],
    audio_depth=count(arrays, f'{TOWER}.layers.'),
    audio_hidden=shapes['audio_mlp'][0],
    n_audio_ctx=shapes['positions'][0],
    text_width=shapes['words'][1],
    text_depth=language_models.depth(arrays, 'qwen2', LANGUAGE),
    text_hidden=shapes['text_mlp'][0],
    tied=HEAD not in arrays,
    vocab_size=shapes['words'][0],
  )
  return name, arguments(found, given, stated, int(shapes['conv'][1]), sizes, name)


def arguments(
  found: Mapping[str, Any],
  given: Mapping[str, Any],
  stated: Stated,
  bins: int,
  sizes: Mapping[str, Mapping[str, Any]],
  name: str,
) -> dict[str, Any]:
  """Arguments of a model: what its arrays show, its files say and the caller gives."""
  found = {k: v if isinstance(v, bool) else int(v) for k, v in found.items()}
  front = given.get('frontend') or {}
  front = front.to_dict() if isinstance(front, Frontend) else dict(front)
  facts = dict(stated.facts)
  mel = {BINS: facts.pop(BINS)} if BINS in facts else {}
  check_agreement({BINS: bins}, {k: front[k] for k in front if k == BINS}, mel)
  check_agreement(found, given, facts)
  said = {k: fact.value for k, fact in facts.items()}
  defaults = {k: v for k, v in stated.training.items() if k != BINS}
  args = {**defaults, **said, **given, **found}
  args['frontend'] = {**front, BINS: bins}
  if 'size' not in args:
    for size, figures in sizes.items():
      shown = {k: v for k, v in figures.items() if k in args and k != 'frontend'}
      if figures['frontend'][BINS] == bins and all(args[k] == v for k, v in shown.items()):
        args['size'] = size
        break
  needed = [k for k in ('audio_heads', 'text_heads', 'text_kv_heads') if k not in args]
  if 'size' not in args and needed:
    raise InputError(
      f'A {name} of width {found["text_width"]} is in no table: give {needed[0]}=… '
      f'(launch.convert: --args={needed[0]}=…), or the folder with its config.json.'
    )
  return args


def count(arrays: Mapping[str, np.ndarray], prefix: str) -> int:
  """Number of layers."""
  numbers = {int(k[len(prefix) :].split('.')[0]) for k in arrays if k.startswith(prefix)}
  return max(numbers) + 1 if numbers else 0


# -- The way back ------------------------------------------------------------------------------


def compose(
  model: Any, kind: str, title: str, audio_token: str, encoder: str
) -> dict[str, dict[str, Any]]:
  """config.json and preprocessor_config.json of a folder that transformers opens."""
  names = AF_WHISPER if encoder != 'qwen2_audio_encoder' else {}
  audio = {names.get(key, key): getattr(model, ours) for key, (ours, _) in AUDIO.items()
           if ours != BINS}  # fmt: skip
  text = {key: getattr(model, ours) for key, (ours, _) in TEXT.items()}
  frontend = model.frontend
  return {
    'config.json': {
      'model_type': kind,
      'architectures': [title],
      audio_token: model.audio_token,
      'audio_config': {
        'model_type': encoder, BINS: frontend.num_mel_bins, **audio, **ONLY['audio_config'],
      },
      'text_config': {
        **ONLY['text_config'], **text, 'num_key_value_heads': model.text_kv_heads,
        'vocab_size': model.vocab_size, 'tie_word_embeddings': model.tied,
        'rope_parameters': {'rope_type': 'default', 'rope_theta': model.rope_base},
      },
      'tie_word_embeddings': model.tied,
    },
    'preprocessor_config.json': {
      'feature_extractor_type': 'WhisperFeatureExtractor',
      'feature_size': frontend.num_mel_bins,
      'sampling_rate': frontend.sample_rate,
      'hop_length': frontend.hop_samples,
      'n_fft': dict(frontend.settings)['n_fft'],
      'chunk_length': model.window_samples // frontend.sample_rate,
      'padding_side': 'right',
      'padding_value': 0.0,
      'return_attention_mask': True,
    },
  }  # fmt: skip

"""Qwen-Audio and Qwen-Audio-Chat as their own code saves them (Qwen/Qwen-Audio): a folder whose
config.json has the model_type 'qwen'. The code that lies in such a folder is not run."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from research.errors import InputError
from research.models.qwen_audio import SIZES
from research.weights.families import audio_language, language_models
from research.weights.release import Arrays, Release
from research.weights.stated import NOTHING, Fact, Stated
from research.weights.tables import Rule, linear

AUDIO = 'transformer.audio'
NAMES = {
  'layers': 'blocks', 'attn': 'attn', 'query': 'query', 'key': 'key', 'value': 'value',
  'out': 'out', 'attn_norm': 'attn_ln', 'mlp_norm': 'mlp_ln', 'fc1': 'mlp.0', 'fc2': 'mlp.2',
  'norm': 'ln_post', 'positions': 'positional_embedding',
}  # fmt: skip
# config.json -> ours; configuration_qwen.py of the release has no other defaults than the figures
# of its config.json (QwenLM/Qwen-Audio, commit b50fb95).
CONFIG = {
  'hidden_size': 'text_width', 'num_hidden_layers': 'text_depth',
  'num_attention_heads': 'text_heads', 'kv_channels': 'head_dim',
  'layer_norm_epsilon': 'epsilon', 'rotary_emb_base': 'rope_base', 'seq_length': 'seq_length',
  'max_position_embeddings': 'max_tokens', 'use_dynamic_ntk': 'use_dynamic_ntk',
  'use_logn_attn': 'use_logn_attn',
}  # fmt: skip
AUDIO_CONFIG = {
  'n_mels': 'num_mel_bins', 'n_ctx': 'n_audio_ctx', 'n_state': 'audio_width',
  'n_head': 'audio_heads', 'n_layer': 'audio_depth', 'audio_start_id': 'audio_start',
}  # fmt: skip
ONLY = {
  'no_bias': True,
  'rotary_pct': 1.0,
  'scale_attn_weights': True,
  'tie_word_embeddings': False,
}
AUDIO_ONLY = {'avg_pool': True, 'add_audio_bos_eos_token': True}


def rules(model: Any) -> list[Rule]:
  """The key table."""
  audio_language.check_model(model, 'QwenAudio')
  return [
    *audio_language.tower(AUDIO, NAMES),
    *linear(f'{AUDIO}.proj', 'params/projector'),
    Rule(f'{AUDIO}.audio_bos_eos_token.weight', 'params/audio_bos_eos'),
    *language_models.rules('qwen'),
  ]


def describe(files: Mapping[str, Any]) -> Stated:
  """What config.json says."""
  config = files.get('config.json')
  if config is None:
    return NOTHING
  if not isinstance(config, Mapping) or config.get('model_type') != MODEL_TYPE:
    said = config.get('model_type') if isinstance(config, Mapping) else config
    raise InputError(f'config.json says model_type={said!r}; expected {MODEL_TYPE!r}.')
  audio = audio_language.part_of(config, 'audio')
  if not audio:
    raise InputError('config.json describes no audio: it is a Qwen that does not hear.')
  for own, only in ((config, ONLY), (audio, AUDIO_ONLY)):
    for key, known in only.items():
      if own.get(key, known) != known:
        raise InputError(
          f'config.json says {key}={own[key]!r}; models with {known!r} can be read, and no others.'
        )
  facts = {}
  for own, table, before in ((config, CONFIG, ''), (audio, AUDIO_CONFIG, 'audio.')):
    for key, ours in table.items():
      if key in own:
        value = float(own[key]) if ours == 'rope_base' else own[key]
        facts[ours] = Fact(value, f'config.json ({before}{key})')
  if 'intermediate_size' in config:  # of both projections together
    facts['text_hidden'] = Fact(
      config['intermediate_size'] // 2, 'config.json (half of intermediate_size)'
    )
  if 'text_heads' in facts:
    facts['text_kv_heads'] = facts['text_heads']
  return Stated(facts)


def infer(arrays: Arrays, given: Mapping[str, Any], stated: Stated) -> tuple[str, dict[str, Any]]:
  """(model name, arguments) that arrays under these names need."""
  keys = dict(
    conv=f'{AUDIO}.conv1.weight', positions=f'{AUDIO}.positional_embedding',
    words='transformer.wte.weight', audio_mlp=f'{AUDIO}.blocks.0.mlp.0.weight',
    text_mlp='transformer.h.0.mlp.w1.weight',
  )  # fmt: skip
  absent = [key for key in keys.values() if key not in arrays]
  if absent:
    raise InputError(f'The files hold no {", ".join(absent)}: they are no Qwen-Audio.')
  shapes = {part: np.shape(arrays[key]) for part, key in keys.items()}
  found = dict(
    audio_width=shapes['conv'][0],
    audio_depth=audio_language.count(arrays, f'{AUDIO}.blocks.'),
    audio_hidden=shapes['audio_mlp'][0],
    n_audio_ctx=shapes['positions'][0],
    text_width=shapes['words'][1],
    text_depth=language_models.depth(arrays, 'qwen'),
    text_hidden=shapes['text_mlp'][0],
    vocab_size=shapes['words'][0],
  )
  return 'qwen_audio', audio_language.arguments(
    found, given, stated, int(shapes['conv'][1]), SIZES, 'qwen_audio'
  )


def compose(model: Any) -> dict[str, dict[str, Any]]:
  """config.json; the code that opens such a folder has to be put beside it."""
  audio_language.check_model(model, 'QwenAudio')
  audio = {key: getattr(model, ours) for key, ours in AUDIO_CONFIG.items() if key != 'n_mels'}
  return {
    'config.json': {
      'model_type': MODEL_TYPE,
      'architectures': ['QWenLMHeadModel'],
      **{key: getattr(model, ours) for key, ours in CONFIG.items()},
      'intermediate_size': 2 * model.text_hidden,
      'vocab_size': model.vocab_size,
      **ONLY,
      'audio': {
        **audio, 'n_mels': model.frontend.num_mel_bins, 'output_dim': model.text_width,
        **AUDIO_ONLY,
      },
    }
  }  # fmt: skip


# By what it is recognised, see `weights/detect.py`.
MARKS = (('transformer.audio.conv1.', 'attn.c_attn.', 'audio_bos_eos_token'),)
MODEL_TYPE = 'qwen'
RELEASE = Release(
  rules=rules, infer=infer, files=('config.json',), describe=describe, compose=compose
)

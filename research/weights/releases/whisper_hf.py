"""Whisper under transformers' names, see `families.whisper`."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from research.errors import InputError
from research.models.whisper import ENGLISH
from research.weights.families import whisper
from research.weights.release import Release
from research.weights.stated import NOTHING, Fact, Stated

NAMES = dict(
  attn='self_attn', cross='encoder_attn', query='q_proj', key='k_proj', value='v_proj',
  out='out_proj', attn_norm='self_attn_layer_norm', cross_norm='encoder_attn_layer_norm',
  mlp_norm='final_layer_norm', fc1='fc1', fc2='fc2', blocks='layers',
  positions='embed_positions.weight', tokens='embed_tokens.weight', encoder_norm='layer_norm',
  decoder_norm='layer_norm', prefix='model.',
)  # fmt: skip
OUTPUT, TOKENS = 'proj_out.weight', 'model.decoder.embed_tokens.weight'
# config.json -> (ours, transformers' default).
CONFIG: dict[str, tuple[str, int]] = {
  'd_model': ('width', 384),
  'encoder_layers': ('depth', 4),
  'encoder_attention_heads': ('heads', 6),
  'decoder_layers': ('decoder_depth', 4),
  'decoder_attention_heads': ('decoder_heads', 6),
  'vocab_size': ('n_vocab', 51865),
  'max_source_positions': ('n_audio_ctx', 1500),
  'max_target_positions': ('n_text_ctx', 448),
  'num_mel_bins': ('num_mel_bins', 80),
}
# Of these the model knows one value.
ONLY: dict[str, Any] = {
  'activation_function': 'gelu',
  'scale_embedding': False,
  'tie_word_embeddings': True,
}
HIDDEN = ('encoder_ffn_dim', 'decoder_ffn_dim')


def renew(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same arrays with the prefix of the whole model, and without a second copy of the output.

  Raises:
    InputError: the output's weights are not those of the embedding.
  """
  prefix = '' if any(k.startswith('model.') for k in arrays) else 'model.'
  renewed = {k if k == OUTPUT else prefix + k: x for k, x in arrays.items()}
  output = renewed.pop(OUTPUT, None)
  if output is not None and not np.array_equal(output, renewed.get(TOKENS, output)):
    raise InputError(
      f'{OUTPUT} differs from {TOKENS}: a Whisper whose output has weights of its own cannot be '
      'read.'
    )
  return renewed


def describe(files: Mapping[str, Any]) -> Stated:
  """What config.json says, and the alignment heads of generation_config.json."""
  config = files.get('config.json')
  if config is None:
    return NOTHING
  if not isinstance(config, Mapping) or config.get('model_type') != 'whisper':
    kind = config.get('model_type') if isinstance(config, Mapping) else config
    raise InputError(f"config.json says model_type={kind!r}; expected 'whisper'.")
  for key, known in ONLY.items():
    if config.get(key, known) != known:
      raise InputError(
        f'config.json says {key}={config[key]!r}; models with {key}={known!r} can be read, and no '
        'others.'
      )
  facts = {}
  for key, (ours, default) in CONFIG.items():
    left_out = '' if key in config else ', which is left out'
    facts[ours] = Fact(config.get(key, default), f'config.json ({key}{left_out})')
  for key in HIDDEN:
    if config.get(key, 1536) != 4 * facts['width'].value:
      raise InputError(
        f'config.json says {key}={config.get(key, 1536)!r}; four times d_model='
        f'{facts["width"].value} can be read, and nothing else.'
      )
  generation = files.get('generation_config.json')
  generation = generation if isinstance(generation, Mapping) else {}
  return Stated(facts, training=whisper.alignment(generation, 'generation_config.json'))


def compose(model: Any) -> dict[str, dict[str, Any]]:
  """config.json, generation_config.json and preprocessor_config.json of a folder that transformers
  opens."""
  whisper.check_model(model)
  own = {key: getattr(model, ours) for key, (ours, _) in CONFIG.items() if key != 'num_mel_bins'}
  # Numbers of special tokens follow from the vocabulary; a smaller one has none of them.
  end = 50256 + int(model.multilingual) if model.n_vocab >= ENGLISH else 0
  bins, frontend = model.frontend.num_mel_bins, dict(model.frontend.settings)
  start = {'decoder_start_token_id': end + 1, 'eos_token_id': end, 'pad_token_id': end}
  config = {
    'model_type': 'whisper',
    'architectures': ['WhisperForConditionalGeneration'],
    'is_encoder_decoder': True,
    'num_mel_bins': bins,
    **own,
    **dict.fromkeys(HIDDEN, 4 * model.width),
    **ONLY,
    **start,
    'bos_token_id': end,
  }
  generation = {
    'alignment_heads': [list(pair) for pair in model.alignment_heads],
    'is_multilingual': model.multilingual,
    'max_length': model.n_text_ctx,
    **start,
  }
  preprocessor = {
    'feature_extractor_type': 'WhisperFeatureExtractor',
    'feature_size': bins,
    'sampling_rate': model.frontend.sample_rate,
    'hop_length': frontend['hop_length'],
    'n_fft': frontend['n_fft'],
    'chunk_length': model.window_frames * frontend['hop_length'] // model.frontend.sample_rate,
    'padding_side': 'right',
    'padding_value': 0.0,
  }
  return {
    'config.json': config,
    'generation_config.json': generation,
    'preprocessor_config.json': preprocessor,
  }


# By what it is recognised, see `weights/detect.py`.
MARKS = (('encoder.conv1.', 'decoder.layers.0.encoder_attn_layer_norm.'),)
MODEL_TYPE = 'whisper'
RELEASE = Release(
  rules=functools.partial(whisper.rules, names=NAMES),
  infer=functools.partial(whisper.infer, names=NAMES),
  files=('config.json', 'generation_config.json'),
  describe=describe,
  compose=compose,
  renew=renew,
)

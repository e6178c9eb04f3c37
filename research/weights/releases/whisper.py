"""Whisper under openai/whisper's names: a .pt with 'dims', or arrays beside a config.json with
'dims', see `families.whisper`.

model.bin of CTranslate2 (faster-whisper) is read too; its way back is to openai/whisper's names.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from research.errors import InputError, printable
from research.weights.families import whisper
from research.weights.release import Release
from research.weights.stated import Fact, Stated

NAMES = dict(
  attn='attn', cross='cross_attn', query='query', key='key', value='value', out='out',
  attn_norm='attn_ln', cross_norm='cross_attn_ln', mlp_norm='mlp_ln', fc1='mlp.0', fc2='mlp.2',
  blocks='blocks', positions='positional_embedding', tokens='token_embedding.weight',
  encoder_norm='ln_post', decoder_norm='ln', prefix='',
)  # fmt: skip
# dims -> arguments of ours; n_mels is of the front-end, n_text_state equals n_audio_state.
DIMS = {
  'n_audio_ctx': 'n_audio_ctx',
  'n_audio_state': 'width',
  'n_audio_head': 'heads',
  'n_audio_layer': 'depth',
  'n_vocab': 'n_vocab',
  'n_text_ctx': 'n_text_ctx',
  'n_text_state': 'width',
  'n_text_head': 'decoder_heads',
  'n_text_layer': 'decoder_depth',
}


def describe(files: Mapping[str, Any]) -> Stated:
  """What the 'dims' of a checkpoint or of config.json say."""
  config = files.get('config.json')
  config = config if isinstance(config, Mapping) else {}
  where, dims = ('dims', files['dims']) if 'dims' in files else ('config.json', config.get('dims'))
  training = whisper.alignment(config, 'config.json')
  if dims is None:
    numbers = files.get('ctranslate2') or {}
    _check_settings(numbers)
    heads = {'encoder/num_heads': 'heads', 'decoder/num_heads': 'decoder_heads'}
    known = {
      ours: Fact(numbers[k], f'model.bin ({k})') for k, ours in heads.items() if k in numbers
    }
    return Stated(known, training=training)
  if not isinstance(dims, Mapping) or not all(isinstance(dims.get(k), int) for k in DIMS):
    raise InputError(f'{where} has no whole numbers {", ".join(DIMS)}.')
  if dims['n_audio_state'] != dims['n_text_state']:
    raise InputError(
      f'{where} says n_audio_state={dims["n_audio_state"]} and n_text_state='
      f'{dims["n_text_state"]}: the two are equal in every Whisper that can be read.'
    )
  facts = {ours: Fact(dims[theirs], f'{where} ({theirs})') for theirs, ours in DIMS.items()}
  if 'n_mels' in dims:
    facts['num_mel_bins'] = Fact(dims['n_mels'], f'{where} (n_mels)')
  return Stated(facts, training=training)


# Numbers of CTranslate2 that say how a Whisper computes: those that it has, None for any.
_SETTINGS = {
  'num_heads': None, 'alignment_layer': None, 'alignment_heads': None, 'activation': 3,
  'pre_norm': 1, 'scale_embeddings': 0, 'scale_outputs': 0, 'layernorm_embedding': 0, 'alibi': 0,
  'alibi_use_positive_positions': None, 'scale_alibi': None, 'start_from_zero_embedding': 0,
  'embeddings_merge': None, 'multi_query_attention': 0, 'sliding_window': 0,
}  # fmt: skip


def _check_settings(numbers: Mapping[str, int]) -> None:
  """Raises InputError for a setting of model.bin that no Whisper has."""
  for name, value in numbers.items():
    part, _, rest = name.partition('/')
    known = part in ('encoder', 'decoder') and rest in _SETTINGS
    if not known or _SETTINGS[rest] not in (None, value):
      raise InputError(
        f'model.bin says {printable(name)}={value}, which no Whisper that can be read has.'
      )


def compose(model: Any) -> dict[str, Any]:
  """What `describe` reads: config.json with dims and alignment heads, and the 'dims' of a .pt."""
  whisper.check_model(model)
  own = {theirs: getattr(model, ours) for theirs, ours in DIMS.items()}
  dims = {'n_mels': model.frontend.num_mel_bins, **own}
  config = {'dims': dims, 'alignment_heads': [list(pair) for pair in model.alignment_heads]}
  return {'config.json': config, 'dims': dims}


# Names of CTranslate2 -> ours here; a number of fused parts in the order of the names.
_CT2 = (
  ('position_encodings/encodings', 'positional_embedding'),
  ('embeddings/weight', 'token_embedding.weight'),
  ('self_attention/layer_norm', 'attn_ln'),
  ('attention/layer_norm', 'cross_attn_ln'),
  ('self_attention/linear_0', 'attn.query attn.key attn.value'),
  ('self_attention/linear_1', 'attn.out'),
  ('attention/linear_0', 'cross_attn.query'),
  ('attention/linear_1', 'cross_attn.key cross_attn.value'),
  ('attention/linear_2', 'cross_attn.out'),
  ('ffn/layer_norm', 'mlp_ln'),
  ('ffn/linear_0', 'mlp.0'),
  ('ffn/linear_1', 'mlp.2'),
)


def renew(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Arrays of CTranslate2 under openai/whisper's names; others as they are.

  Raises:
    InputError: a key projection has a bias, which Whisper's have not.
  """
  if 'encoder/conv1/weight' not in arrays:
    return dict(arrays)
  renewed = {}
  for key, x in arrays.items():
    side, _, rest = key.partition('/')
    if rest == 'projection/weight':
      continue  # the embedding
    match = re.match(r'layer_(\d+)/', rest)
    block, rest = (f'blocks.{match[1]}.', rest[match.end() :]) if match else ('', rest)
    names = next((ours for theirs, ours in _CT2 if rest.startswith(theirs)), '').split()
    end = {'gamma': '.weight', 'beta': '.bias'}.get(rest.split('/')[-1], f'.{rest.split("/")[-1]}')
    if rest.startswith('layer_norm'):
      names = ['ln_post' if side == 'encoder' else 'ln']
    elif rest.startswith('conv'):
      names = [rest.split('/')[0]]
    elif rest.startswith(('position_encodings', 'embeddings')):
      end = ''
    elif not names:
      names = [rest]
    for name, part in zip(names, np.split(x, len(names))):
      if name.endswith('.key') and end == '.bias':
        if part.any():
          raise InputError(f'{key} gives keys a bias, which Whisper has not.')
        continue
      renewed[f'{side}.{block}{name}{end}'] = part
  return renewed


# By what it is recognised, see `weights/detect.py`.
MARKS = (
  ('encoder.positional_embedding', 'decoder.blocks.0.cross_attn_ln.'),
  ('encoder/conv1/weight', 'decoder/embeddings/weight'),  # CTranslate2
)
RELEASE = Release(
  rules=functools.partial(whisper.rules, names=NAMES),
  infer=functools.partial(whisper.infer, names=NAMES),
  files=('config.json',),
  describe=describe,
  compose=compose,
  renew=renew,
  ignored=('decoder.mask', 'alignment_heads'),  # buffers that old files hold
)

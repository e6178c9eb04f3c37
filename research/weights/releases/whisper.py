"""Whisper under openai/whisper's names: a .pt with 'dims', or arrays beside a config.json with
'dims', see `families.whisper`."""

import functools
from collections.abc import Mapping
from typing import Any

from research.errors import InputError
from research.weights.families import whisper
from research.weights.release import Release
from research.weights.stated import NOTHING, Fact, Stated

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
  if dims is None:
    return NOTHING
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
  return Stated(facts, training=whisper.alignment(config, 'config.json'))


def compose(model: Any) -> dict[str, Any]:
  """What `describe` reads: config.json with dims and alignment heads, and the 'dims' of a .pt."""
  whisper.check_model(model)
  own = {theirs: getattr(model, ours) for theirs, ours in DIMS.items()}
  dims = {'n_mels': model.frontend.num_mel_bins, **own}
  config = {'dims': dims, 'alignment_heads': [list(pair) for pair in model.alignment_heads]}
  return {'config.json': config, 'dims': dims}


# By what it is recognised, see `weights/detect.py`.
MARKS = (('encoder.positional_embedding', 'decoder.blocks.0.cross_attn_ln.'),)
RELEASE = Release(
  rules=functools.partial(whisper.rules, names=NAMES),
  infer=functools.partial(whisper.infer, names=NAMES),
  files=('config.json',),
  describe=describe,
  compose=compose,
  ignored=('decoder.mask', 'alignment_heads'),  # buffers that old files hold
)

"""Files of Audio Flamingo 1 and 2: names of a state dict, and the tower beside it."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from research import models
from research.errors import InputError
from research.weights import convert, detect, revert, tables
from research.weights.audio_flamingo_system import load_audio_flamingo
from tests.models.subjects.audio_flamingo import SMALL
from tests.models.subjects.audio_flamingo2 import SMALL2

CASES = {
  'audio_flamingo': ('lang_encoder.model.decoder', 'gated_cross_attn_layer', 'clap.base.htsat.'),
  'audio_flamingo2': ('lang_encoder.model', 'gated_cross_attn_layer_sound', 'clap.nvclap.'),
}
# What arrays do not show.
GIVEN = (
  'audio_heads', 'text_heads', 'text_kv_heads', 'audio_token', 'gate_heads', 'gate_head_dim',
  'gate_mult', 'max_windows', 'seconds', 'hop_seconds', 'size',
)  # fmt: skip


def drawn(name):
  """(arguments, a model of them, its arrays under the names of the key table)."""
  args = {'audio_flamingo': SMALL, 'audio_flamingo2': SMALL2}[name]
  model = models.get(name)(**args)
  rng = np.random.default_rng(0)
  flat = {
    path: rng.standard_normal(x.shape).astype(x.dtype) for path, x in tables.expected(model).items()
  }
  return {k: args[k] for k in GIVEN}, model, revert(name, model, tables.nest(flat, model))


def as_saved(arrays, layers, gate):
  """Every tensor under all of its names, as a state dict holds them."""
  saved = {}
  for key, x in arrays.items():
    saved[f'module.{key}'] = x
    part, _, rest = key.removeprefix('lang_encoder.').partition('.')
    lists = {'old_decoder_blocks': 'decoder_layer', gate.replace('layer', 'layers'): gate}
    if key.startswith('lang_encoder.') and part in lists:
      number, _, rest = rest.partition('.')
      saved[f'module.{layers}.layers.{number}.{lists[part]}.{rest}'] = x
    if key == f'{layers}.embed_tokens.weight':
      saved['module.lang_encoder.lm_head.weight'] = x
  return saved


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_a_state_dict_and_the_tower_beside_it(tmp_path, name):
  layers, gate, tower = CASES[name]
  given, model, arrays = drawn(name)
  saved = as_saved(arrays, layers, gate)
  assert detect.release(tmp_path, saved.keys(), {}) == name

  # Under all names at once.
  table = {f'module.{tower}spectrogram_extractor.stft.conv_real.weight': np.ones(2, np.float32)}
  found, variables = convert(name, {**saved, **table}, **given)
  assert found.encoder and type(found) is type(model)
  back = revert(name, found, variables)
  assert back.keys() == arrays.keys()
  assert all(np.array_equal(back[key], x) for key, x in arrays.items())

  # Nothing may be missing, nor differ.
  lost = {k: x for k, x in saved.items() if not ('.1.' in k and k.endswith('attn.to_kv.weight'))}
  assert len(lost) == len(saved) - 2
  with pytest.raises(InputError, match=r'missing: lang_encoder.*\.1\.attn\.to_kv\.weight'):
    convert(name, lost, **given)
  head = 'module.lang_encoder.lm_head.weight'
  with pytest.raises(InputError, match=r'differs from .*embed_tokens\.weight'):
    convert(name, {**saved, head: saved[head] + 1}, **given)

  # The tower in a file of its own.
  other = tuple(f'module.{part}' for part in (tower, 'clap.projection.'))
  parts = ({k: x for k, x in saved.items() if k.startswith(other)},
           {k: x for k, x in saved.items() if not k.startswith(other)})  # fmt: skip
  parts = [{k: np.ascontiguousarray(x) for k, x in part.items()} for part in parts]
  if name == 'audio_flamingo2':
    parts[0] = {k.replace(tower, 'audio_branch.'): x for k, x in parts[0].items()}
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own' / 'metadata.json').write_text(json.dumps({'chunk_0': 1, 'chunk_1': 2}))
    for i in range(2):
      chunk = {k: x for j, (k, x) in enumerate(parts[1].items()) if j % 2 == i}
      save_file(chunk, tmp_path / 'own' / f'chunk_{i}.safetensors')
    own = tmp_path / 'own'
  else:
    own = tmp_path / 'own.safetensors'
    save_file(parts[1], own)
  save_file(parts[0], tmp_path / 'clap.safetensors')
  loaded = load_audio_flamingo(own, tmp_path / 'clap.safetensors', **given)
  back = revert(name, loaded.model, loaded.variables)
  assert all(np.array_equal(back[key], x) for key, x in arrays.items())
  with pytest.raises(InputError, match='holds no audio tower: give clap='):
    load_audio_flamingo(own, **given)


def test_figures_that_are_in_no_table():
  given, _, arrays = drawn('audio_flamingo')
  del given['size'], given['text_heads']
  with pytest.raises(InputError, match=r'in no table: give text_heads=…'):
    convert('audio_flamingo', arrays, **given)
  with pytest.raises(InputError, match=r'hold no audio_transformer\.layer_norm\.weight'):
    convert('audio_flamingo', {k: x for k, x in arrays.items() if 'audio_tr' not in k}, **given)

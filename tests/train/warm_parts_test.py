"""Parts of a model from weights of other models."""

import json

import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from research import models, weights
from research.errors import InputError
from research.train.state import init_state
from research.train.warm_parts import started
from research.weights import Pretrained, tables
from research.weights.families import language_models
from tests.models.subjects.audio_flamingo import SMALL as FLAMINGO
from tests.models.subjects.qwen2_audio import SMALL
from tests.weights.toy import filled

SPEC = dict(path=None, include='.*', exclude=None, statistics='same', under=None)
WHISPER = dict(
  size='nano', n_audio_ctx=40, width=16, depth=1, heads=2, frontend=dict(num_mel_bins=80)
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A Whisper of ours with longer positions, and a Qwen2 of transformers with fewer tokens."""
  home = tmp_path_factory.mktemp('parts')
  whisper = models.get('whisper')(**WHISPER)
  weights.save(Pretrained('whisper', whisper, filled(whisper), 'made'), home / 'whisper')
  language = models.get('sift_llm')(**ARGS, vocab_size=31)
  rules = language_models.rules('qwen2')
  flat = tables.flatten(filled(language))
  own = {k: x for k, x in flat.items() if k.startswith('params/language_model/')}
  arrays = {
    theirs: layout.revert(own[ours], heads)
    for theirs, ours, layout, heads in tables.expand(rules, language)
  }
  (home / 'qwen').mkdir()
  save_file(
    {k: np.ascontiguousarray(x) for k, x in arrays.items()}, home / 'qwen/model.safetensors'
  )
  config = dict(
    model_type='qwen2', hidden_size=16, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=24, rms_norm_eps=1e-6, rope_theta=1e6,
    tie_word_embeddings=False, vocab_size=31,
  )  # fmt: skip
  (home / 'qwen/config.json').write_text(json.dumps(config))
  return home


ARGS = {k: v for k, v in SMALL.items() if k != 'vocab_size'} | dict(audio_hidden=64)


def fresh(**changes):
  model = models.get('sift_llm')(**{**ARGS, 'vocab_size': 32, **changes})
  return model, drawn_state(model)


def drawn_state(model):
  batch = {k: np.zeros(x.shape, x.dtype) for k, x in model.example().items()}
  lora = dict(rank=2, alpha=2.0, targets=r'language_model/.*/(query|value)/kernel$')
  shapes = jax.eval_shape(lambda: init_state(model, optax.sgd(0.1), batch, 0, False, lora))
  rng = np.random.default_rng(1)

  def drawn(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    return jax.numpy.asarray(rng.standard_normal(x.shape), x.dtype)

  return jax.tree.map(drawn, shapes)


@pytest.mark.parametrize('scan', [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_encoder_and_a_language_model(folder, scan):
  model, state = fresh(scan_layers=scan)
  parts = dict(
    audio_tower=dict(path=str(folder / 'whisper'), part='encoder'),
    language_model=dict(path=str(folder / 'qwen')),
  )
  made = started(state, {**SPEC, 'parts': parts}, model)
  theirs = weights.load(folder / 'whisper').variables
  pick = lambda tree: tree['blocks' if scan else 'blocks_0']  # noqa: E731
  own = pick(made.params['audio_tower'])['attn']['query']['kernel']
  kernel = theirs['params']['encoder']['blocks_0']['attn']['query']['kernel']
  np.testing.assert_array_equal(own[0] if scan else own, kernel)
  table = theirs['buffers']['encoder']['positions']
  np.testing.assert_array_equal(made.variables['buffers']['audio_tower']['positions'], table[:32])
  words = filled(models.get('sift_llm')(**ARGS, vocab_size=31))['params']['language_model']
  got = made.params['language_model']
  np.testing.assert_array_equal(got['token_embedding'][:31], words['token_embedding'])
  np.testing.assert_array_equal(got['lm_head']['kernel'][:, :31], words['lm_head']['kernel'])
  # What there is not in the weights stays as it was.
  before = state.params['language_model']
  np.testing.assert_array_equal(got['token_embedding'][31], before['token_embedding'][31])
  value = pick(got)['attn']['value']
  same = words['blocks_0']['attn']['value']['kernel']
  np.testing.assert_array_equal(value['kernel'][0] if scan else value['kernel'], same)
  for name in ('lora_a', 'lora_b'):
    np.testing.assert_array_equal(value[name], pick(before)['attn']['value'][name])
  for path in ('projector',):
    same = jax.tree.map(np.array_equal, made.params[path], state.params[path])
    assert all(jax.tree.leaves(same))


def test_what_does_not_fit_is_a_sentence(folder):
  model, state = fresh()
  whisper, qwen = str(folder / 'whisper'), str(folder / 'qwen')
  for parts, words in (
    (dict(tower=dict(path=whisper)), "'tower'"),
    (dict(audio_tower=dict(path='', part='encoder')), 'audio_tower.path=PATH'),
    (dict(audio_tower=dict(path=whisper, part='encodr')), "'encodr'"),
    (dict(audio_tower=dict(path=whisper, part='decoder')), 'does not fill audio_tower'),
    (dict(projector=dict(path=whisper, part='encoder')), 'does not fill projector'),
  ):
    with pytest.raises(InputError, match=words):
      started(state, {**SPEC, 'parts': parts}, model)
  for changes, words in (
    (dict(text_hidden=20), 'text_hidden=24 and the model 20'),
    (dict(rope_base=1e4), 'rope_base=1000000'),
    (dict(vocab_size=31, audio_token=30, text_depth=2), 'text_depth=1 and the model 2'),
  ):
    other, state = fresh(**changes)
    spec = {**SPEC, 'parts': dict(language_model=dict(path=qwen))}
    with pytest.raises(InputError, match=words):
      started(state, spec, other)


def test_a_language_model_between_gates(tmp_path):
  """An OPT with one more row of tokens, and the tower of a CLAP; gates stay as they were."""
  model = models.get('audio_flamingo')(**(FLAMINGO | dict(encoder=False, max_tokens=8)))
  other = models.get('audio_flamingo')(
    **(FLAMINGO | dict(encoder=False, max_tokens=8, vocab_size=33))
  )
  flat = tables.flatten(filled(other))
  arrays = {
    theirs: np.ascontiguousarray(layout.revert(flat[ours], heads))
    for theirs, ours, layout, heads in tables.expand(language_models.rules('opt', tied=True), other)
  }
  save_file(arrays, tmp_path / 'model.safetensors')
  config = dict(
    model_type='opt', hidden_size=16, num_hidden_layers=2, num_attention_heads=4, ffn_dim=24,
    max_position_embeddings=8, vocab_size=33,
  )  # fmt: skip
  (tmp_path / 'config.json').write_text(json.dumps(config))
  state = drawn_state(model)
  parts = dict(language_model=dict(path=str(tmp_path)))
  made = started(state, {**SPEC, 'parts': parts}, model).params['language_model']
  words = tables.nest(flat, other)['params']['language_model']
  np.testing.assert_array_equal(made['token_embedding'], words['token_embedding'][:32])
  np.testing.assert_array_equal(made['positions']['embedding'], words['positions']['embedding'])
  block, before = made['blocks_1'], state.params['language_model']['blocks_1']
  np.testing.assert_array_equal(
    block['mlp']['fc1']['kernel'], words['blocks_1']['mlp']['fc1']['kernel']
  )
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, block['before'], before['before'])))

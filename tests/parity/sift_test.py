"""SIFT-LLM against a composition of library parts: Whisper's encoder, a linear connector, Qwen2
with low-rank adapters on queries and values."""

import flax.traverse_util
import jax
import numpy as np

from research import models
from research.nn import adapters
from research.objectives.autoregressive import answer_tokens
from research.weights import tables
from research.weights.families import audio_language, language_models
from research.weights.tables import linear
from tests.contract import jit
from tests.parity.audio_language_cases import batch_of
from tests.parity.golden import assert_close, each_case
from tests.parity.language_model_cases import made, mean_loss

PARTS = {'q_proj': 'query', 'v_proj': 'value'}
TARGETS = r'language_model/blocks_\d+/attn/(query|value)/kernel$'


def place(key):
  """Where an array of an adapter is in our parameters."""
  words = key.removeprefix('adapter.').split('.')
  layer, part, kind = words[words.index('layers') + 1], words[-3], words[-2]
  return f'language_model/blocks_{layer}/attn/{PARTS[part]}/{kind.lower()}'


def with_adapters(case, params):
  """Parameters with the adapters of a case."""
  lora = case.config['lora']
  assert set(lora['target_modules']) == set(PARTS)
  grown = adapters.add(
    params, jax.random.key(0), rank=lora['r'], alpha=lora['lora_alpha'], targets=TARGETS
  )
  flat = flax.traverse_util.flatten_dict(grown, sep='/')
  given = {place(k): x.T for k, x in case.weights.items() if k.startswith('adapter.')}
  assert {k: np.shape(flat[k]) for k in given} == {k: x.shape for k, x in given.items()}
  assert sum(k.endswith(('lora_a', 'lora_b')) for k in flat) == len(given)
  return flax.traverse_util.unflatten_dict({**flat, **given}, sep='/')


def check_adapter_gradients(case, gradients):
  flat = flax.traverse_util.flatten_dict(gradients, sep='/')
  for name in case.config['grads']:
    assert_close(flat[place(name)].T, case.outputs[f'grad/{name}'], what=name)


def base(case):
  return {k.removeprefix('base.'): x for k, x in case.weights.items() if k.startswith('base.')}


@each_case('sift', where=lambda case: 'lora' in case.config and 'encoder' not in case.config)
def test_adapters_of_a_language_model(case):
  model, variables = made('qwen2', case.config['model'], base(case))
  ids = case.inputs['input_ids'].astype(np.int32)
  real, labels = case.inputs['attention_mask'].astype(bool), case.inputs['labels']
  grown = with_adapters(case, variables['params'])

  def loss(params):
    logits = model.apply({'params': adapters.effective(params)}, ids, real)['logits']
    return mean_loss(logits, labels), logits

  call = jit(jax.value_and_grad(loss, has_aux=True))
  (value, logits), gradients = call(grown)
  assert_close(np.asarray(logits)[real], case.outputs['logits'][real], what='logits')
  assert_close(value, case.outputs['loss'][0], what='loss')
  check_adapter_gradients(case, gradients)
  flat = flax.traverse_util.flatten_dict(grown, sep='/')
  off = {k: np.zeros_like(x) if k.endswith('lora_b') else x for k, x in flat.items()}
  (_, plain), _ = call(flax.traverse_util.unflatten_dict(off, sep='/'))
  assert_close(np.asarray(plain)[real], case.outputs['base_logits'][real], what='without adapters')
  merged = tables.to_theirs(model.rules(), model, adapters.merged({'params': grown}))
  for name in case.config['merged']:
    assert_close(merged[name], case.outputs[f'merged/{name}'], what=name)


@each_case('sift', where=lambda case: 'encoder' in case.config)
def test_composition(case):
  text, audio = case.config['model'], case.config['encoder']
  model = models.get('sift_llm')(
    size='tiny',
    frontend=dict(num_mel_bins=audio['num_mel_bins']),
    audio_width=audio['d_model'],
    audio_depth=audio['encoder_layers'],
    audio_heads=audio['encoder_attention_heads'],
    audio_hidden=audio['encoder_ffn_dim'],
    n_audio_ctx=audio['max_source_positions'],
    text_width=text['hidden_size'],
    text_depth=text['num_hidden_layers'],
    text_heads=text['num_attention_heads'],
    text_kv_heads=text['num_key_value_heads'],
    text_hidden=text['intermediate_size'],
    vocab_size=text['vocab_size'],
    epsilon=text['rms_norm_eps'],
    rope_base=text['rope_parameters']['rope_theta'],
    audio_token=case.config['audio_token_id'],
  )
  rules = [
    *audio_language.tower('encoder'),
    *linear('connector', 'params/projector'),
    *language_models.rules('qwen2', 'base.', tied=text['tie_word_embeddings']),
  ]
  plain = {k: x for k, x in case.weights.items() if not k.startswith('adapter.')}
  variables = tables.to_ours(rules, model, plain, ())
  params = with_adapters(case, variables['params'])
  mel = case.inputs['input_features']
  lengths = np.full(len(mel), mel.shape[2])
  batch = batch_of(case, [[[i]] for i in range(len(mel))], mel, lengths)

  def loss(params):
    own = {**variables, 'params': adapters.effective(params)}
    out = model.apply(own, batch, collect=True)
    return answer_tokens(out, batch)[0], out

  (value, out), gradients = jit(jax.value_and_grad(loss, has_aux=True))(params)
  np.testing.assert_array_equal(out['audio_counts'][:, 0], case.inputs['frames_kept'])
  heard = np.asarray(out['audio_states'])[:, ::2]
  assert_close(heard, case.outputs['encoder_output'], what='encoder')
  projected = np.asarray(out['projected'])[:, ::3]
  assert_close(projected, case.outputs['connector_output'], what='connector')
  real = batch['tokens'] >= 0
  for ours, name in (('embedded', 'merged_embeds'), ('logits', 'logits')):
    assert_close(np.asarray(out[ours])[real], case.outputs[name][real], what=name)
  assert_close(value, case.outputs['loss'][0], what='loss')
  connector = gradients['projector']
  assert_close(connector['kernel'].T, case.outputs['grad/connector.weight'], what='connector')
  assert_close(connector['bias'], case.outputs['grad/connector.bias'], what='connector bias')
  check_adapter_gradients(case, gradients)

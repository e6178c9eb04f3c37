"""Whisper against openai/whisper on whatever cases the golden folder holds, and against
transformers."""

import jax
import numpy as np
import pytest

from research.nn import cache as caches
from research.objectives.autoregressive import next_tokens
from research.weights import revert
from tests import contract
from tests.parity.golden import Case, assert_close, each_case
from tests.parity.whisper_cases import EMBEDDING, build, full_weights
from tests.weights.toy import check_identical


def forward(case):
  return case.name.startswith('forward') or 'logits_strided' in case.outputs


def batch_of(case):
  targets = case.inputs['targets'].astype(np.int32)
  return {
    'spectrogram': case.inputs['mel'].swapaxes(1, 2),
    'tokens': case.inputs['tokens'].astype(np.int32),
    'targets': np.where(targets == case.config['ignore_index'], -1, targets),
  }


def check_outputs(out, case):
  """Every recorded output of the forward pass."""
  config, want = case.config, case.outputs
  logits = np.asarray(out['logits'])
  special = slice(config['eot'], config['timestamp_begin'] + 1)
  weights = jax.nn.softmax(out['cross_logits'], axis=-1)
  got = {
    'encoder_conv1_gelu': out['conv1'].swapaxes(1, 2),
    'encoder_conv2_gelu': out['conv2'].swapaxes(1, 2),
    'encoder_in': out['stem'],
    'encoder_out': out['audio_tokens'],
    'decoder_in': out['decoder_stem'],
    'decoder_out': out['decoder_tokens'],
    'logits_strided': logits[:, :, :: config['vocab_stride']],
    'logits_special': logits[:, :, special],
    'logits_logsumexp': jax.nn.logsumexp(logits, axis=-1),
    **{f'encoder_block{i}': x for i, x in enumerate(out['layers'])},
    **{f'decoder_block{i}': x for i, x in enumerate(out['decoder_layers'])},
    **{f'decoder_block{i}_cross_out': x for i, x in enumerate(out['cross'])},
    **{f'cross_attention{i}': x for i, x in enumerate(weights)},
  }
  rest = {k for k in want if not k.startswith(('grad', 'loss'))} - {'logits_argmax'}
  assert set(got) == rest
  for name, x in got.items():
    assert_close(x, want[name], what=name)
  np.testing.assert_array_equal(logits.argmax(-1), want['logits_argmax'])


@each_case('whisper', where=forward)
@pytest.mark.slow
def test_forward_without_jit(case: Case):
  """Every operation by itself takes far longer than one program."""
  model, variables = build(case)
  check_outputs(model.apply(variables, batch_of(case), train=True, collect=True), case)


@each_case('whisper', where=forward)
def test_forward_and_gradients(case: Case):
  model, variables = build(case)
  batch, want = batch_of(case), case.outputs

  def loss(params):
    whole = {**variables, 'params': params}
    out = model.apply(whole, batch, train=True, collect=True)
    return next_tokens(out, batch)[0], out

  (value, out), gradients = contract.jit(jax.value_and_grad(loss, has_aux=True))(
    variables['params']
  )
  check_outputs(out, case)
  np.testing.assert_allclose(value, want['loss'][0], rtol=1e-5)
  tree = {**variables, 'params': jax.tree.map(np.asarray, gradients)}
  back = revert('whisper', model, tree)
  for name in case.config['grads']:
    assert_close(back[name], want[f'grad/{name}'], what=f'gradient of {name}')
  rows = back[EMBEDDING][case.config['grad_rows']]
  assert_close(rows, want[f'grad_rows/{EMBEDDING}'], what='gradient of the embedding')
  norm = np.linalg.norm(back[EMBEDDING].astype(np.float64))
  np.testing.assert_allclose(norm, want[f'grad_norm/{EMBEDDING}'][0], rtol=1e-4)


@each_case('whisper', where=forward)
def test_round_trip(case: Case):
  model, variables = build(case)
  check_identical(revert('whisper', model, variables), full_weights(case))


@each_case('whisper', where=forward)
@pytest.mark.slow
def test_steps_equal_all_at_once(case: Case):
  """The prompt, then token by token, two rows for each clip."""
  model, variables = build(case)
  batch = batch_of(case)
  tokens = np.repeat(batch['tokens'], 2, axis=0)

  @jax.jit
  def prefill(variables):
    heard = model.apply(variables, batch['spectrogram'], method='encode')
    memories = model.apply(variables, heard, method='remember')
    state = model.start(len(tokens), tokens.shape[1], memories)
    return model.apply(variables, tokens[:, :4], state, method='step')

  step = jax.jit(lambda v, t, s: model.apply(v, t, s, method='step'))
  logits, state = prefill(variables)
  found = [logits]
  assert isinstance(state, caches.State)
  for i in range(4, tokens.shape[1]):
    logits, state = step(variables, tokens[:, i : i + 1], state)
    found.append(logits)
  got = np.concatenate(found, axis=1)
  for part in (got[::2], got[1::2]):
    strided = part[:, :, :: case.config['vocab_stride']]
    assert_close(strided, case.outputs['logits_strided'], what='logits of steps')

"""Qwen2, OPT and Qwen v1 as language models alone, against recorded outputs of the originals."""

import jax
import numpy as np
import pytest

from research.weights import tables
from tests.contract import jit
from tests.parity.golden import assert_close, each_case
from tests.parity.language_model_cases import made, mean_loss, step_greedily, theirs

KINDS = ('qwen2', 'opt')


def ids(case, side):
  given = case.inputs[f'input_ids_{side}'].astype(np.int32)
  return given, case.inputs[f'attention_mask_{side}'].astype(bool)


@each_case('qwen2_audio', 'audio_flamingo', where=lambda case: case.config.get('kind') in KINDS)
def test_states_loss_gradients_and_steps(case):
  config = case.config
  model, variables = made(config['kind'], config['model'], case.weights)
  back = tables.to_theirs(model.rules(), model, variables)
  assert back.keys() == case.weights.keys()
  assert all(np.array_equal(back[k], x) for k, x in case.weights.items())
  call = jit(lambda v, i, m: model.apply(v, i, m, collect=True))
  for side in ('right', 'left'):
    given, real = ids(case, side)
    out = call(variables, given, real)
    states = [out['embedded'], *out['layers'][:-1], out['states']]
    for i, state in enumerate(states):
      want = case.outputs[f'{side}/hidden{i}']
      assert_close(np.asarray(state)[real], want[real], what=f'{side} {i}')
    assert f'{side}/hidden{len(states)}' not in case.outputs
    assert_close(
      np.asarray(out['logits'])[real], case.outputs[f'{side}/logits'][real], what=f'{side} logits'
    )
  check_gradients(case, model, variables)
  check_steps(case, model, variables)


def check_gradients(case, model, variables):
  given, real = ids(case, 'right')

  def loss(variables):
    out = model.apply(variables, given, real, train=True)
    return mean_loss(out['logits'], case.inputs['labels'])

  value, gradients = jit(jax.value_and_grad(loss))(variables)
  assert_close(value, case.outputs['loss'][0], what='loss')
  found = theirs(model, gradients)
  for name in case.config['grads']:
    assert_close(found[name], case.outputs[f'grad/{name}'], what=name)


def check_steps(case, model, variables):
  """A prompt and single tokens by the cache; then greedy tokens, in layers of one program too."""
  given, real = ids(case, 'left')
  prompt, (rows, width) = case.config['prefill'], given.shape
  new = case.config['generation']['max_new_tokens']
  step = jit(model.apply)

  def run(i, kept, m=None):
    out, kept = step(variables, i, np.ones(i.shape, bool) if m is None else m, kept)
    return np.asarray(out['logits']), kept

  logits, kept = run(given[:, :prompt], model.start(rows, width + new), real[:, :prompt])
  found = [logits]
  for i in range(prompt, width):
    logits, kept = run(given[:, i : i + 1], kept, real[:, i : i + 1])
    found.append(logits)
  found = np.concatenate(found, axis=1)
  assert_close(found[real], case.outputs['cached/logits'][real], what='by the cache')

  def one(tokens, kept):
    logits, kept = run(tokens, kept)
    return logits[:, 0], kept

  tokens, seen = step_greedily(one, kept, found[:, -1], new)
  np.testing.assert_array_equal(tokens, case.outputs['greedy_tokens'])
  assert_close(seen, case.outputs['greedy_step_logits'], what='greedy logits')


# -- Beyond the trained length -----------------------------------------------------------------


def qwen(case, variant):
  return made('qwen', case.config['model'] | variant, text_weights(case))


def text_weights(case):
  return {k: x for k, x in case.weights.items() if not k.startswith('transformer.audio.')}


LONG = each_case('qwen_audio', where=lambda case: len(case.config.get('variants', ())) > 1)


@LONG
def test_states_and_training_mode_beyond_the_trained_length(case):
  given = case.inputs['input_ids'].astype(np.int32)
  real = case.inputs['attention_mask'].astype(bool)
  model, variables = qwen(case, next(iter(case.config['variants'].values())))
  out = jit(lambda v: model.apply(v, given, real, collect=True))(variables)
  for name, got in (
    ('merged_embeds', out['embedded']),
    ('lm_block0', out['layers'][0]),
    ('ln_f', out['states']),
  ):
    assert_close(np.asarray(got)[real], case.outputs[name][real], what=name)
  trained = jit(lambda v: model.apply(v, given, real, train=True))(variables)['logits']
  assert_close(np.asarray(trained)[real], case.outputs['logits_train_mode'][real], what='training')


@LONG
def test_ntk_and_logn(case):
  given = case.inputs['input_ids'].astype(np.int32)
  real = case.inputs['attention_mask'].astype(bool)
  (rows, width), new = given.shape, case.config['generation']['max_new_tokens']
  for name, variant in case.config['variants'].items():
    model, variables = qwen(case, variant)
    step = jit(lambda v, i, m, kept, model=model: model.apply(v, i, m, kept))
    out, kept = step(variables, given, real, model.start(rows, width + new))
    logits = np.asarray(out['logits'])
    assert_close(logits[real], case.outputs[f'{name}/logits'][real], what=f'{name} logits')

    def one(tokens, kept, step=step, variables=variables):
      out, kept = step(variables, tokens, np.ones(tokens.shape, bool), kept)
      return np.asarray(out['logits'])[:, 0], kept

    tokens, seen = step_greedily(one, kept, logits[:, -1], new)
    np.testing.assert_array_equal(tokens, case.outputs[f'{name}/greedy_tokens'])
    assert_close(seen, case.outputs[f'{name}/greedy_step_logits'], what=f'{name} steps')
    if case.config.get('uncached'):
      check_uncached(case, name, model, variables)


def check_uncached(case, name, model, variables):
  """Every step reads all anew, so that the factor grows; padding is on the right."""
  given = case.inputs['input_ids'].astype(np.int32)
  if not case.inputs['attention_mask'].all():
    pytest.skip('padding on both sides counts twice')
  want = case.outputs[f'{name}/uncached_step_logits']
  tokens = case.outputs[f'{name}/uncached_greedy_tokens']
  width, new = given.shape[1], tokens.shape[1]
  whole = np.concatenate([given, tokens[:, :-1].astype(np.int32)], axis=1)
  read = jit(lambda v, m: model.apply(v, whole, m)['logits'])
  for i in range(new):
    real = np.broadcast_to(np.arange(width + new - 1)[None] < width + i, whole.shape)
    logits = np.asarray(read(variables, real))[:, width + i - 1]
    assert_close(logits, want[:, i], what=f'{name} step {i}')
    np.testing.assert_array_equal(logits.argmax(axis=-1), tokens[:, i])

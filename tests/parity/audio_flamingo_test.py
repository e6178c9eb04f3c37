"""Audio Flamingo 1 and 2 against recorded outputs of NVIDIA's code."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.inference.generate import Settings, generate
from research.models.gated_parts import AudioTransformer
from research.nn.positions import Rotary
from research.objectives.autoregressive import answer_tokens
from research.weights import conversion, revert, tables
from research.weights.families import audio_flamingo as family
from research.weights.releases import audio_flamingo2
from tests.contract import jit
from tests.parity.golden import assert_close, each_case
from tests.parity.language_model_cases import step_greedily


def made(case, release, **args):
  """(model, variables) of a case; the way back is identical."""
  lm, own, gate = (case.config[k] for k in ('lm', 'audio_transformer_kwargs', 'xattn'))
  special = case.config['special_tokens']
  args |= dict(
    audio_heads=own['n_head'], audio_token=special['audio'], text_heads=lm['num_attention_heads'],
    text_kv_heads=lm.get('num_key_value_heads', lm['num_attention_heads']),
    max_tokens=lm['max_position_embeddings'], gate_heads=gate['heads'],
    gate_head_dim=gate['dim_head'], gate_mult=gate['ff_mult'],
  )  # fmt: skip
  model, variables = conversion.convert_files(release, case.weights, {}, args)
  assert model.gate_every == case.config['cross_attn_every_n_layers']
  back = revert(release, model, variables)
  assert back.keys() == case.weights.keys()
  assert all(np.array_equal(back[key], x) for key, x in case.weights.items())
  return model, variables


def batch_of(case, features, mask):
  real = case.inputs['attention_mask'].astype(bool)
  labels = case.inputs['labels']
  return {
    'features': features.astype(np.float32),
    'window_mask': mask.astype(bool),
    'tokens': np.where(real, case.inputs['input_ids'], -1).astype(np.int32),
    'answer_mask': labels >= 0,
  }


def check_forward(case, release, model, variables, batch, heard=None):
  """Stages, logits, loss and gradients, of one program."""

  def loss(params):
    out, seen = model.apply(
      {**variables, 'params': params}, batch, collect=True, mutable=['intermediates']
    )
    return answer_tokens(out, batch)[0], (out, seen['intermediates']['language_model'])

  (value, (out, seen)), gradients = jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])
  pick = (lambda x: np.asarray(x)) if heard is None else (lambda x: np.asarray(x)[heard])
  assert_close(
    pick(out['audio_normed']), pick(case.outputs['audio.after_first_norm']), what='audio, normed'
  )
  for i, layer in enumerate(out['audio_layers']):
    assert_close(pick(layer), pick(case.outputs[f'audio.layer{i}']), what=f'audio layer {i}')
  real = batch['tokens'] >= 0
  gated = [name for name in case.outputs if name.endswith('.block_out')]
  for i in (int(name.removeprefix('xattn').partition('.')[0]) for name in gated):
    own = seen[f'blocks_{i}']['before']
    for theirs, ours in (('attn_out', 'attended'), ('block_out', 'out')):
      want = case.outputs[f'xattn{i}.{theirs}'][real]
      assert_close(np.asarray(own[ours][0])[real], want, what=f'gate {i}, {ours}')
  layer = np.asarray(out['layers'])[0][real]
  assert_close(layer, case.outputs['layer0.out'][real], what='first layer')
  assert_close(np.asarray(out['logits'])[real], case.outputs['logits'][real], what='logits')
  assert_close(value, case.outputs['loss'][0], what='loss')
  found = revert(release, model, {**variables, 'params': gradients})
  for name in case.config['grads']:
    assert_close(found[name], case.outputs[f'grad/{name}'], what=name)


def prompt_of(case, batch):
  """(the inputs of the row that goes on, its prompt)."""
  how = case.config['generation']
  row = how['row']
  inputs = {k: batch[k][row : row + 1] for k in ('features', 'window_mask')}
  return inputs, batch['tokens'][row, : how['prompt_length']].tolist()


def settings_of(case, **more):
  how = case.config['generation']
  return Settings(max_tokens=how['max_new_tokens'], stop=(how['eos_token_id'],), **more)


def check_steps(case, model, variables, batch, which):
  """Greedy tokens by the cache, their logits, and `generate`."""
  (inputs, prompt), new = prompt_of(case, batch), case.config['generation']['max_new_tokens']
  memories = jit(lambda v: model.apply(v, inputs, method='remember'))(variables)
  step = jit(lambda v, i, s: model.apply(v, i, s, method='step'))
  state = model.start(1, len(prompt) + new, memories)
  first, state = step(variables, np.asarray([prompt], np.int32), state)

  def one(ids, state):
    out, state = step(variables, ids, state)
    return np.asarray(out)[:, 0], state

  got, seen = step_greedily(one, state, np.asarray(first)[:, -1], new)
  want = case.outputs[f'{which}greedy_tokens']
  stop = case.config['generation']['eos_token_id']
  end = want[0].tolist().index(stop) + 1 if stop in want[0] else new
  np.testing.assert_array_equal(got[0, :end], want[0, :end])
  logits = case.outputs[f'{which}step_logits' if which else 'greedy_step_logits']
  assert_close(seen[0, :end], logits[0, :end], what=f'{which}greedy logits')
  written = generate(model, variables, [prompt], settings_of(case), memories=memories).best()
  assert written == [want[0, : end - (stop in want[0])].tolist()]
  return memories, prompt


def check_uncached(case, model, variables, batch):
  """Without a cache: of all steps at once, as none sees what comes later."""
  (inputs, prompt), want = prompt_of(case, batch), case.outputs['uncached_greedy_tokens'][0]
  tokens = np.asarray([[*prompt, *want[:-1]]], np.int32)
  out = jit(model.apply)(variables, {**inputs, 'tokens': tokens})
  logits = np.asarray(out['logits'])[0, len(prompt) - 1 :]
  stop = case.config['generation']['eos_token_id']
  end = want.tolist().index(stop) + 1 if stop in want else len(want)
  np.testing.assert_array_equal(logits.argmax(axis=-1)[:end], want[:end])
  assert_close(logits[:end], case.outputs['uncached_step_logits'][0, :end], what='without a cache')


def check_beams(case, model, variables, memories, prompt):
  # Up to 4.3x transformers counted the prompt in the length of a hypothesis.
  release = tuple(int(x) for x in case.info['packages']['transformers'].split('.')[:2])
  style = 'transformers_4_27' if release < (4, 36) else 'transformers'
  settings = settings_of(case, beams=case.config['generation']['num_beams'], style=style)
  found = generate(model, variables, [prompt], settings, memories=memories)
  want = case.outputs['beam_tokens'][0].tolist()
  stop = case.config['generation']['eos_token_id']
  assert found.best()[0] == (want[: want.index(stop)] if stop in want else want)
  assert_close(found.scores()[0].max(), case.outputs['beam_score'][0], what='score of beams')


@each_case('audio_flamingo', where=lambda case: 'audio_embed_dim' in case.config)
def test_audio_flamingo(case):
  own = case.config['audio_transformer_kwargs']
  w, (b, k) = own['max_window_per_audio'], case.inputs['audio_mask'].shape
  features = case.inputs['audio_embeds'].reshape(b, k // w, w, 1, -1)
  batch = batch_of(case, features, case.inputs['audio_mask'].reshape(b, k // w, w))
  args = dict(max_windows=w, max_clips=k // w)
  model, variables = made(case, 'audio_flamingo', **args, cached='faithful')
  check_forward(case, 'audio_flamingo', model, variables, batch)
  memories, prompt = check_steps(case, model, variables, batch, '')
  check_beams(case, model, variables, memories, prompt)
  check_steps(case, model.clone(cached='corrected'), variables, batch, 'uncached_')
  check_uncached(case, model, variables, batch)


@each_case('audio_flamingo', where=lambda case: 'clap_embed_dim' in case.config)
def test_audio_flamingo2(case):
  features, mask = case.inputs['audio_embeds'], case.inputs['audio_mask']
  lm = case.config['lm']
  batch = batch_of(case, features[:, None], mask[:, None])
  model, variables = made(
    case, 'audio_flamingo2', rope_base=lm['rope_theta'], epsilon=lm['rms_norm_eps'],
    max_windows=mask.shape[1],
  )  # fmt: skip
  heard = np.repeat(mask.astype(bool), features.shape[2], axis=1)
  check_forward(case, 'audio_flamingo2', model, variables, batch, heard)
  memories, prompt = check_steps(case, model, variables, batch, '')
  check_beams(case, model, variables, memories, prompt)
  check_uncached(case, model, variables, batch)


class Alone(nn.Module):
  """The transformer over vectors as a model of its own."""

  width: int
  audio_depth: int
  audio_heads: int
  hidden: int
  rotary: Rotary

  def setup(self):
    self.audio_transformer = AudioTransformer(
      self.audio_depth, self.audio_heads, self.hidden, rotary=self.rotary
    )

  def example(self):
    return jnp.zeros((1, 1, self.width), jnp.float32)

  def __call__(self, x, mask=None):
    return self.audio_transformer(jnp.asarray(x), mask)['states']


@each_case('audio_flamingo', where=lambda case: 'encoder' in case.config)
def test_the_transformer_over_vectors(case):
  own, turn = case.config['encoder'], case.config['rotary']
  rotary = Rotary(float(turn['base']), turn['dims_per_head'])
  alone = Alone(own['d_model'], own['n_layers'], own['n_head'], own['d_inner'], rotary)
  before = f'{audio_flamingo2.NAMES.transformer}.'
  rules = [
    rule._replace(theirs=rule.theirs.removeprefix(before))
    for rule in family.transformer(audio_flamingo2.NAMES)
  ]
  variables = tables.to_ours(rules, alone, case.weights, ())
  x, mask = case.inputs['features'], jnp.asarray(case.inputs['mask'].astype(bool))
  assert_close(jit(alone.apply)(variables, x, mask), case.outputs['output'])
  made = alone.init(jax.random.key(0), x)['buffers']['audio_transformer']['frequencies']
  angles = np.arange(x.shape[1])[:, None] * np.tile(np.asarray(made), 2)
  assert_close(angles, case.outputs['rotary_angles'], what='angles')

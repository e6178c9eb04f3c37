"""WaveNet against wavenet_vocoder, tensorflow-wavenet and nnmnkwii: golden cases of `wavenet`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.features import mu_law
from research.inference.generators import sample_by_sample as sampler
from research.models import wavenet_parts as parts
from research.models.wavenet import WaveNet
from research.objectives.waveform import logistics_nll, sample_codes, sample_logistics
from tests.parity import wavenet_cases as cases
from tests.parity.golden import assert_close, assert_near, each_case


def kind(*kinds):
  return functools.partial(each_case, 'wavenet', where=lambda c: c.config.get('kind') in kinds)()


def batch_of(case, model):
  """The inputs of a case as outputs of the model name their targets."""
  given = case.inputs
  if 'codes' in given:
    inputs, samples = given['codes'].astype(np.int32), given['codes']
  else:
    inputs, samples = given['waveform'], given['waveform']
  counted = np.arange(inputs.shape[1]) < given['lengths'][:, None]
  counted = np.pad(counted[:, 1:], ((0, 0), (0, 1)))
  return inputs, np.pad(samples[:, 1:], ((0, 0), (0, 1))), counted


def loss_of(case, model):
  inputs, samples, counted = batch_of(case, model)

  def loss(variables):
    local, speakers = cases.conditions(case, model, variables)
    out, found = model.apply(variables, inputs, local, speakers, True, method='network')
    if model.output == 'categorical':
      targets = jnp.where(counted, samples, -1).astype(jnp.int32)
      value = sample_codes({'logits': out, 'targets': targets}, {})[0]
    else:
      args = dict(
        classes=case.config['quantize_channels'], log_scale_min=case.config['log_scale_min']
      )
      named = {'logistics': out, 'samples': samples, 'predicted': counted}
      value = sample_logistics(named, {}, **args)[0]
    return value, (out, found, local)

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


@kind('wn_forward')
def test_wavenet_vocoder(case):
  model, variables = cases.loaded(case)
  assert model.receptive_field == case.config['receptive_field']
  (value, (out, found, local)), gradients = loss_of(case, model)(variables)
  want, stride = case.outputs, case.config['time_stride']
  name = 'logits' if model.output == 'categorical' else 'params'
  assert_close(out.swapaxes(1, 2)[:, :, ::stride], want[name], what=name)
  assert_close(value.reshape(1), want['loss'], what='loss')
  assert_close(found[0][0].swapaxes(1, 2)[:, :, ::stride], want['first_conv'], what='first_conv')
  for i in case.config['record_layers']:
    for j, part in enumerate(('residual', 'skip')):
      got = found[i + 1][j].swapaxes(1, 2)[:, :, ::stride]
      assert_close(got, want[f'layer{i}.{part}'], what=f'layer{i}.{part}')
  if 'upsampled_c' in want:
    got = local.swapaxes(1, 2)[:, :, :: case.config['c_stride']]
    assert_close(got, want['upsampled_c'], what='upsampled_c')
  if 'loss_per_sample' in want:
    _, samples, _ = batch_of(case, model)
    each = logistics_nll(
      out, jnp.asarray(samples), case.config['quantize_channels'], case.config['log_scale_min']
    )
    assert_close(each[:, :-1], want['loss_per_sample'], relative=1e-3, what='loss_per_sample')
  # 65536 classes: two sigmoids cancel in the float32 original.
  coarse = case.config.get('quantize_channels', 256) > 256
  named = cases.original(model, gradients, 'wavenet_vocoder')
  compared = [k for k in want if k.startswith('grad/')]
  assert compared
  for key in compared:
    assert_close(
      named[key.removeprefix('grad/')], want[key], relative=5e-3 if coarse else 1e-4, what=key
    )


@kind('wn_forward', 'wn_generate', 'ibab')
def test_weights_there_and_back(case):
  release = 'wavenet_vocoder' if cases.is_torch(case) else 'tensorflow_wavenet'
  model, variables = cases.loaded(case)
  back = cases.original(model, variables, release)
  assert set(back) == set(case.weights)
  for key, value in case.weights.items():
    np.testing.assert_array_equal(back[key], value)


@kind('ibab')
def test_tensorflow_wavenet(case):
  model, variables = cases.loaded(case)
  own, want = case.config, case.outputs
  assert model.receptive_field == own['receptive_field'] and model.full_context
  audio = case.inputs['waveform'][:, :, 0]
  codes = model.encode_samples(jnp.asarray(audio))
  np.testing.assert_array_equal(codes, want['codes'])
  batch = {'audio': audio, 'audio_mask': np.ones(audio.shape, bool)}
  if 'speaker' in case.inputs:
    batch['speaker'] = case.inputs['speaker'].astype(np.int32)

  def loss(variables):
    out = model.apply(variables, batch)
    value = sample_codes(out, batch)[0]
    if own['l2']:
      value += own['l2'] * sum(jnp.square(x).sum() for x in jax.tree.leaves(variables)) / 2
    return value, out['logits']

  (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
  first = model.receptive_field - 1
  assert_close(logits[:, first:-1], want['logits'], what='logits')
  assert_close(value.reshape(1), want['loss'], what='loss')
  named = cases.original(model, gradients, 'tensorflow_wavenet')
  for key in [k for k in want if k.startswith('grad/')]:
    # Without l2 nothing reaches the last layer's residual output.
    assert_close(named[key.removeprefix('grad/')], want[key], what=key)


@kind('mulaw')
def test_mu_law(case):
  x, want = case.inputs['x'], case.outputs
  sizes = {'tf_wavenet': 'round', 'nnmnkwii': 'truncate'}
  for theirs, ours in sizes.items():
    near = want['boundary_distance_rounding' if ours == 'round' else 'boundary_distance_truncation']
    for key in [k for k in want if k.startswith(f'{theirs}/encode')]:
      classes = int(key.removeprefix(f'{theirs}/encode'))
      got = np.asarray(mu_law.encode(x, classes, ours))
      # The recorded distances are those of 256 codes; a code at a boundary may be its neighbour.
      clear = near >= 3e-5 if classes == 256 else np.abs(got - want[key]) == 0
      np.testing.assert_array_equal(got[clear], want[key][clear])
      assert np.abs(got - want[key]).max() <= 1 and clear.mean() > 0.97
      decoded = mu_law.decode(jnp.arange(classes), classes, ours)
      assert_near(decoded, want[f'{theirs}/decode{classes}'], max_abs=1e-6, what=key)
      assert mu_law.silence(classes, ours) == int(mu_law.encode(jnp.zeros(1), classes, ours)[0])
      if f'{theirs}/roundtrip{classes}' in want and ours == 'round':
        again = mu_law.encode(decoded, classes, ours)
        np.testing.assert_array_equal(again, want[f'{theirs}/roundtrip{classes}'])
  clipped = jnp.clip(x, -1, 1)
  assert_near(mu_law.compress(clipped, 255), want['nnmnkwii/mulaw255'], max_abs=1e-6)
  assert_near(mu_law.compress(clipped, 256), want['nnmnkwii/mulaw256'], max_abs=1e-6)
  assert_near(mu_law.expand(clipped, 255), want['nnmnkwii/inv_mulaw255'], max_abs=1e-6)


@kind('receptive_field')
def test_receptive_fields(case):
  want = case.info['outputs']
  for one in (*want['wavenet_vocoder'], *want['measured']):
    args = {k: one[k] for k in ('layers', 'stacks', 'kernel_size')}
    model = WaveNet(size='r9y9_mol', local='none', local_channels=0, **args)
    assert model.receptive_field == one['receptive_field']
    assert list(model.dilations) == one.get('dilations', list(model.dilations))
  for one in want['tensorflow_wavenet']:
    scalar = one['scalar_input']
    model = WaveNet(
      size='ibab', dilations=one['dilations'], kernel_size=one['filter_width'],
      input='wave' if scalar else 'codes',
      first_taps=one['initial_filter_width'] if scalar else one['filter_width'],
    )  # fmt: skip
    assert model.receptive_field == one['receptive_field']


@pytest.mark.slow
@kind('receptive_field')
def test_the_field_is_what_gradients_reach(case):
  for one in case.info['outputs']['measured']:
    model = WaveNet(
      size='r9y9_mol', local='none', local_channels=0, residual_channels=4, gate_channels=8,
      skip_channels=32, mixtures=1, **{k: one[k] for k in ('layers', 'stacks', 'kernel_size')},
    )  # fmt: skip
    t = one['receptive_field'] + 20
    x = np.random.default_rng(0).uniform(-1, 1, (1, t)).astype(np.float32)
    init = functools.partial(model.init, method='network')
    variables = jax.jit(init)(jax.random.key(0), jnp.asarray(x))
    last = lambda x, m=model, v=variables: m.apply(v, x, method='network')[0][0, -1].sum()  # noqa: E731
    reached = np.flatnonzero(np.asarray(jax.jit(jax.grad(last))(jnp.asarray(x)))[0])
    assert len(reached) == one['inputs_with_gradient']
    assert t - reached[0] == one['oldest_input_with_gradient']


def generated(case, temperature, steps):
  """(outputs as codes or samples [1, t], probabilities or parameters of a full convolution over
  them)."""
  model, variables = cases.loaded(case)
  given, logistics = case.inputs, model.output == 'logistics'
  local, speakers = cases.conditions(case, model, variables)
  weights = parts.with_speakers(model.apply(variables, method='weights'), speakers)
  names = ('uniform_mixture', 'uniform_logistic') if logistics else ('uniform',)
  draws = [given[name].reshape(1, steps, -1) for name in names]
  draws = jnp.asarray(np.concatenate(draws, axis=-1).swapaxes(0, 1), jnp.float32)
  first = given['initial_value' if logistics else 'initial_code']
  last = jnp.asarray(first, jnp.float32 if logistics else jnp.int32)
  made, state, _ = sampler.advance(
    model, 20, temperature, weights, model.start(1), last, draws, local
  )
  if not logistics:
    # Codes of their own decoded values; under 'truncate' some have a neighbour's: by the table.
    table = np.asarray(
      mu_law.decode(jnp.arange(model.quantize_channels), model.quantize_channels, model.mu_law)
    )
    made = np.abs(np.asarray(made)[:, :, None] - table).argmin(-1).astype(np.int32)
  inputs = jnp.concatenate([last[:, None], jnp.asarray(made)[:, :-1]], axis=1)
  out = model.apply(variables, inputs, local, speakers, method='network')[0]
  assert int(state.position) == steps
  return np.asarray(made), out if logistics else jax.nn.softmax(out, axis=-1)


@kind('wn_generate', 'ibab')
def test_generation_by_rings(case):
  """Codes and samples of the official queues from the given draws, and the full convolution over
  them."""
  want, stride = case.outputs, case.config['prob_stride']
  if 'waveform' in want:
    made, params = generated(case, 1.0, case.config['T'])
    assert_close(made, want['waveform'], what='waveform')
    assert_close(params[:, ::stride].swapaxes(1, 2), want['params'], what='params')
    return
  steps = case.config.get('T', case.config.get('steps'))
  for mode, temperature in (('argmax', 0.0), ('sample', 1.0)) if steps else ():
    made, probabilities = generated(case, temperature, steps)
    np.testing.assert_array_equal(made, want[f'{mode}.codes'])
    assert_close(probabilities[:, ::stride], want[f'{mode}.probabilities'], what=mode)

"""Losses of EnCodec against encodec and audiocraft, on whatever cases the golden folder holds: mel
losses, discriminator, hinge and feature matching, and the balance of gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from research.nn.stft_discriminator import MultiScaleDiscriminator
from research.objectives import adversarial, codec
from tests.parity.golden import Case, assert_close, each_case

jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def rows_of(x):
  x = jnp.asarray(x)
  return x.reshape(-1, x.shape[-1])


@each_case('encodec', where=lambda case: 'losses' in case.config)
def test_reconstruction_losses(case: Case):
  config, want = case.config, case.outputs
  x, y = rows_of(case.inputs['x']), rows_of(case.inputs['y'])
  full = jnp.full(len(x), x.shape[1])
  shape = case.inputs['x'].shape

  def check(name, function):
    (value, terms), gradient = jit(jax.value_and_grad(function, has_aux=True))(x)
    assert_close(value[None], want[name].reshape(1), what=name)
    assert_close(gradient.reshape(shape), want[f'grad_x/{name}'], what=f'gradient of {name}')
    return terms

  check('l1', lambda x: (codec.mean_over(jnp.abs(x - y), jnp.ones(x.shape, bool)), None))
  for name, how in config['losses'].items():
    same = dict(sample_rate=how['sample_rate'], bins=how['n_mels'], f_min=float(how['f_min']))
    if how['class'] == 'MelSpectrogramL1Loss':
      assert how['win_length'] == how['n_fft']
      one = dict(same, n_fft=how['n_fft'], hop=how['hop_length'])
      check(name, lambda x, one=one: (codec.mel_l1(x, y, full, **one), None))
      continue
    scales = dict(start=how['range_start'], end=how['range_end'])
    scales |= dict(normalized=how['normalized'], alphas=how['alphas'])
    terms = check(name, lambda x, a=same | scales: codec.mel_scales(x, y, full, **a))
    for i, pair in enumerate(terms):
      assert_close(jnp.stack(pair), want[f'{name}/scale{i}'], what=f'{name}, scale {i}')
    size = 2 ** (how['range_start'] + 1)
    mel = codec.mel_spectrum(y, n_fft=size, hop=size // 4, normalized=how['normalized'], **same)
    mel = np.swapaxes(mel, 1, 2)[..., :: config['mel_stride']]
    assert_close(mel, want[f'{name}/mel_scale1'], what='mel')
    assert_close(np.log10(codec.FLOOR + mel), want[f'{name}/logmel_scale1'], what='log mel')


def discriminator_params(case: Case, scales: int):
  """Recorded weights as ours: the last convolution gives the logits."""
  found = {}
  for key, x in case.weights.items():
    _, scale, *path, name = key.split('.')
    conv = 'logits' if path[0] == 'conv_post' else f'conv_{path[1]}'
    ours = dict(weight='kernel', weight_v='kernel', weight_g='gain', bias='bias')[name]
    x = x.transpose(2, 3, 1, 0) if ours == 'kernel' else x.reshape(-1)
    found.setdefault(f'scale_{scale}', {}).setdefault(conv, {})[ours] = jnp.asarray(x)
  assert len(found) == scales
  return {'params': found}


def theirs(params, key):
  """A gradient by its recorded name."""
  _, scale, *path, name = key.split('.')
  conv = 'logits' if path[0] == 'conv_post' else f'conv_{path[1]}'
  ours = dict(weight='kernel', weight_v='kernel', weight_g='gain', bias='bias')[name]
  x = np.asarray(params['params'][f'scale_{scale}'][conv][ours])
  return x.transpose(3, 2, 0, 1) if ours == 'kernel' else x


@each_case('encodec', where=lambda case: 'fmap_stride' in case.config)
def test_discriminator(case: Case):
  config, want = case.config, case.outputs
  assert config['win_lengths'] == config['n_ffts']
  assert config['hop_lengths'] == [n // 4 for n in config['n_ffts']]
  model = MultiScaleDiscriminator(
    tuple(config['n_ffts']), config['filters'], config['negative_slope']
  )
  params = discriminator_params(case, len(config['n_ffts']))
  real, fake = (jnp.swapaxes(jnp.asarray(case.inputs[k]), 1, 2) for k in ('real', 'fake'))

  def generator(fake):
    logits, maps = model.apply(params, fake)
    _, wanted = model.apply(params, real)
    return adversarial.generator_hinge(logits), adversarial.feature_matching(wanted, maps)

  def discriminator(params):
    (one, maps), (two, _) = model.apply(params, real), model.apply(params, fake)
    return adversarial.discriminator_hinge(one, two), (one, two, maps)

  @jit
  def run(fake, params):
    losses, back = jax.vjp(generator, fake)
    gradients = [back((jnp.float32(a), jnp.float32(b)))[0] for a, b in ((1, 0), (0, 1))]
    return losses, gradients, jax.value_and_grad(discriminator, has_aux=True)(params)

  (adv, feat), (to_adv, to_feat), ((loss, (one, two, maps)), gradient) = run(fake, params)
  for i, (a, b) in enumerate(zip(one, two, strict=True)):
    assert_close(jnp.moveaxis(a, 3, 1), want[f'logits_real{i}'], what=f'logits {i}')
    assert_close(jnp.moveaxis(b, 3, 1), want[f'logits_fake{i}'], what=f'logits {i}')
    for j, x in enumerate(maps[i]):
      stride = config['fmap_stride']
      x = jnp.moveaxis(x, 3, 1)[:, :, ::stride, ::stride]
      assert_close(x, want[f'fmap_real{i}_{j}'], what=f'map {j} of scale {i}')
  values = dict(loss_adv_hinge=adv, loss_feat=feat, loss_disc_hinge=loss)
  for name, value in values.items():
    assert_close(value[None], want[name].reshape(1), what=name)
  for name, x in dict(adv=to_adv, feat=to_feat).items():
    assert_close(jnp.swapaxes(x, 1, 2), want[f'grad_fake_{name}'], what=f'gradient of {name}')
  for key in config['grads']:
    assert_close(theirs(gradient, key).reshape(want[f'grad/{key}'].shape), want[f'grad/{key}'])


@each_case('encodec', where=lambda case: 'rescale_grads' in case.config)
def test_balance(case: Case):
  config, want = case.config, case.outputs
  weights = config['weights']
  norms = adversarial.no_norms(list(weights))
  for step in range(config['steps']):
    gradients = {name: jnp.asarray(case.inputs[f'grad{step}/{name}']) for name in weights}
    total, factors, norms = adversarial.balance(
      gradients, weights, norms, decay=config['ema_decay'], total_norm=config['total_norm'],
      per_item=config['per_batch_item'], epsilon=config['epsilon'],
    )  # fmt: skip
    assert_close(total, want[f'grad{step}'], what=f'gradient of step {step}')
    means = jnp.stack([norms.totals[name] / norms.weight for name in weights])
    assert_close(means, want[f'average_norm{step}'], what='norms')
    output = jnp.asarray(case.inputs['output'])
    effective = sum((factors[n] * (g * output).sum() for n, g in gradients.items()), 0.0)
    assert_close(effective[None], want[f'effective_loss{step}'].reshape(1), what='effective loss')

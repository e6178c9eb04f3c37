"""BYOL-A against nttcslab/byol-a, on whatever cases the golden folder holds: augmentations, the
encoders, one training step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from research.features import views
from research.models.audio_ntt import pooled
from research.models.byol_a import ByolA
from research.objectives.bootstrap import bootstrap
from research.train.state import State
from research.train.step import make_train_step
from research.weights import convert, revert
from tests.parity.golden import Case, assert_close, each_case
from tests.weights.toy import check_identical

STATISTICS = dict(mean=0.0, std=1.0)


def has(*names):
  return lambda case: all(name in case.info['outputs'] for name in names)


def ours(x):
  """[…, bins, frames] -> […, frames, bins], without the channel."""
  return jnp.asarray(np.swapaxes(np.asarray(x).squeeze(-3), -1, -2))


# -- Augmentations -----------------------------------------------------------------------------


@each_case('byol_a', where=has('mixup', 'log_mixup_exp'))
def test_mixing(case: Case):
  x, u = ours(case.inputs['lms']), jnp.asarray(case.inputs['mixup_u'])
  m, ratio = case.config['n_memory'], case.config['mixup_ratio']
  # A recorded index is any draw that falls on it.
  known = np.minimum(np.arange(len(x)), m)
  choice = np.zeros(len(x), np.float32)
  choice[1:] = (case.inputs['mixup_index'] + 0.5) / known[1:]
  bank = views.Bank(jnp.zeros((m, *x.shape[1:])), jnp.int32(0))
  draws = u[:, None], jnp.asarray(choice)[:, None]
  mix = jax.jit(views.mix_with_past, static_argnames='ratio')
  mixed, after = mix(x, bank, *draws, ratio=ratio)
  assert_close(mixed[:, 0], ours(case.outputs['mixup']), what='mixup')
  parts, one = [], bank
  for i in range(len(x)):
    part, one = mix(x[i : i + 1], one, *(d[i : i + 1] for d in draws), ratio=ratio)
    parts.append(part)
  np.testing.assert_array_equal(jnp.concatenate(parts), mixed)
  jax.tree.map(np.testing.assert_array_equal, one, after)

  alpha = jnp.asarray(case.inputs['alpha'])[:, None, None]
  pair = (jnp.broadcast_to(x[i], (len(alpha), *x.shape[1:])) for i in (0, 1))
  assert_close(views.log_mix(*pair, alpha), ours(case.outputs['log_mixup_exp']), what='log_mix')


@each_case('byol_a', where=has('crop', 'box'))
def test_crops(case: Case):
  x, config = ours(case.inputs['lms']), case.config
  settings = views.CropSettings(
    *(tuple(config[name]) for name in ('virtual_crop_scale', 'freq_scale', 'time_scale'))
  )
  boxes = case.inputs['crop_box'].astype(np.int32)
  got = views.resize_crop(x[np.arange(len(boxes)) % len(x)], jnp.asarray(boxes), settings)
  assert_close(got, ours(case.outputs['crop']), what='crop')
  # The recorded draws are used up: none for the first bin where all of them are taken.
  frames, bins = x.shape[1:]
  want, place = case.outputs['box'], case.inputs['box_v'].copy()
  full = want[:, 2] == views.canvas_size(bins, frames, settings)[0]
  place[full, 1] = place[full, 0]
  size = jnp.asarray(case.inputs['box_u'])
  found = views.crop_boxes(size, jnp.asarray(place), bins=bins, frames=frames, settings=settings)
  np.testing.assert_array_equal(found, want)


@each_case('byol_a', where=has('fader', 'gaussian_noise'))
def test_fade_and_noise(case: Case):
  x, inputs, config = ours(case.inputs['lms']), case.inputs, case.config
  faded = views.linear_fade(x, jnp.asarray(inputs['fader_u']), gain=config['fader_gain'])
  assert_close(faded, ours(case.outputs['fader']), what='fader')
  noisy = views.mix_noise(
    x[0], jnp.asarray(inputs['gauss_u'])[:, None], ours(inputs['gauss_z']),
    ratio=config['noise_ratio'],
  )  # fmt: skip
  assert_close(noisy, ours(case.outputs['gaussian_noise']), what='noise')


@each_case('byol_a', where=has('running_norm', 'normalize_batch'))
def test_normalisation(case: Case):
  x, config = ours(case.inputs['raw']), case.config
  limit = config['epoch_samples'] * config['max_update_epochs']
  start = views.Running(jnp.zeros(()), jnp.ones(()), jnp.int32(0))
  run = jax.jit(views.running_normalise, static_argnums=2)
  normed, after, used = run(x, start, limit)
  assert_close(normed[:, ::3], ours(case.outputs['running_norm']), what='running norm')
  assert_close(used, case.outputs['running_stats'], what='statistics')
  assert int(after.clips) == min(limit, len(x))
  state = start
  for i in range(len(x)):
    one, state, _ = run(x[i : i + 1], state, limit)
    np.testing.assert_allclose(one[0], normed[i], atol=1e-5)
  batch = views.normalise_batch(x)[:, ::3]
  assert_close(batch, ours(case.outputs['normalize_batch']), what='batch')


# -- Encoders ----------------------------------------------------------------------------------


def encoder(arrays, **args):
  model, variables = convert('byol_a', arrays, frontend=STATISTICS, **args)
  check_identical(revert('byol_a', model, variables), arrays)
  return model, jax.tree.map(jnp.asarray, variables)


@each_case('byol_a', where=has('frames0', 'embedding0'))
def test_encoder(case: Case):
  # The first version has three blocks and stacks nothing.
  blocks, stack = case.config.get('conv_layers', 3), case.config.get('stack', False)
  model, variables = encoder(case.weights, stack=stack)
  assert (model.blocks, model.stack) == (blocks, stack)
  run = lambda m, x: m.encoder(x)[0]  # noqa: E731
  for i in range(len(case.inputs)):
    x = ours(case.inputs[f'lms{i}'])
    eager = model.apply(variables, x, method=run)
    compiled = jax.jit(lambda v, x: model.apply(v, x, method=run))(variables, x)
    for frames in (eager, compiled):
      assert_close(frames, case.outputs[f'frames{i}'], what=f'frames {i}')
      assert_close(pooled(frames), case.outputs[f'embedding{i}'], what=f'embedding {i}')
    # The same with zeros behind a mask.
    more = jnp.pad(x, ((0, 0), (0, 13), (0, 0)), constant_values=jnp.nan)
    real = jnp.arange(more.shape[1])[None] < x.shape[1]
    real = jnp.broadcast_to(real, more.shape[:2])
    masked = lambda m, x, r: m.encoder(x, r)  # noqa: E731
    padded, mask = model.apply(variables, more, real, method=masked)
    n = frames.shape[1]
    assert np.asarray(mask).sum(axis=1).tolist() == [n] * len(x)
    assert_close(padded[:, :n], case.outputs[f'frames{i}'], what=f'frames {i}, padded')


# -- A training step ---------------------------------------------------------------------------


def part(arrays, prefix):
  return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def head(arrays, name):
  """(parameters, statistics) of a projector or predictor."""
  a = part(arrays, f'{name}.net.')
  params = {
    ours: {'kernel': a[f'{i}.weight'].T, 'bias': a[f'{i}.bias']}
    for ours, i in (('fc1', 0), ('fc2', 3))
  }
  params['norm'] = {'scale': a['1.weight'], 'bias': a['1.bias']}
  count = a['1.num_batches_tracked'].astype(np.int32)
  return params, {'norm': {'mean': a['1.running_mean'], 'var': a['1.running_var'], 'count': count}}


def network(arrays, name):
  """(parameters, statistics) of encoder, projector and predictor; the target has the online
  predictor, which it does not use."""
  _, variables = convert('byol_a', part(arrays, f'{name}.net.'), frontend=STATISTICS)
  found = [dict(variables['params']), dict(variables['batch_stats'])]
  for ours, theirs in (('projector', f'{name}.projector'), ('predictor', 'online_predictor')):
    for tree, values in zip(found, head(arrays, theirs)):
      tree[ours] = values
  return jax.tree.map(jnp.asarray, tuple(found))


def named(tree, key):
  """The array of ours that the original calls so, in its layout."""
  target = key.startswith(('online_encoder.', 'target_encoder.', 'online_predictor.'))
  name = key.split('.', 1)[1] if target else key
  if key.startswith('online_predictor.') or name.startswith('projector.'):
    where = tree['predictor'] if key.startswith('online_predictor.') else tree['projector']
    *_, i, leaf = name.split('.')
    module = {'0': 'fc1', '1': 'norm', '3': 'fc2'}[i]
  else:
    kind, i, leaf = name.removeprefix('net.').split('.')
    i = int(i)
    where = tree['encoder'] if kind == 'fc' else tree['encoder'][f'block{i // 4}']
    module = {0: 'fc1', 3: 'fc2'}[i] if kind == 'fc' else 'norm' if i % 4 else 'conv'
  ours = {'weight': 'scale' if module == 'norm' else 'kernel', 'running_mean': 'mean',
          'running_var': 'var', 'num_batches_tracked': 'count'}.get(leaf, leaf)  # fmt: skip
  return np.asarray(where[module][ours]).T


def step_by_hand(model, online, teacher, both, keep):
  """(loss, outputs, statistics of both networks, metrics, gradients)."""

  def run(params, statistics, kept):
    batch = {'views': both, 'dropout_keep': kept}
    variables = {'params': params, 'batch_stats': statistics}
    out, after = model.apply(variables, batch, train=True, mutable=['batch_stats'])
    return out, after['batch_stats']

  def loss(params, statistics, teacher, keep):
    out, after = run(params, statistics, keep['online'])
    out['teacher'], teacher_after = run(*teacher, keep['target'])
    value, metrics = bootstrap(out, {})
    return value, (out, after, teacher_after, metrics)

  gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (value, rest), gradients = gradient(*online, teacher, keep)
  return value, *rest, gradients


@each_case('byol_a', where=has('no_dropout/loss', 'dropout/loss'))
def test_training_step(case: Case):
  config, inputs = case.config, case.inputs
  params, statistics = network(case.weights, 'online_encoder')
  teacher = network(case.weights, 'target_encoder')
  d = config['d']
  model = ByolA(
    size='v1_d512', hidden=d, width=d, norm='frontend', frames=config['frames'], bank=1,
    projection=config['projection_size'], projection_hidden=config['projection_hidden_size'],
  )  # fmt: skip
  both = views.normalise_batch(jnp.stack([ours(inputs['view1']), ours(inputs['view2'])]))
  everything = inputs['dropout_keep_online_view1'] * 0 + 0.7
  for kind in ('no_dropout', 'dropout'):
    want = part(case.outputs, f'{kind}/')
    assert_close(
      both.reshape(-1, *both.shape[2:])[:, ::6], ours(want['post_norm']), what='post_norm'
    )
    keep = {
      who: jnp.asarray(
        [inputs[f'dropout_keep_{who}_view{i}'] if kind == 'dropout' else everything for i in (1, 2)]
      )
      for who in ('online', 'target')
    }
    value, out, after, teacher_after, metrics, gradients = step_by_hand(
      model, (params, statistics), teacher, both, keep
    )
    assert_close(value, want['loss'][0], what='loss')
    np.testing.assert_allclose(4 - 4 * metrics['cosine'], value, rtol=1e-5)
    for i in (0, 1):
      for who, found in (('online', out), ('target', out['teacher'])):
        for name in ('projection', 'representation'):
          assert_close(found[name][i], want[f'{name}_{who}_view{i + 1}'], what=f'{name} {who} {i}')
      assert_close(out['prediction'][i], want[f'prediction_view{i + 1}'], what=f'prediction {i}')
    for key in config['grads']:
      assert_close(named(gradients, key), want[f'grad/{key}'], what=f'gradient of {key}')
    assert_close(optax.tree.norm(gradients), want['grad_norm'][0], what='gradient norm')
    for key in config['buffers']:
      tree = teacher_after if key.startswith('target') else after
      assert_close(named(tree, key), want[f'after_forward/{key}'], what=key)

    # The step of the house: the same loss, the update, and the average that follows it.
    if kind == 'no_dropout':
      step = make_train_step(
        model,
        bootstrap,
        optax.sgd(config['sgd_lr']),
        schedule=lambda s: jnp.float32(config['sgd_lr']),
        teacher=dict(decay=config['ema_decay'], decay_end=None, decay_steps=None, forward=True),
      )
      state = State(
        step=jnp.int32(0), params=params, opt_state=optax.sgd(1.0).init(params),
        teacher={'params': teacher[0], 'variables': {'batch_stats': teacher[1]}},
        variables={'batch_stats': statistics}, key=jax.random.key(0),
      )  # fmt: skip
      done, logged = jax.jit(step)(state, {'views': both, 'dropout_keep': keep['online']})
      assert_close(logged['loss'], want['loss'][0], what='loss of the step')
      for key in config['ema_keys']:
        sgd, ema = f'online_encoder.{key}', f'target_encoder.{key}'
        assert_close(named(done.params, sgd), want[f'after_sgd/{sgd}'], what=sgd)
        assert_close(named(done.teacher['params'], ema), want[f'after_ema/{ema}'], what=ema)
      total = sum(
        np.abs(x).sum() for name in ('encoder', 'projector')
        for x in jax.tree.leaves(done.teacher['params'][name])
      )  # fmt: skip
      assert_close(total, want['after_ema_abs_sum'][0], what='sum of the average')

"""The training step: gradients, accumulation, teacher, non-finite batches, eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from research.train import sharding
from research.train.health import Watch, representation_std
from research.train.optim import promoting
from research.train.state import init_state
from research.train.step import Steps, make_train_step
from tests.train.toy import Toy, batch_of, squared


def start(model=None, teacher=None, optimizer=None, objective=squared, **kwargs):
  model = model or Toy()
  optimizer = optimizer or optax.sgd(0.1)
  batch = batch_of()
  state = init_state(model, optimizer, batch, 0, bool(teacher))
  step = make_train_step(
    model, objective, optimizer, schedule=lambda s: jnp.float32(0.1), teacher=teacher, **kwargs
  )
  return state, jax.jit(step), batch


def test_step_is_gradient_descent():
  state, step, batch = start()
  model = Toy()

  def loss(params):
    out, _ = model.apply(
      {'params': params, **state.variables}, batch, train=True, mutable=['statistics']
    )
    return squared(out, batch)[0]

  grads = jax.grad(loss)(state.params)
  after, metrics = step(state, batch)
  for new, old, g in zip(*map(jax.tree.leaves, (after.params, state.params, grads))):
    np.testing.assert_allclose(new, old - 0.1 * g, rtol=1e-6, atol=1e-7)
  assert float(metrics['loss']) == pytest.approx(float(loss(state.params)), rel=1e-6)
  assert float(metrics['grad_norm']) == pytest.approx(float(optax.tree.norm(grads)), rel=1e-5)
  assert int(after.step) == 1
  assert float(after.variables['statistics']['mean']) == pytest.approx(
    0.1 * float(batch['audio'].mean()), rel=1e-5
  )


def test_accumulation_equals_the_whole_batch():
  state, step, batch = start()
  _, in_parts, _ = start(accumulate=4)
  whole, m1 = step(state, batch)
  parts, m2 = in_parts(state, batch)
  for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
  assert float(m1['loss']) == pytest.approx(float(m2['loss']), rel=1e-6)


@pytest.mark.parametrize('accumulate', [1, 4])
def test_a_batch_without_targets_changes_nothing(accumulate):
  def objective(out, batch):
    del batch
    count = jnp.zeros(())
    return (out['pred'].sum() * count) / jnp.maximum(count, 1.0), {'sample_size': count}

  state, step, batch = start(objective=objective, accumulate=accumulate)
  after, metrics = step(state, batch)
  assert float(metrics['finite']) == 1 and float(metrics['loss']) == 0
  for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(state.params)):
    np.testing.assert_array_equal(a, b)


class Counting(nn.Module):
  """A loss and an update counter, as in models with their own schedules."""

  @nn.compact
  def __call__(self, batch, train=False):
    updates = self.variable('counters', 'updates', lambda: jnp.zeros((), jnp.int32))
    done = updates.value
    if train and not self.is_initializing():
      updates.value = done + 1
    scale = self.param('scale', nn.initializers.ones_init(), ())
    return {'y': scale * batch['audio'].mean(axis=1), 'done': done}


def test_micro_batches_are_one_update_to_counters():
  def objective(out, batch):
    del batch
    return jnp.square(out['y']).mean(), {'done': out['done'].astype(jnp.float32)}

  state, step, batch = start(Counting(), objective=objective, accumulate=4)
  for n in range(3):
    state, metrics = step(state, batch)
    assert float(metrics['done']) == n
    assert int(state.variables['counters']['updates']) == n + 1


class Keeping(nn.Module):
  """A collection that its objective writes."""

  @nn.compact
  def __call__(self, batch, train=False):
    total = self.variable('kept', 'total', jnp.zeros, ())
    scale = self.param('scale', nn.initializers.ones_init(), ())
    return {'y': scale * batch['audio'].mean(axis=1), 'total': total.value}


def test_an_objective_keeps_something_between_steps():
  def objective(out, batch):
    kept = {'total': out['total'] + jnp.float32(len(batch['audio']))}
    return jnp.square(out['y']).mean() + 0.0 * out['total'], {'variables': {'kept': kept}}

  for accumulate in (1, 4):
    state, step, batch = start(Keeping(), objective=objective, accumulate=accumulate)
    for n in range(2):
      state, metrics = step(state, batch)
      assert float(state.variables['kept']['total']) == 16 * (n + 1)
      assert 'variables' not in metrics
    bad = {**batch, 'audio': batch['audio'].at[0, 0].set(jnp.nan)}
    state, _ = step(state, bad)
    assert float(state.variables['kept']['total']) == 32
  with pytest.raises(ValueError, match=r"keeps \['kept'\]; the model has \['statistics'\]"):
    wrong = lambda out, batch: (squared(out, batch)[0], {'variables': {'kept': {}}})  # noqa: E731
    state, step, batch = start(objective=wrong)
    step(state, batch)


def test_randomness_follows_step_and_seed_only():
  state, step, batch = start(Toy(noise=0.5))
  one, m1 = step(state, batch)
  again, m2 = step(state, batch)
  assert float(m1['loss']) == float(m2['loss'])
  _, m3 = step(one, batch)
  moved = one.replace(step=state.step)
  _, m4 = step(moved, batch)
  assert float(m3['loss']) != float(m4['loss'])
  del again


def test_teacher_follows_and_sees_the_same_batch():
  teacher = dict(decay=0.9, decay_end=None, decay_steps=None, forward=True)
  seen = {}

  def objective(out, batch):
    seen['teacher'] = out['teacher']['pred']
    gap = jnp.mean(jnp.square(out['pred'] - out['teacher']['pred']))
    return squared(out, batch)[0], {'gap': gap}

  model, optimizer, batch = Toy(noise=0.3), optax.sgd(0.1), batch_of()
  state = init_state(model, optimizer, batch, 0, True)
  step = jax.jit(
    make_train_step(
      model, objective, optimizer, schedule=lambda s: jnp.float32(0.1), teacher=teacher
    )
  )
  after, metrics = step(state, batch)
  # Initially the teacher equals the student and has the same random keys.
  assert float(metrics['gap']) == 0.0
  for t, old, new in zip(
    *map(jax.tree.leaves, (after.teacher['params'], state.params, after.params))
  ):
    np.testing.assert_allclose(t, 0.9 * old + 0.1 * new, rtol=1e-6, atol=1e-8)
  np.testing.assert_allclose(
    after.teacher['variables']['statistics']['mean'], after.variables['statistics']['mean']
  )


def test_a_non_finite_batch_changes_nothing():
  state, step, batch = start(optimizer=promoting(optax.adam(0.1)))
  bad = {**batch, 'audio': batch['audio'].at[0, 0].set(jnp.nan)}
  after, metrics = step(state, bad)
  assert float(metrics['finite']) == 0.0
  assert int(after.step) == 1
  for a, b in zip(
    jax.tree.leaves((after.params, after.opt_state, after.variables)),
    jax.tree.leaves((state.params, state.opt_state, state.variables)),
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('shape', [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_eight_devices_equal_one(shape):
  state, step, batch = start(Toy(width=16, noise=0.2), optimizer=promoting(optax.adamw(0.05)))
  for _ in range(3):
    state, expected = step(state, batch)
  mesh = sharding.make_mesh(dict(zip(sharding.AXES, shape)))
  start_state, _, _ = start(Toy(width=16, noise=0.2), optimizer=promoting(optax.adamw(0.05)))
  layout = sharding.shardings(start_state, mesh)
  spread = jax.device_put(start_state, layout)
  model = Toy(width=16, noise=0.2)
  raw = make_train_step(
    model, squared, promoting(optax.adamw(0.05)), schedule=lambda s: jnp.float32(0.1)
  )
  steps = Steps(raw, layout, mesh)
  on_mesh = sharding.to_devices(jax.device_get(batch), mesh)
  for _ in range(3):
    spread, metrics = steps(spread, on_mesh)
  assert float(metrics['loss']) == pytest.approx(float(expected['loss']), rel=1e-5)
  for a, b in zip(jax.tree.leaves(spread.params), jax.tree.leaves(state.params)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  if shape[2] > 1:
    kernel = spread.params['fc1']['kernel']
    assert kernel.addressable_shards[0].data.shape[1] == 16 // shape[2]
  assert steps.flops > 0 and steps.compile_seconds > 0


def test_collapse_is_reported_once():
  even = jnp.eye(8)
  one = jnp.ones((8, 8))
  assert float(representation_std(one)) == pytest.approx(0.0, abs=1e-6)
  assert float(representation_std(even)) > 0.5
  watch = Watch({'representation_std': dict(min=0.1, after=5)})
  assert watch.check(1, {'representation_std': 0.0}) == []
  warning = watch.check(5, {'representation_std': 0.01})
  assert len(warning) == 1 and 'collapse warning: representation_std is 0.01' in warning[0]
  assert watch.check(6, {'representation_std': 0.01}) == []
  assert watch.check(7, {'representation_std': 0.5}) == []
  assert len(watch.check(8, {'representation_std': 0.01})) == 1

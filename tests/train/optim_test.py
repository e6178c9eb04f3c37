"""Schedules and optimisers against the numbers of torch's definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.errors import InputError
from research.train import optim


def make(**changes):
  return {**optim.DEFAULTS, **changes}


def test_cosine_is_the_published_schedule():
  """util/lr_sched.py: lr e/w, then min + (lr - min) (1 + cos(pi (e - w)/(E - w))) / 2 per
  fractional epoch."""
  config = make(lr=4e-4, schedule=dict(name='cosine', warmup_epochs=3, final_lr=1e-6))
  schedule = optim.make_schedule(config, total_steps=33 * 100, epoch_steps=100)
  for epoch in (0.0, 0.5, 2.999, 3.0, 3.5, 18.0, 32.99):
    if epoch < 3:
      expected = 4e-4 * epoch / 3
    else:
      expected = 1e-6 + (4e-4 - 1e-6) * 0.5 * (1 + np.cos(np.pi * (epoch - 3) / 30))
    assert float(schedule(epoch * 100)) == pytest.approx(expected, rel=1e-5, abs=1e-10)


def test_tri_stage_polynomial_and_constant():
  tri = make(lr=1.0, schedule=dict(name='tri_stage', warmup_fraction=0.1, hold_fraction=0.4))
  schedule = optim.make_schedule(tri, 1000)
  assert float(schedule(0)) == pytest.approx(0.01)
  assert float(schedule(50)) == pytest.approx(0.505)
  assert float(schedule(300)) == pytest.approx(1.0)
  assert float(schedule(750)) == pytest.approx(0.05**0.5, rel=1e-5)
  assert float(schedule(1000)) == pytest.approx(0.05, rel=1e-5)
  poly = make(lr=2.0, schedule=dict(name='polynomial', warmup_steps=10, power=2.0))
  schedule = optim.make_schedule(poly, 110)
  assert float(schedule(5)) == pytest.approx(1.0)
  assert float(schedule(60)) == pytest.approx(0.5)
  flat = optim.make_schedule(make(lr=3.0), 10)
  assert float(flat(0)) == float(flat(10)) == 3.0


@pytest.mark.parametrize(
  ('schedule', 'words'),
  [
    (dict(name='cosin'), "Did you mean 'cosine'"),
    (dict(name='cosine', warmup_steps=50), 'warms up for 50 steps, but the run has 20'),
    (dict(name='cosine', warmup_steps=1, warmup_epochs=1), 'give only one of them'),
  ],
)
def test_invalid_schedules_are_refused(schedule, words):
  with pytest.raises(InputError, match=words):
    optim.make_schedule(make(schedule=schedule), 20)


@pytest.mark.parametrize('name', ['adam', 'adamw'])
def test_first_moments_in_16_bits(name):
  schedule = lambda step: 1e-3  # noqa: E731
  states = {}
  for dtype in (None, 'bfloat16'):
    rule = optim.make_optimizer(make(name=name, mu_dtype=dtype), schedule)
    given = {'kernel': jnp.ones((3, 4))}
    state = rule.init(given)
    updates, state = rule.update({'kernel': jnp.full((3, 4), 0.3)}, state, given)
    assert updates['kernel'].dtype == jnp.float32
    states[dtype] = state, updates['kernel']
  moments = [x.dtype for x in jax.tree.leaves(states['bfloat16'][0]) if x.shape == (3, 4)]
  assert sorted(map(str, moments)) == ['bfloat16', 'float32']
  np.testing.assert_allclose(states[None][1], states['bfloat16'][1], rtol=1e-2)
  with pytest.raises(InputError, match=r"optim\.mu_dtype 'float16'"):
    optim.make_optimizer(make(mu_dtype='float16'), schedule)


def params():
  return {
    'encoder': {
      'patch_embed': {'kernel': jnp.full((2, 3), 0.5), 'bias': jnp.ones(3)},
      'cls_token': jnp.ones((1, 1, 3)),
      'blocks_0': {'norm1': {'scale': jnp.ones(3)}, 'mlp': {'kernel': jnp.full((3, 3), 2.0)}},
      'blocks_1': {'mlp': {'kernel': jnp.full((3, 3), -1.0)}},
    },
    'head': {'kernel': jnp.full((3, 2), 0.1)},
  }


def one_step(config, grads=None):
  tree = params()
  schedule = optim.make_schedule(config, 10)
  tx = optim.make_optimizer(config, schedule)
  grads = jax.tree.map(lambda x: jnp.full_like(x, 0.3), tree) if grads is None else grads
  updates, _ = tx.update(grads, tx.init(tree), tree)
  return tree, optax.apply_updates(tree, updates)


def test_adamw_decays_matrices_only():
  before, after = one_step(make(lr=0.1, weight_decay=0.5))
  # The first Adam step is -lr * sign(g); decoupled decay adds -lr * wd * p.
  kernel = before['encoder']['patch_embed']['kernel']
  np.testing.assert_allclose(
    after['encoder']['patch_embed']['kernel'], kernel - 0.1 - 0.05 * kernel, rtol=1e-5
  )
  np.testing.assert_allclose(after['encoder']['patch_embed']['bias'], 0.9, rtol=1e-5)
  np.testing.assert_allclose(after['encoder']['blocks_0']['norm1']['scale'], 0.9, rtol=1e-5)
  # Three-dimensional tokens decay (timm's rule: one-dimensional tensors and biases do not).
  np.testing.assert_allclose(after['encoder']['cls_token'], 1 - 0.1 - 0.05, rtol=1e-5)


def test_layer_decay_scales_update_and_decay():
  config = make(lr=0.1, weight_decay=0.5, layer_decay=dict(rate=0.5, depth=2))
  before, after = one_step(config)
  full_before, full_after = one_step(make(lr=0.1, weight_decay=0.5))
  moved = jax.tree.map(lambda a, b: float((b - a).ravel()[0]), before, after)
  full = jax.tree.map(lambda a, b: float((b - a).ravel()[0]), full_before, full_after)
  ratio = jax.tree.map(lambda m, f: m / f, moved, full)
  assert ratio['encoder']['patch_embed']['kernel'] == pytest.approx(0.125, rel=1e-4)
  assert ratio['encoder']['cls_token'] == pytest.approx(0.125, rel=1e-4)
  assert ratio['encoder']['blocks_0']['mlp']['kernel'] == pytest.approx(0.25, rel=1e-4)
  assert ratio['encoder']['blocks_1']['mlp']['kernel'] == pytest.approx(0.5, rel=1e-4)
  assert ratio['head']['kernel'] == pytest.approx(1.0, rel=1e-4)


def test_layer_decay_of_scanned_blocks_is_per_layer():
  stacked = {'encoder': {'blocks': {'mlp': {'kernel': jnp.ones((3, 2, 2))}}}}
  scales = optim.layer_scales(stacked, 0.5, 3)['encoder']['blocks']['mlp']['kernel']
  np.testing.assert_allclose(scales[:, 0, 0], [0.125, 0.25, 0.5])


def test_frozen_subtrees_do_not_move_and_have_no_moments():
  config = make(lr=0.1, weight_decay=0.5, frozen=('^encoder/',), clip_norm=1e-3)
  before, after = one_step(config)
  for a, b in zip(jax.tree.leaves(before['encoder']), jax.tree.leaves(after['encoder'])):
    np.testing.assert_array_equal(a, b)
  assert not np.allclose(before['head']['kernel'], after['head']['kernel'])
  tx = optim.make_optimizer(config, lambda step: 0.1)
  sizes = {x.shape for x in jax.tree.leaves(tx.init(params()))}
  assert sizes == {(), (3, 2)}


def test_adam_decay_is_l2_and_clipping_is_global():
  # With L2 the decayed gradient is normalised by Adam: the first step is -lr whatever the decay.
  before, after = one_step(make(name='adam', lr=0.1, weight_decay=0.5))
  kernel = before['head']['kernel']
  np.testing.assert_allclose(after['head']['kernel'], kernel - 0.1, rtol=1e-4, atol=1e-5)
  config = make(name='sgd', lr=1.0, momentum=0.0, clip_norm=1.0)
  before, after = one_step(config)
  moved = jax.tree.map(lambda a, b: b - a, before, after)
  assert float(optax.tree.norm(moved)) == pytest.approx(1.0, rel=1e-5)


def test_lars_and_unknown_optimiser():
  before, after = one_step(make(name='lars', lr=1.0, weight_decay=0.0, momentum=0.0))
  kernel = before['head']['kernel']
  # The trust ratio is 0.001 |p| / |g| for matrices.
  grad = jnp.full_like(kernel, 0.3)
  ratio = 0.001 * jnp.linalg.norm(kernel) / jnp.linalg.norm(grad)
  np.testing.assert_allclose(after['head']['kernel'], kernel - ratio * grad, rtol=1e-5)
  with pytest.raises(InputError, match="or 'adamw'"):
    optim.make_optimizer(make(name='adamW'), lambda step: 0.1)


def test_steps_are_those_of_multi_step_lr():
  """torch's MultiStepLR over range(2, 1000, 3), gamma 0.5, stepped after every epoch of 10."""
  config = make(
    lr=1.0, schedule=dict(name='step', first_drop=2, drop_every=3, drop=0.5, warmup_steps=5)
  )
  schedule = optim.make_schedule(config, total_steps=100, epoch_steps=10)
  assert float(schedule(2)) == pytest.approx(0.4)
  epochs = [float(schedule(10 * epoch + 9)) for epoch in range(10)]
  assert epochs == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]


# -- Groups ------------------------------------------------------------------------------------


def grouped(**group):
  config = make(name='adam', lr=0.1, groups=dict(critic=dict(match='^critic/', **group)))
  return optim.make_optimizer(config, lambda step: jnp.float32(0.1) * (step + 1))


PARAMS = {'codec': jnp.ones(3), 'critic': {'kernel': jnp.ones(2)}}


def test_a_group_has_its_own_rule_and_clipping():
  config = make(
    name='sgd', lr=0.1, momentum=0.0, clip_norm=1.0,
    groups=dict(critic=dict(match='^critic/', lr=0.02, clip_norm=5.0)),
  )  # fmt: skip
  rule = optim.make_optimizer(config, lambda step: jnp.float32(0.1))
  grads = {'codec': jnp.array([30.0, 40.0, 0.0]), 'critic': {'kernel': jnp.array([6.0, 8.0])}}
  updates, _ = rule.update(grads, rule.init(PARAMS), PARAMS)
  np.testing.assert_allclose(updates['codec'], [-0.06, -0.08, 0.0], rtol=1e-6)
  np.testing.assert_allclose(updates['critic']['kernel'], [-0.06, -0.08], rtol=1e-6)
  norms = optim.group_norms(grads, {'critic': '^critic/'})
  assert {k: float(x) for k, x in norms.items()} == {'grad_norm': 50.0, 'grad_norm_critic': 10.0}


def test_a_group_is_updated_at_drawn_steps():
  """Half of the steps; the others leave its state, and the rate is that of the step."""
  rule = grouped(probability=0.5)
  state, moments = rule.init(PARAMS), []
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  update = jax.jit(rule.update)
  moved = []
  for step in range(40):
    before = state
    updates, state = update(grads, state, PARAMS)
    assert np.all(np.asarray(updates['codec']) != 0)
    u = np.asarray(updates['critic']['kernel'])
    moved.append(bool(u.any()))
    own, old = (s.inner_states['critic'].inner_state for s in (state, before))
    assert int(own.steps) == step + 1
    same = [np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (own.rule, old.rule)))]
    assert all(same) != moved[-1]
    if moved[-1]:
      # Adam of equal gradients: a step is the rate of this step.
      np.testing.assert_allclose(u, -0.1 * (step + 1), rtol=1e-4)
    moments.append(state)
  assert 10 < sum(moved) < 30
  # From a saved state: the same draws.
  state, again = moments[19], []
  for _ in range(20):
    updates, state = update(grads, state, PARAMS)
    again.append(bool(np.asarray(updates['critic']['kernel']).any()))
  assert again == moved[20:]


@pytest.mark.parametrize(
  ('groups', 'words'),
  [
    ({'a': dict(match='^nothing/')}, "match, '\\^nothing/', finds no parameter"),
    ({'a': dict(match='(')}, 'expected a pattern of paths'),
    ({'a': dict(match='x', probability=0.0)}, r'must be in \(0, 1\]'),
    ({'a': dict(match='x', rate=1.0)}, 'groups.a.rate'),
    ({'a': dict(match='x', lr='fast')}, "lr is 'fast'; it must be a number"),
    ({'frozen': dict(match='x')}, 'under another name'),
    (['critic'], 'expected groups by name'),
  ],
)
def test_groups_that_cannot_be(groups, words):
  with pytest.raises(InputError, match=words):
    optim.make_optimizer(make(groups=groups), lambda step: 0.1).init(PARAMS)

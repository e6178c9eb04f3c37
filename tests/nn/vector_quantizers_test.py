"""Codebooks that follow their frames: starts, dead codes, padding, meshes and depths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.nn import codebooks
from research.nn.codebooks import Ema
from research.nn.vector_quantizers import COLLECTION, EmaQuantizer, GradientQuantizer
from research.train import sharding

K, D = 8, 4
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def frames(b=8, m=16, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal((b, m, D)), jnp.float32)


def used(x, lengths=None):
  lengths = [x.shape[1]] * len(x) if lengths is None else lengths
  return jnp.asarray(np.arange(x.shape[1]) < np.asarray(lengths)[:, None])


def learn(model, x, mask, steps=1, variables=None):
  """(last result, variables) of updates on one batch."""
  variables = variables or jit(model.init)(jax.random.key(0), x, mask)

  @jit
  def step(variables, x, mask, key):
    return model.apply(variables, x, mask, True, rngs={'noise': key}, mutable=[COLLECTION])

  for i in range(steps):
    found, variables = step(variables, x, mask, jax.random.key(i))
  return found, variables


def test_first_batch_starts_the_codebooks():
  x = frames()
  model = EmaQuantizer(K, D, codebooks.ENCODEC, depth=2)
  variables = jit(model.init)(jax.random.key(0), x, used(x))
  assert not variables[COLLECTION]['begun'].any()
  found, after = learn(model, x, used(x), variables=variables)
  assert after[COLLECTION]['begun'].all()
  np.testing.assert_array_equal(after[COLLECTION]['updates'], 1)
  # k-means of the first batch is nearer to it than its frames are to 0, and the second quantiser
  # takes what the first left.
  assert float(found.commitments[0]) < 0.5 * float(jnp.square(x).mean())
  assert float(found.commitments[1]) < 0.7 * float(found.commitments[0])
  assert 0.9 < float(found.code_usage) <= 1.0 and float(found.min_code_perplexity) > 3.0


def test_vectors_do_not_shrink_after_k_means():
  """What the released code does to its running sums is for comparison alone."""
  x = frames().reshape(-1, D)
  real = jnp.ones(len(x), bool)
  draws = codebooks.Draws(jnp.arange(K))

  @functools.partial(jit, static_argnums=0)
  def error(how):
    state = codebooks.begin(how, x, real, draws, jnp.zeros((), jnp.int32))
    codes = codebooks.nearest(x, state.vectors)
    vectors = codebooks.update(how, state, x, codes, real, draws).vectors
    return codebooks.mean_square(x, vectors[codebooks.nearest(x, vectors)], real)

  assert error(codebooks.ENCODEC) < 0.7 * error(codebooks.ENCODEC_PUBLISHED)


@pytest.mark.parametrize('dead', ['restart', 'reset', 'keep'])
def test_dead_codes(dead):
  """Codes far from all frames live again, unless they are kept."""
  x = frames()
  how = Ema(epsilon=0.0, threshold=1.0, dead=dead)
  model = EmaQuantizer(K, D, how)
  variables = jit(model.init)(jax.random.key(0), x, used(x))
  tree = dict(variables[COLLECTION])
  tree['vectors'] = tree['vectors'].at[:, 1:].add(100.0)
  tree['counts'] = tree['counts'] + 0.5
  tree['sums'] = tree['vectors'] * 0.5
  before, after = learn(model, x, used(x), variables={COLLECTION: tree})
  assert int((before.codes == 0).sum()) == x.shape[0] * x.shape[1]
  assert float(before.code_usage) == pytest.approx(1 / K) == float(before.min_code_usage)
  assert float(before.code_perplexity) == pytest.approx(1.0)
  found = jit(model.apply)(after, x, used(x))
  alive = len(np.unique(found.codes))
  assert alive == 1 if dead == 'keep' else alive >= K - 1
  counts = np.asarray(after[COLLECTION]['counts'][0])
  expected = {'reset': 1.0}.get(dead, 0.99 * 0.5)
  np.testing.assert_allclose(counts[1:], expected, rtol=1e-6)
  if dead == 'reset':  # They stay where they are without frames of their own.
    rows = np.asarray(after[COLLECTION]['vectors'][0][1:])
    flat = np.asarray(x).reshape(-1, D)
    assert all((np.abs(flat - row).max(axis=1) == 0).any() for row in rows)
    np.testing.assert_allclose(after[COLLECTION]['sums'][0][1:], rows, rtol=1e-6)


@pytest.mark.parametrize('how', [codebooks.JUKEBOX, codebooks.ENCODEC])
def test_padding_teaches_nothing(how):
  """NaN behind the mask: the result and the codebook of the frames alone."""
  x = frames(b=2, m=20)
  mask = used(x, [20, 20])
  wide = jnp.concatenate([x, jnp.full((2, 7, D), jnp.nan)], axis=1)
  wide_mask = used(wide, [20, 20])
  model = EmaQuantizer(K, D, how, depth=2)
  variables = jit(model.init)(jax.random.key(0), x, mask)
  start = dead = codebooks.Draws(jnp.tile(jnp.arange(K), (2, 1)))

  @jit
  def step(x, mask, start, dead):
    return model.apply(variables, x, mask, True, None, start, dead, mutable=[COLLECTION])

  places = codebooks.Draws(jnp.tile(jnp.arange(K), (2, 1)))
  found, state = step(x, mask, start, dead)
  padded, padded_state = step(wide, wide_mask, places, places)
  np.testing.assert_allclose(padded.vectors[:, :20], found.vectors, atol=1e-6)
  np.testing.assert_array_equal(padded.codes[:, :20], found.codes)
  assert not padded.codes[:, 20:].any()
  np.testing.assert_allclose(padded.loss, found.loss, rtol=1e-6)
  for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(padded_state), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_no_frames_change_nothing():
  x = frames()
  model = EmaQuantizer(K, D, codebooks.ENCODEC, depth=2)
  _, variables = learn(model, x, used(x))
  _, after = learn(model, jnp.full_like(x, jnp.nan), used(x, [0] * len(x)), variables=variables)
  for one, other in zip(jax.tree.leaves(variables), jax.tree.leaves(after), strict=True):
    np.testing.assert_array_equal(one, other)


def test_draws_are_of_frames_that_count():
  mask = jnp.asarray([True, False, True, True, False, True])
  for seed in range(8):
    key = jax.random.key(seed)
    assert sorted(codebooks.draw_rows(key, mask, 4).tolist()) == [0, 2, 3, 5]
    many = codebooks.draw_rows(key, mask, 7).tolist()
    assert set(many) == {0, 2, 3, 5} and many[:3] == many[4:]
  assert codebooks.draw(key, mask, 4).noise is None
  assert not np.any(codebooks.draw(key, mask, 4, 3).noise)
  assert np.all(np.any(codebooks.draw(key, mask, 5, 3).noise, axis=1))


def test_depths_are_drawn_and_the_others_do_not_learn():
  x = frames()
  model = EmaQuantizer(K, D, codebooks.ENCODEC, depth=3, depths=(1, 3))
  variables = jit(model.init)(jax.random.key(0), x, used(x))
  step = jit(
    lambda key: model.apply(variables, x, used(x), True, rngs={'noise': key}, mutable=[COLLECTION])
  )
  seen = set()
  for seed in range(8):
    found, after = step(jax.random.key(seed))
    count = int(after[COLLECTION]['begun'].sum())
    seen.add(count)
    assert not found.commitments[count:].any() and not found.codes[..., count:].any()
    before = variables[COLLECTION]['vectors'][count:]
    np.testing.assert_array_equal(after[COLLECTION]['vectors'][count:], before)
    np.testing.assert_allclose(found.loss, found.commitments[:count].mean(), rtol=1e-6)
  assert seen == {1, 3}


def test_eight_devices_learn_what_one_does():
  x, mask = frames(), used(frames(), [16, 9, 16, 3, 16, 16, 1, 16])
  model = EmaQuantizer(K, D, codebooks.ENCODEC, depth=2)
  variables = jit(model.init)(jax.random.key(0), x, mask)
  want, state = learn(model, x, mask, steps=3, variables=variables)
  mesh = sharding.make_mesh(dict(data=8))
  spread = sharding.to_devices(dict(x=np.asarray(x), mask=np.asarray(mask)), mesh)
  with jax.set_mesh(mesh):
    put = jax.device_put(variables, sharding.shardings(variables, mesh))
    got, after = learn(model, spread['x'], spread['mask'], steps=3, variables=put)
  np.testing.assert_array_equal(got.codes, want.codes)
  np.testing.assert_allclose(got.loss, want.loss, rtol=1e-5)
  for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_gradient_codebook_learns():
  x = frames()
  model = GradientQuantizer(K, D)
  params = jit(model.init)(jax.random.key(0), x, used(x))

  @jit
  def step(params):
    loss, gradient = jax.value_and_grad(lambda p: model.apply(p, x, used(x)).loss)(params)
    return loss, jax.tree.map(lambda p, g: p - 5.0 * g, params, gradient)

  losses = []
  for _ in range(30):
    loss, params = step(params)
    losses.append(float(loss))
  assert losses[-1] < 0.8 * losses[0]


def test_numbers_of_quantisers_are_checked():
  x = frames()
  with pytest.raises(InputError, match=r'n_q=3 of 2 quantisers: give 1 to 2'):
    EmaQuantizer(K, D, depth=2).init(jax.random.key(0), x, used(x), n_q=3)
  with pytest.raises(InputError, match=r'depths=\(1, 4\): give numbers of 1 to 2'):
    EmaQuantizer(K, D, depth=2, depths=(1, 4)).init(jax.random.key(0), x, used(x))

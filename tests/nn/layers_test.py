"""Layers against formulas and known values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.nn import kernels, layers
from research.nn.kernels import gelu
from research.nn.layers import Block, DropPath, LayerNorm, drop_path
from research.nn.positions import sincos_2d, spectrogram_positions
from research.train import hardware


def normal(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def test_gelu_is_the_exact_one():
  x = np.linspace(-6, 6, 101)
  want = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
  np.testing.assert_allclose(gelu(jnp.asarray(x, jnp.float32)), want, atol=1e-6)
  slope = jax.vmap(jax.grad(lambda v: gelu(v[None])[0]))(jnp.asarray(x, jnp.float32))
  exact = lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2)))  # noqa: E731
  numeric = [(exact(v + 1e-4) - exact(v - 1e-4)) / 2e-4 for v in x]
  np.testing.assert_allclose(slope, numeric, atol=1e-5)
  half = gelu(jnp.asarray(x, jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(jnp.float32), want, atol=0.03)


def test_the_gradient_of_a_bias_is_a_float32_sum():
  x, bias = jnp.zeros((4096, 2), jnp.bfloat16), jnp.zeros((2,), jnp.float32)
  weight = jnp.full((4096, 2), 1 + 2**-7, jnp.bfloat16).at[0].set(1.0)

  def loss(bias):
    y = kernels.add_bias(x, bias)
    assert y.dtype == jnp.bfloat16
    return (y * weight).astype(jnp.float32).sum()

  found = jax.grad(loss)(bias)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, [4095 * (1 + 2**-7) + 1.0] * 2)


@pytest.mark.parametrize(('dtype', 'kept'), [(jnp.bfloat16, 2), (jnp.float32, 4)])
def test_gelu_keeps_no_more_than_its_input(dtype, kept):
  """For the backward pass, alone and in a scan."""
  x = jnp.linspace(-3, 3, 8 * 128).reshape(8, 128).astype(dtype)

  def scanned(x):
    return jax.lax.scan(lambda carry, row: (carry, gelu(row)), 0.0, x)[1]

  for function in (gelu, scanned):
    backward = jax.jit(lambda x, function=function: jax.vjp(function, x)[1])(x)
    assert sum(a.nbytes for a in jax.tree.leaves(backward)) <= x.size * kept + 64
  slope = jax.vjp(gelu, x)[1](jnp.ones_like(x))[0]
  expected = jax.vjp(gelu, x.astype(jnp.float32))[1](jnp.ones(x.shape))[0]
  np.testing.assert_array_equal(slope, expected.astype(dtype))


def test_layer_norm_survives_a_large_mean():
  x = 30 + 0.5 * normal(4, 64)
  y, variables = LayerNorm().init_with_output(jax.random.key(0), x)
  exact = np.asarray(x, np.float64)
  exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(y, exact, atol=5e-5)
  assert set(variables['params']) == {'scale', 'bias'}


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_layer_norms_gradients_are_those_of_jax(dtype):
  x, weight = 3 + normal(2, 5, 64), normal(2, 5, 64, seed=1)
  scale, bias = 1 + 0.1 * normal(64, seed=2), normal(64, seed=3)
  x, weight = x.astype(dtype), weight.astype(dtype)

  def plain(x, scale, bias):
    x = x.astype(jnp.float32)
    normed = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return normed * scale + bias

  got, pull = jax.vjp(lambda *a: kernels.layer_norm(*a, 1e-5, dtype), x, scale, bias)
  want, jaxs = jax.vjp(plain, x, scale, bias)
  tolerance = 1e-5 if dtype == 'float32' else 0.02
  for a, b in zip((got, *pull(weight)), (want, *jaxs(weight.astype(jnp.float32)))):
    assert a.dtype == (dtype if a.ndim == 3 else jnp.float32)
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    np.testing.assert_allclose(a, b, atol=tolerance * float(abs(b).max()))


def test_barriers_between_layers_stay_in_a_training_step():
  x, scale = normal(4, 64), jnp.ones(64)

  def loss(x):
    return jnp.square(kernels.layer_norm(x, scale, scale, 1e-5, 'float32')).sum()

  step = jax.jit(jax.grad(loss), compiler_options=hardware.compiler_options('cpu'))
  assert 'opt-barrier' in step.lower(x).compile().as_text()


def test_drop_path_takes_given_draws():
  x = jnp.ones((4, 2, 3))
  u = jnp.array([0.0, 0.24, 0.26, 0.9])  # kept where floor(0.75 + u) is 1
  y = drop_path(x, 0.25, u)
  np.testing.assert_allclose(y[:, 0, 0], [0, 0, 4 / 3, 4 / 3], rtol=1e-6)


def test_drop_path_keeps_the_mean_and_is_off_in_evaluation():
  x = jnp.ones((4000, 1, 1))
  y = DropPath().apply({}, x, 0.25, True, rngs={'dropout': jax.random.key(0)})
  assert abs(float(y.mean()) - 1) < 0.05 and 0.2 < float((y == 0).mean()) < 0.3
  assert DropPath().apply({}, x, 0.25, False) is x


@pytest.mark.slow
def test_initialisation_of_a_block():
  d, heads = 96, 4
  params = Block(heads).init(jax.random.key(0), normal(1, 3, d))['params']
  shapes = jax.tree.map(np.shape, params)
  assert shapes['attn']['qkv'] == {
    'kernel': (d, 3, heads, d // heads),
    'bias': (3, heads, d // heads),
  }
  assert shapes['attn']['proj'] == {'kernel': (heads, d // heads, d), 'bias': (d,)}
  limits = {'qkv': 6 / (d + 3 * d), 'proj': 6 / (2 * d)}  # Xavier on the fused matrix
  for name, square in limits.items():
    kernel = np.abs(params['attn'][name]['kernel'])
    assert 0.98 * square**0.5 < kernel.max() <= square**0.5
  fc1 = np.abs(params['mlp']['fc1']['kernel'])
  assert 0.98 * (6 / (5 * d)) ** 0.5 < fc1.max() <= (6 / (5 * d)) ** 0.5
  assert not np.any(params['attn']['qkv']['bias'])


def test_stacking_layers_there_and_back():
  tree = {f'blocks_{i}': {'a': np.full(2, i)} for i in range(11)} | {'norm': {'b': np.ones(1)}}
  stacked = layers.stack_blocks({'encoder': tree})
  np.testing.assert_array_equal(stacked['encoder']['blocks']['a'][:, 0], np.arange(11))
  back = layers.unstack_blocks(stacked)
  jax.tree.map(np.testing.assert_array_equal, back, {'encoder': tree})


# -- Positions ---------------------------------------------------------------------------------


def test_position_table_values():
  table = sincos_2d((3, 5), 8)
  assert table.shape == (16, 8) and not table[0].any()
  r, c = 2, 3
  omega = np.array([1.0, 0.01])
  want = np.concatenate(
    [np.sin(c * omega), np.cos(c * omega), np.sin(r * omega), np.cos(r * omega)]
  )
  np.testing.assert_allclose(table[1 + r * 5 + c], want, rtol=1e-6)


def test_published_positions_are_scrambled_and_ours_are_not():
  published = spectrogram_positions((64, 8), 16, 'published', overlap=False)
  right = spectrogram_positions((64, 8), 16, 'time_frequency', overlap=False)
  # Token 8 is the second row in time; the published table calls it column 8 of row 0.
  np.testing.assert_array_equal(published, sincos_2d((8, 64), 16))
  np.testing.assert_array_equal(right, sincos_2d((64, 8), 16))
  assert np.abs(published - right).max() > 1
  for kind in ('published', 'time_frequency'):
    table = spectrogram_positions((101, 12), 16, kind, overlap=True)
    np.testing.assert_array_equal(table, sincos_2d((101, 12), 16))

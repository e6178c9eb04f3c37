"""Convolution and maximum over time and frequency: the derivatives that are written out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.nn.kernels.convolutions import conv3x3, max_pool2


@pytest.mark.slow
@pytest.mark.parametrize(
  'shape, channels', [((3, 7, 6, 1), 4), ((2, 6, 5, 3), 5), ((1, 1, 2, 3), 2)]
)
def test_conv3x3_is_the_convolution_of_the_library(shape, channels):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], shape)
  kernel = jax.random.normal(keys[1], (3, 3, shape[-1], channels))
  g = jax.random.normal(keys[2], (*shape[:-1], channels))

  def reference(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  expected, back = jax.vjp(reference, x, kernel)
  for call in (conv3x3, jax.jit(conv3x3)):
    got, pullback = jax.vjp(call, x, kernel)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(pullback(g), back(g)):
      assert ours.dtype == theirs.dtype
      np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_conv3x3_in_half_precision_sums_in_single():
  keys = jax.random.split(jax.random.key(1), 3)
  x = jax.random.normal(keys[0], (4, 16, 8, 3), jnp.bfloat16)
  kernel = jax.random.normal(keys[1], (3, 3, 3, 2), jnp.bfloat16)
  g = jax.random.normal(keys[2], (4, 16, 8, 2), jnp.bfloat16)
  got = jax.vjp(conv3x3, x, kernel)[1](g)
  wide = [a.astype(jnp.float32) for a in (x, kernel, g)]
  expected = jax.vjp(conv3x3, *wide[:2])[1](wide[2])
  assert [a.dtype for a in got] == [jnp.bfloat16] * 2
  np.testing.assert_allclose(np.float32(got[1]), expected[1], rtol=1e-2, atol=1e-2)
  np.testing.assert_allclose(np.float32(got[0]), expected[0], rtol=3e-2, atol=3e-2)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(2, 6, 8, 3), (1, 5, 7, 2), (1, 2, 2, 1)])
def test_max_pool2_is_that_of_the_library(shape):
  x = jax.random.normal(jax.random.key(0), shape)
  expected, back = jax.vjp(lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)), x)
  got, pullback = jax.vjp(max_pool2, x)
  np.testing.assert_array_equal(got, expected)
  g = jax.random.normal(jax.random.key(1), got.shape)
  np.testing.assert_allclose(pullback(g)[0], back(g)[0], rtol=1e-6)


def test_of_equal_values_the_first_by_frequency_gets_the_gradient():
  """PyTorch's order, whose rows are frequencies: (f0, t0), (f0, t1), (f1, t0), (f1, t1)."""
  x = np.zeros((1, 2, 2, 4), np.float32)  # [b, s, f, c]
  x[0, 1, 0, 1] = x[0, 0, 1, 1] = 1.0  # equal at (f0, t1) and (f1, t0)
  x[0, 0, 1, 2] = x[0, 1, 1, 2] = 1.0  # equal at (f1, t0) and (f1, t1)
  x[0, 1, 1, 3] = 1.0
  (gradient,) = jax.vjp(max_pool2, jnp.asarray(x))[1](jnp.ones((1, 1, 1, 4)))
  where = [tuple(np.argwhere(np.asarray(gradient)[0, :, :, c])[0][::-1]) for c in range(4)]
  assert where == [(0, 0), (0, 1), (1, 0), (1, 1)]  # (f, t)
  np.testing.assert_array_equal(gradient.sum((0, 1, 2)), 1.0)

"""Products on CPUs: 16-bit floats summed in float32, whichever side is turned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.nn.kernels import products


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('k', [3, 499, 3072])
def test_sums_are_of_float32(dtype, k):
  x, y = (jnp.asarray(normal(i, *shape), dtype) for i, shape in enumerate([(37, k), (k, 20)]))
  exact = np.asarray(x, np.float64) @ np.asarray(y, np.float64)
  columns = jnp.asarray(np.asarray(x, np.float32).T, dtype)
  got = [
    jax.jit(products.dot)(x, y),
    jax.jit(products.dot, static_argnames='side')(x, y.T, side=1),
    jax.jit(products.dot_rows)(columns, y),
    products.dot_rows(columns, y),
  ]
  for found in got:
    # Sums in 16 bits would be wrong in the third digit.
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, atol=2e-6 * k**0.5 * np.abs(exact).max())


def test_several_axes_are_kept():
  x, y = normal(0, 11, 2, 3).astype(np.float32), normal(1, 11, 4).astype(np.float32)
  got = jax.jit(products.dot_rows)(jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16))
  want = np.einsum('kab,kc->abc', x, y)
  assert got.shape == (2, 3, 4)
  np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())

"""Positions of tokens: known values, offsets, and what rotary positions leave as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.nn.positions import (
  LearnedPositions,
  Rotary,
  rotary_frequencies,
  rotate,
  sinusoids,
)
from research.nn.relative_bias import RelativeBias, bucket


def test_sinusoids():
  table = sinusoids(5, 8)
  rates = 10000.0 ** (-np.arange(4) / 3)
  angles = np.arange(5)[:, None] * rates
  np.testing.assert_allclose(table, np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=1e-6)
  with pytest.raises(InputError, match='width=7'):
    sinusoids(5, 7)


def test_learned_positions():
  module = LearnedPositions(6, 4, skipped=2)
  positions = jnp.asarray([[0, 1, 5], [3, 3, 9]])
  found, variables = module.init_with_output(jax.random.key(0), positions)
  table = variables['params']['embedding']
  assert table.shape == (8, 4)
  np.testing.assert_array_equal(found, table[np.asarray([[2, 3, 7], [5, 5, 7]])])


@pytest.mark.parametrize('interleaved', [False, True])
@pytest.mark.parametrize('dims', [None, 4])
def test_rotary(dims, interleaved):
  rotary = Rotary(100.0, dims, interleaved)
  frequencies = rotary_frequencies(rotary, 8)
  n = 4 if dims is None else 2
  np.testing.assert_allclose(frequencies, 100.0 ** (-np.arange(n) / n), rtol=1e-6)
  x = jax.random.normal(jax.random.key(0), (2, 3, 1, 8))
  positions = jnp.asarray([[0, 1, 7]])
  y = np.asarray(rotate(x, positions, frequencies, interleaved))
  np.testing.assert_array_equal(y[:, 0], x[:, 0])  # position 0
  np.testing.assert_array_equal(y[..., 2 * n :], x[..., 2 * n :])
  for i, w in enumerate(frequencies):
    a, b = (2 * i, 2 * i + 1) if interleaved else (i, n + i)
    z = (np.asarray(x[..., a]) + 1j * np.asarray(x[..., b])) * np.exp(
      1j * w * np.asarray([0, 1, 7])
    )[:, None]
    np.testing.assert_allclose(y[..., a] + 1j * y[..., b], z, atol=1e-6)


def test_rotary_products_go_by_distance():
  q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 16)) for i in range(2))
  frequencies = rotary_frequencies(Rotary(), 16)

  def product(i, j):
    turned = [rotate(x, jnp.asarray([[p]]), frequencies) for x, p in ((q, i), (k, j))]
    return float((turned[0] * turned[1]).sum())

  assert abs(product(5.0, 2.5) - product(103.0, 100.5)) < 1e-4
  assert abs(product(5, 2) - product(2, 5)) > 1e-2


def test_rotary_needs_pairs_of_a_head():
  for dims in (3, 10, 0):
    with pytest.raises(InputError, match=f'positions of {dims} dimensions of a head of 8'):
      rotary_frequencies(Rotary(dims=dims), 8)


# -- Relative bias -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('bidirectional', [True, False])
@pytest.mark.parametrize('t, s, offset', [(4, 9, 0), (4, 9, 5), (9, 9, 0), (1, 9, 3), (5, 3, 0)])
def test_relative_bias_of_queries_within_the_keys(t, s, offset, bidirectional):
  module = RelativeBias(2, 8, 12, bidirectional)
  variables = module.init(jax.random.key(0), 3)
  table = np.asarray(variables['params']['table'])
  distance = np.arange(s) - (offset + np.arange(t))[:, None]
  want = table[bucket(distance, 8, 12, bidirectional)].transpose(2, 0, 1)
  np.testing.assert_array_equal(module.apply(variables, t, s, offset), want)
  if offset + t <= s:
    step = jax.jit(lambda v, o: module.apply(v, t, s, o))
    np.testing.assert_array_equal(step(variables, jnp.asarray(offset)), want)

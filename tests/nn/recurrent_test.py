"""LSTMs: padding, both directions, parts of a sequence, and the derivative that is written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.nn.kernels.recurrent import gates, lstm
from research.nn.recurrent import LSTM

LENGTHS = (7, 4, 1)


def inputs(seed=0):
  x = jax.random.normal(jax.random.key(seed), (3, 7, 5))
  mask = jnp.arange(7) < jnp.array(LENGTHS)[:, None]
  return x, mask


def reference(params, x):
  """One row step by step, in float64."""
  p = {k: np.asarray(v, np.float64) for k, v in params.items()}
  h = c = np.zeros(p['recurrent'].shape[0])
  out = []
  for row in np.asarray(x, np.float64):
    z = row @ p['kernel'] + p['bias'] + h @ p['recurrent'] + p['recurrent_bias']
    i, f, g, o = np.split(z, 4)
    i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
    c = f * c + i * np.tanh(g)
    h = o * np.tanh(c)
    out.append(h)
  return np.array(out)


@pytest.mark.parametrize('bidirectional', [False, True])
def test_rows_are_alone(bidirectional):
  x, mask = inputs()
  model = LSTM(4, bidirectional)
  variables = model.init(jax.random.key(1), x, mask)
  broken = jnp.where(mask[:, :, None], x, jnp.nan)
  y, (h, _) = jax.jit(model.apply)(variables, broken, mask)
  params = variables['params']
  for row, length in enumerate(LENGTHS):
    want = reference(params['forward'], x[row, :length])
    np.testing.assert_allclose(h[row], want[-1], atol=1e-6)
    if bidirectional:
      back = reference(params['backward'], x[row, :length][::-1])[::-1]
      want = np.concatenate([want, back], axis=1)
    np.testing.assert_allclose(y[row, :length], want, atol=1e-6)
    assert not np.any(y[row, length:])


def test_parts_and_steps():
  x, mask = inputs()
  model = LSTM(4)
  variables = model.init(jax.random.key(1), x, mask)
  whole, last = model.apply(variables, x, mask)
  first, state = model.apply(variables, x[:, :3], mask[:, :3])
  second, state = model.apply(variables, x[:, 3:], mask[:, 3:], state)
  np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=1e-6)
  np.testing.assert_allclose(state[0], last[0], atol=1e-6)
  state = model.initial(3)
  for i in range(7):
    y, state = model.apply(variables, x[:, i], state, method='step')
    np.testing.assert_allclose(y[0], whole[0, i], atol=1e-6)
  with pytest.raises(InputError, match='whole sequences'):
    LSTM(4, True).init(jax.random.key(0), x, mask, state)


def test_derivative():
  """The written one is that of JAX, states and masked steps included."""
  key = jax.random.split(jax.random.key(3), 6)
  z = jax.random.normal(key[0], (7, 2, 3, 16))
  kernel = jax.random.normal(key[1], (2, 4, 16))
  state = tuple(jax.random.normal(k, (2, 3, 4)) for k in key[2:4])
  mask = jnp.stack([inputs()[1].T, inputs()[1].T[::-1]], axis=1)
  weight = jax.random.normal(key[4], (7, 2, 3, 4))

  def plain(z, kernel, state):
    def step(state, given):
      z, real = given
      _, c, h = gates(z + jnp.einsum('kbh,khg->kbg', state[0], kernel), state[1])
      state = tuple(jnp.where(real[..., None], a, b) for a, b in zip((h, c), state))
      return state, jnp.where(real[..., None], h, 0.0)

    last, y = jax.lax.scan(step, state, (z, mask))
    return y, last

  def loss(f):
    def value(*args):
      y, (h, c) = f(*args)
      return (y * weight).sum() + (h * 0.7).sum() + (c**2).sum()

    return jax.value_and_grad(value, argnums=(0, 1, 2))(z, kernel, state)

  got, want = loss(lambda z, kernel, state: lstm(z, kernel, mask, state)), loss(plain)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), got, want)

"""The shifted-window decoder: windows, shifts, bias, against a loop over windows written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models.window_decoder import (
  WindowBlock,
  WindowDecoder,
  from_strips,
  relative_features,
  shift_bias,
  to_strips,
)
from research.nn.layers import stack_blocks, unstack_blocks

GRID, WINDOW = (12, 8), (4, 4)


def test_strips_there_and_back():
  x = jnp.arange(2 * 12 * 8 * 3).reshape(2, 96, 3)
  strips = to_strips(x, GRID, WINDOW, 'edge')
  assert strips.shape == (4, 48, 3)
  # Strip 1 holds columns 4 to 7; its second token is row 0, column 5.
  np.testing.assert_array_equal(strips[1, 1], x[0, 5])
  np.testing.assert_array_equal(from_strips(strips, GRID, WINDOW), x)


def test_a_grid_that_windows_do_not_divide_is_extended():
  x = jnp.arange(101 * 12, dtype=jnp.float32).reshape(1, 1212, 1)
  strips = to_strips(x, (101, 12), (6, 6), 'edge')
  assert strips.shape == (2, 102 * 6, 1)
  np.testing.assert_array_equal(strips[0, -6:], strips[0, -12:-6])  # the last row, twice
  np.testing.assert_array_equal(from_strips(strips, (101, 12), (6, 6)), x)


def test_relative_features():
  f = relative_features((4, 4))
  assert f.shape == (16, 16, 2)
  np.testing.assert_allclose(f[0, 5], [-np.log(2), -np.log(2)], rtol=1e-6)
  np.testing.assert_allclose(f[15, 0], [np.log(4), np.log(4)], rtol=1e-6)


def test_published_shift_mask():
  """64 x 8 grid, window 4, shift 2: only the last window row is masked, between its halves."""
  bias = shift_bias(64, WINDOW, 2)
  assert bias.shape == (16, 16, 16) and not bias[:15].any()
  assert (bias[15, :8, 8:] == -100).all() and (bias[15, 8:, :8] == -100).all()
  assert not bias[15, :8, :8].any() and not bias[15, 8:, 8:].any()


def reference(params, x, shift):
  """One block on [rows, columns, d], window by window, in float64 NumPy."""
  rows, columns, d = x.shape
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  attn, heads = p['attn'], p['attn']['tau'].shape[0]

  def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return x * p[name]['scale'] + p[name]['bias']

  meta = attn['meta_mlp']
  hidden = relative_features(WINDOW) @ meta['fc1']['kernel'] + meta['fc1']['bias']
  bias = np.maximum(hidden, 0) @ meta['fc2']['kernel'] + meta['fc2']['bias']
  rolled = np.roll(x, -shift, 0)
  seam = rows - shift
  y = np.zeros_like(rolled)
  for r in range(0, rows, 4):
    for c in range(0, columns, 4):
      block = rolled[r : r + 4, c : c + 4].reshape(16, d)
      behind = np.repeat(np.arange(r, r + 4) >= seam, 4)
      q, k, v = (
        np.einsum('nd,dchk->cnhk', block, attn['qkv']['kernel']) + attn['qkv']['bias'][:, None]
      )
      out = np.zeros_like(q)
      for h in range(heads):
        a, b = q[:, h], k[:, h]
        cosine = (
          a @ b.T / np.maximum(np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)), 1e-6)
        )
        logits = cosine / max(attn['tau'][h], 0.01) + bias[:, :, h]
        logits = logits - 100.0 * (behind[:, None] != behind[None])
        w = np.exp(logits - logits.max(-1, keepdims=True))
        out[:, h] = w / w.sum(-1, keepdims=True) @ v[:, h]
      joined = np.einsum('nhk,hkd->nd', out, attn['proj']['kernel']) + attn['proj']['bias']
      y[r : r + 4, c : c + 4] = joined.reshape(4, 4, d)
  x = x + norm(np.roll(y, shift, 0), 'norm1')
  h = x @ p['mlp']['fc1']['kernel'] + p['mlp']['fc1']['bias']
  h = h * 0.5 * (1 + np.vectorize(__import__('math').erf)(h / np.sqrt(2)))
  return x + norm(h @ p['mlp']['fc2']['kernel'] + p['mlp']['fc2']['bias'], 'norm2')


@pytest.mark.slow
@pytest.mark.parametrize('shift', [0, 2])
def test_block_against_loops(shift):
  x = jax.random.normal(jax.random.key(0), (2, 96, 16))
  block = WindowBlock(heads=2, window=WINDOW, shift=shift)
  strips = to_strips(x, GRID, WINDOW, 'edge')
  params = block.init(jax.random.key(1), strips)['params']
  params = jax.tree.map(
    lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), params
  )
  params['attn']['tau'] = jnp.array([0.005, 0.7])  # the first lies below its floor
  got = from_strips(block.apply({'params': params}, strips), GRID, WINDOW)
  for i in range(2):
    want = reference(params, np.asarray(x[i], np.float64).reshape(12, 8, 16), shift)
    np.testing.assert_allclose(got[i].reshape(12, 8, 16), want, atol=1e-4)


def decoder(**args):
  return WindowDecoder(4, 2, GRID, WINDOW, 2, 256, **args)


@pytest.mark.slow
def test_scan_and_remat_change_nothing():
  x = jax.random.normal(jax.random.key(0), (2, 96, 16))
  params = decoder().init(jax.random.key(1), x, None, False)['params']

  def run(model, params):
    loss = lambda p: jnp.square(model.apply({'params': p}, x, None, False)).mean()  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(params)

  want, wanted = run(decoder(), params)
  for change in (dict(scan_layers=True), dict(remat=True)):
    model = decoder(**change)
    got, gradients = run(model, stack_blocks(params) if model.scan_layers else params)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    compare = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6)  # noqa: E731
    jax.tree.map(compare, unstack_blocks(gradients), wanted)


@pytest.mark.slow
def test_bias_dropout_acts_in_training_only():
  x = jax.random.normal(jax.random.key(0), (1, 96, 16))
  model = decoder()
  variables = model.init(jax.random.key(1), x, None, False)
  still = model.apply(variables, x, None, False)
  moved = [
    model.apply(variables, x, None, True, rngs={'dropout': jax.random.key(i)}) for i in range(2)
  ]
  assert np.abs(moved[0] - still).max() > 1e-4 and np.abs(moved[0] - moved[1]).max() > 1e-4


@pytest.mark.slow
def test_masked_tokens_are_not_attended_to():
  x = jax.random.normal(jax.random.key(0), (1, 96, 16))
  mask = (jnp.arange(96) < 56)[None]
  model = decoder()
  variables = model.init(jax.random.key(1), x, None, False)
  want = model.apply(variables, x, mask, False)
  other = jnp.where(mask[:, :, None], x, 7.0)
  got = model.apply(variables, other, mask, False)
  np.testing.assert_allclose(got[:, :56], want[:, :56], atol=1e-5)

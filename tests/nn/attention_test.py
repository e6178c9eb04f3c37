"""Attention in each of its forms against softmax written out, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.nn import attention
from research.nn.kernels import attention as kernel


def plain(q, k, v, mask, bias=None):
  logits = jnp.einsum('bthk,bshk->bhts', q, k) / np.float32(q.shape[-1] ** 0.5)
  if bias is not None:
    logits += jnp.einsum('bth,hts->bhts', bias.gate, bias.table)
  logits = jnp.where(mask[:, None, None], logits, -1e30)
  return jnp.einsum('bhts,bshk->bthk', jax.nn.softmax(logits), v)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('biased, masked', [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize(
  'implementation, limit',
  [('xla', 0), (None, kernel.CPU_LOGITS), (None, 200), (None, 50), (None, 0)],
  ids=['xla', 'at once', 'two clips', 'two heads', 'head by head'],
)
def test_values_and_gradients(monkeypatch, dtype, implementation, masked, limit, biased):
  monkeypatch.setattr(kernel, 'CPU_LOGITS', limit)
  q, k, v, g = (jax.random.normal(jax.random.key(i), (4, 5, 4, 8)).astype(dtype) for i in range(4))
  mask = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]] * 2, bool)
  gate, table = (jax.random.normal(jax.random.key(i), (4, 5, 5)) for i in (4, 5))
  bias = attention.Bias(gate[:, :, :4], table) if biased else None
  floats = [x.astype(jnp.float32) for x in (q, k, v, g)]
  everything = mask if masked else jnp.ones_like(mask)
  want, pull = jax.vjp(lambda q, k, v, bias: plain(q, k, v, everything, bias), *floats[:3], bias)

  @jax.jit
  def ours(q, k, v, bias, g):
    def attend(q, k, v, bias):
      return attention.attend(q, k, v, mask if masked else None, implementation, bias)

    y, pull = jax.vjp(attend, q, k, v, bias)
    return y, *pull(g)

  tolerance = 1e-5 if dtype == 'float32' else 0.02
  got = jax.tree.leaves(ours(q, k, v, bias, g))
  assert len(got) == (6 if biased else 4)
  for i, (a, b) in enumerate(zip(got, jax.tree.leaves((want, *pull(floats[3]))), strict=True)):
    assert a.dtype == (dtype if i < 4 else 'float32') and a.shape == b.shape
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=tolerance * float(jnp.abs(b).max()))


def test_accelerators_get_the_library_function():
  x = jnp.zeros((1, 4, 2, 8), jnp.float32)
  program = jax.jit(attention.attend)
  text = {
    p: program.trace(x, x, x).lower(lowering_platforms=(p,)).as_text() for p in ('cpu', 'cuda')
  }
  assert text['cpu'] != text['cuda']


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_bias_lowers_for_accelerators_with_its_derivative(dtype):
  x = jnp.zeros((2, 4, 2, 8), dtype)
  bias = attention.Bias(jnp.zeros((2, 4, 2)), jnp.zeros((2, 4, 4)))

  def loss(x, bias):
    return attention.attend(x, x, x, bias=bias).astype(jnp.float32).sum()

  program = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(x, bias)
  for platform in ('cpu', 'cuda', 'tpu'):
    assert 'dot_general' in program.lower(lowering_platforms=(platform,)).as_text()

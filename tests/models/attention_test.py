"""Attention in each of its forms against softmax written out, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import attention


def plain(q, k, v, mask):
  logits = jnp.einsum('bthk,bshk->bhts', q, k) / np.float32(q.shape[-1] ** 0.5)
  logits = jnp.where(mask[:, None, None], logits, -1e30)
  return jnp.einsum('bhts,bshk->bthk', jax.nn.softmax(logits), v)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('implementation', [None, 'xla'])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize(
  'limit', [attention.CPU_LOGITS, 50, 0], ids=['at once', 'two heads', 'head by head']
)
def test_values_and_gradients(monkeypatch, dtype, implementation, masked, limit):
  monkeypatch.setattr(attention, 'CPU_LOGITS', limit)
  q, k, v, g = (jax.random.normal(jax.random.key(i), (2, 5, 3, 8)).astype(dtype) for i in range(4))
  mask = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
  floats = [x.astype(jnp.float32) for x in (q, k, v, g)]
  everything = mask if masked else jnp.ones_like(mask)
  want, pull = jax.vjp(lambda *x: plain(*x, everything), *floats[:3])

  @jax.jit
  def ours(q, k, v, g):
    attend = lambda *x: attention.attend(*x, mask if masked else None, implementation)  # noqa: E731
    y, pull = jax.vjp(attend, q, k, v)
    return y, *pull(g)

  tolerance = 1e-5 if dtype == 'float32' else 0.02
  for a, b in zip(ours(q, k, v, g), (want, *pull(floats[3]))):
    assert a.dtype == dtype and a.shape == b.shape
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=tolerance * float(jnp.abs(b).max()))


def test_accelerators_get_the_library_function():
  x = jnp.zeros((1, 4, 2, 8), jnp.float32)
  program = jax.jit(attention.attend)
  text = {
    p: program.trace(x, x, x).lower(lowering_platforms=(p,)).as_text() for p in ('cpu', 'cuda')
  }
  assert text['cpu'] != text['cuda']

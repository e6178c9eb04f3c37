"""Attention in each of its forms against softmax written out, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.nn import attention
from research.nn.kernels import attention as kernel


def plain(q, k, v, mask, bias=None):
  logits = jnp.einsum('bthk,bshk->bhts', q, k) / np.float32(q.shape[-1] ** 0.5)
  if bias is not None:
    logits += jnp.einsum('bth,hts->bhts', bias.gate, bias.table)
  logits = jnp.where(mask[:, None, None], logits, -1e30)
  return jnp.einsum('bhts,bshk->bthk', jax.nn.softmax(logits), v)


@pytest.mark.slow
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


# -- Lengths of their own, groups, order -------------------------------------------------------


def written_out(q, k, v, *, allowed=None, bias=None, scale=None):
  """Softmax over pairs with every key head repeated; allowed [b or 1, 1, t or 1, s]."""
  repeats = q.shape[2] // k.shape[2]
  k, v = (jnp.repeat(x, repeats, axis=2) for x in (k, v))
  logits = jnp.einsum('bthk,bshk->bhts', q, k) * np.float32(scale or q.shape[-1] ** -0.5)
  if bias is not None:
    gate = 1.0 if bias.gate is None else bias.gate.swapaxes(1, 2)[..., None]
    logits += gate * bias.table
  if allowed is not None:
    logits = jnp.where(allowed, logits, -1e30)
  return jnp.einsum('bhts,bshk->bthk', jax.nn.softmax(logits), v)


def pairs(t, s, offset=0):
  """Query less key, by position: [t, s]."""
  return offset + np.arange(t)[:, None] - np.arange(s)


CASES = {
  'cross': (dict(t=3, s=7), {}, None),
  'cross, key mask': (dict(t=3, s=7, keys=True), {}, None),
  'groups': (dict(t=5, s=5, g=2), {}, None),
  'one group, key mask': (dict(t=5, s=5, g=1, keys=True), {}, None),
  'causal': (dict(t=6, s=6), dict(causal=True), pairs(6, 6) >= 0),
  'causal, groups, offset': (
    dict(t=2, s=7, g=2),
    dict(causal=True, offset=3),
    pairs(2, 7, 3) >= 0,
  ),
  'causal, offsets of rows': (
    dict(t=2, s=7, keys=True),
    dict(causal=True, offset=np.asarray([0, 3, 5, 1], np.int32)),
    np.stack([pairs(2, 7, o) >= 0 for o in (0, 3, 5, 1)])[:, None],
  ),
  'window': (dict(t=6, s=6), dict(window=2), abs(pairs(6, 6)) < 2),
  'causal window, groups, biased': (
    dict(t=6, s=6, g=2, bias='table'),
    dict(causal=True, window=3),
    (pairs(6, 6) >= 0) & (pairs(6, 6) < 3),
  ),
  'gated bias, groups': (dict(t=6, s=6, g=2, bias='gate', keys=True), {}, None),
  'bias, cross': (dict(t=3, s=7, bias='table'), dict(scale=0.3), None),
  'a mask of pairs': (
    dict(t=4, s=4, g=2, keys=True),
    dict(mask=(pairs(4, 4) != 1)[None, None], causal=True),
    (pairs(4, 4) >= 0) & (pairs(4, 4) != 1),
  ),
}


WAYS = {
  'at once': (None, kernel.CPU_LOGITS),
  'in parts': (None, 150),
  'head by head': (None, 0),
  'xla': ('xla', 0),
  'drop': ('drop', 0),
}


@pytest.mark.slow
@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('case', CASES)
def test_general_attention(monkeypatch, case, way):
  implementation, limit = WAYS[way]
  monkeypatch.setattr(kernel, 'CPU_LOGITS', limit)
  shape, options, allowed = CASES[case]
  t, s, g = shape['t'], shape['s'], shape.get('g', 4)
  q, k, v, weight = (
    jax.random.normal(jax.random.key(i), (4, n, h, 8))
    for i, (n, h) in enumerate([(t, 4), (s, g), (s, g), (t, 4)])
  )
  bias, kind = None, shape.get('bias')
  if kind:
    gate = jax.random.normal(jax.random.key(5), (4, t, 4)) if kind == 'gate' else None
    bias = attention.Bias(gate, jax.random.normal(jax.random.key(6), (4, t, s)))
  real = jnp.arange(s) < jnp.asarray([s, s - 1, s, s - 2])[:, None]
  key_mask = real if shape.get('keys') else None
  seen = True if allowed is None else jnp.asarray(allowed)
  seen = seen & (real[:, None, None] if shape.get('keys') else jnp.ones((1, 1, 1, s), bool))
  options = {n: jnp.asarray(x) if isinstance(x, np.ndarray) else x for n, x in options.items()}
  scale = options.get('scale')
  drop = kernel.Drop(jax.random.key(7), 0.0) if implementation == 'drop' else None
  how = None if drop else implementation

  def ours(q, k, v, bias):
    return attention.attend(q, k, v, key_mask, how, bias, drop=drop, **options)

  want, pull = jax.vjp(
    lambda *args: written_out(*args[:3], allowed=seen, bias=args[3], scale=scale), q, k, v, bias
  )
  got, ours_pull = jax.vjp(jax.jit(ours), q, k, v, bias)
  # A query that sees no key has no meaning, only a finite value.
  some = jnp.broadcast_to(seen, (4, 1, t, s)).any(-1)[:, 0, :, None, None].astype(jnp.float32)
  np.testing.assert_allclose(got * some, want * some, atol=1e-5)
  assert np.isfinite(got).all()
  found, expected = (jax.tree.leaves(p(weight * some)) for p in (ours_pull, pull))
  for a, b in zip(found, expected, strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, atol=1e-5 * float(1 + jnp.abs(b).max()))


@pytest.mark.slow
def test_a_query_without_keys_is_finite_and_its_neighbours_right():
  q, k, v = (jax.random.normal(jax.random.key(i), (1, 3, 2, 4)) for i in range(3))
  real = jnp.asarray([[False, True, True]])  # padding on the left: query 0 sees nothing

  def loss(q, k, v):
    return jnp.square(attention.attend(q, k, v, real, causal=True)).sum()

  alone = [x[:, 1:] for x in (q, k, v)]
  got = attention.attend(q, k, v, real, causal=True)
  np.testing.assert_allclose(got[:, 1:], attention.attend(*alone, causal=True), atol=1e-6)
  gradients = jax.grad(loss, argnums=(0, 1, 2))(q, k, v)
  assert all(np.isfinite(g).all() for g in gradients)
  assert not np.any(gradients[0][:, 0]) and not np.any(gradients[1][:, 0])


def test_groups_need_heads_that_they_divide():
  x = jnp.zeros((1, 2, 4, 8))
  with pytest.raises(InputError, match='4 query heads cannot share 3'):
    attention.attend(x, x[:, :, :3], x[:, :, :3])


@pytest.mark.parametrize('groups', [2, 4])
def test_general_attention_lowers_for_accelerators_with_its_derivative(groups):
  q, k = jnp.zeros((2, 4, 4, 8), 'bfloat16'), jnp.zeros((2, 6, groups, 8), 'bfloat16')

  def loss(q, k):
    return attention.attend(q, k, k, causal=True, offset=2).astype(jnp.float32).sum()

  program = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(q, k)
  for platform in ('cpu', 'cuda', 'tpu'):
    assert 'dot_general' in program.lower(lowering_platforms=(platform,)).as_text()

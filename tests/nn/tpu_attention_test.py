"""Attention of TPUs, run by Pallas' interpreter on a CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.nn.attention import Bias, Drop, attend
from research.nn.kernels import tpu_attention, tpu_programs
from research.nn.kernels.attention import softmax_attention
from research.train import flops, sharding

# b, t, s, h, k, logits of a program (None: the usual), what there is.
CASES = {
  'wide heads': (1, 40, 40, 2, 128, None, ''),
  'mask, two parts of queries': (2, 150, 150, 4, 64, 20_000, 'mask'),
  'other keys': (2, 24, 150, 4, 32, None, 'mask'),
  'heads across registers': (1, 40, 40, 8, 80, None, 'mask'),
  'table': (2, 40, 40, 4, 32, None, 'mask table'),
  'gate, parts of queries': (2, 140, 140, 4, 64, 20_000, 'mask table gate'),
}


def draw(b, t, s, h, k, what):
  keys = iter(jax.random.split(jax.random.key(0), 8))
  q, key, v = (jax.random.normal(next(keys), (b, n, h, k)) for n in (t, s, s))
  mask = jnp.arange(s) < jnp.asarray([s, s // 2])[:b, None] if 'mask' in what else None
  table = jax.random.normal(next(keys), (h, t, s)) if 'table' in what else None
  gate = jax.random.normal(next(keys), (b, t, h)) if 'gate' in what else None
  return q, key, v, mask, gate, table, jax.random.normal(next(keys), (b, t, h, k))


def ours(q, k, v, mask, gate, table, words=None, rate=0.0):
  scale = q.shape[-1] ** -0.5
  return tpu_attention.attention(q, k, v, mask, gate, table, words, scale, rate, interpret=True)


def check(found, wanted):
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * float(1 + jnp.abs(b).max()))


FAST = ('mask, two parts of queries',)


@pytest.mark.parametrize(
  'case', [c if c in FAST else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
)
def test_values_and_gradients_are_those_of_xla(monkeypatch, case):
  *shape, limit, what = CASES[case]
  monkeypatch.setattr(tpu_programs, 'LOGITS', limit or tpu_programs.LOGITS)
  q, k, v, mask, gate, table, weight = draw(*shape, what)

  def xla(q, k, v, gate, table):
    bias = None if table is None else Bias(gate, table)
    return softmax_attention(q, k, v, mask, bias, None, 'xla')

  want, pull = jax.vjp(xla, q, k, v, gate, table)
  one = jax.jit(lambda q, k, v, *b: ours(q, k, v, mask, *b))
  got, our_pull = jax.vjp(one, q, k, v, gate, table)
  check(got, want)
  check(our_pull(weight), pull(weight))


def test_a_query_without_keys_gets_the_mean_and_no_gradient():
  q, k, v, _, _, _, weight = draw(2, 20, 20, 4, 32, '')
  mask = jnp.asarray([[True] * 20, [False] * 20])
  got, pull = jax.vjp(jax.jit(lambda q, k, v: ours(q, k, v, mask, None, None)), q, k, v)
  np.testing.assert_allclose(got[1], jnp.broadcast_to(v[1].mean(0), got[1].shape), atol=1e-6)
  dq, dk, _ = pull(weight)
  assert not np.any(dq[1]) and not np.any(dk[1]) and np.any(dq[0])


def kept(words, rate, b, h, t, s):
  """What dropout keeps [b, h, t, s]."""
  call = tpu_programs.Call(1.0, rate, (t, s, h, 1))
  seed = [*words, jnp.int32(0), jnp.int32(0)]
  return jnp.stack([
    jnp.stack([tpu_programs.kept(call, seed, i, j, 0, (t, s)) for j in range(h)])
    for i in range(b)
  ])  # fmt: skip


@pytest.mark.slow
def test_dropout_of_the_weights():
  q, k, v, mask, _, _, weight = draw(2, 40, 40, 4, 32, 'mask')
  words, rate = jnp.asarray([-12345, 678], jnp.int32), 0.25
  keep = kept(words, rate, 2, 4, 40, 40)

  def plain(q, k, v):
    logits = jnp.einsum('bthk,bshk->bhts', q, k) / 32**0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], logits, -1e30))
    return jnp.einsum('bhts,bshk->bthk', jnp.where(keep, weights / (1 - rate), 0.0), v)

  want, pull = jax.vjp(plain, q, k, v)
  got, our_pull = jax.vjp(jax.jit(lambda *x: ours(*x, mask, None, None, words, rate)), q, k, v)
  check(got, want)
  check(our_pull(weight), pull(weight))


def test_draws_of_dropout_are_even_and_independent():
  keep = np.asarray(kept(jnp.asarray([3, 4], jnp.int32), 0.1, 4, 4, 128, 256), np.float64)
  n = keep.size
  assert abs(keep.mean() - 0.9) < 4 * (0.09 / n) ** 0.5
  # Also along every axis, and between neighbours along it.
  for axis in range(4):
    others = tuple(i for i in range(4) if i != axis)
    count = n / keep.shape[axis]
    assert np.abs(keep.mean(others) - 0.9).max() < 4.5 * (0.09 / count) ** 0.5
    both = (keep * np.roll(keep, 1, axis)).mean()
    assert abs(both - 0.81) < 4 * (0.81 * 0.19 / n) ** 0.5
  other = np.asarray(kept(jnp.asarray([4, 4], jnp.int32), 0.1, 4, 4, 128, 256))
  assert abs((keep * other).mean() - 0.81) < 4 * (0.81 * 0.19 / n) ** 0.5


@pytest.mark.parametrize(
  'mesh',
  [pytest.param(dict(data=8), marks=pytest.mark.slow), dict(data=2, fsdp=2, tensor=2)],
  ids=str,
)
def test_a_mesh_changes_nothing(mesh):
  q, k, v, _, gate, table, weight = draw(8, 24, 24, 4, 64, 'table gate')
  mask = jnp.arange(24) < jnp.arange(17, 25)[:, None]
  words = jnp.asarray([5, 6], jnp.int32)

  @jax.jit
  def both(q, k, v, gate, table):
    y, pull = jax.vjp(lambda *x: ours(*x[:3], mask, *x[3:], words, 0.1), q, k, v, gate, table)
    return y, pull(weight)

  alone = both(q, k, v, gate, table)
  with jax.set_mesh(sharding.make_mesh(mesh)):
    rows = [jax.device_put(x, jax.P(('data', 'fsdp'))) for x in (q, k, v, gate)]
    assert 'shard_map' in str(jax.make_jaxpr(both)(*rows, table))
    check(both(*rows, table), alone)


@pytest.fixture
def on_a_tpu(monkeypatch):
  """Attention as it is traced for one TPU, run by the interpreter."""
  monkeypatch.setattr(tpu_attention.meshes, 'device_kind', lambda: 'TPU v5 lite')
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  interpreted = functools.partial(tpu_attention.attention, interpret=True)
  monkeypatch.setattr(tpu_attention, 'attention', interpreted)


@pytest.mark.slow
def test_layers_use_it_with_mask_bias_and_dropout(on_a_tpu, monkeypatch):
  q, k, v, mask, gate, table, _ = draw(2, 40, 40, 4, 32, 'mask table gate')
  half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
  drop = Drop(jax.random.key(3), 0.25)
  monkeypatch.setattr(tpu_attention, 'MIN_PAIRS', 1600)
  got = attend(*half, mask, bias=Bias(gate, table), drop=drop)
  words = jax.random.bits(drop.key, (2,), jnp.uint32).astype(jnp.int32)
  want = ours(*half, mask, gate, table, words, 0.25)
  np.testing.assert_array_equal(got, want)
  # Shorter sequences, and other implementations, are XLA's.
  monkeypatch.setattr(tpu_attention, 'MIN_PAIRS', 1601)
  assert np.any(attend(*half, mask, bias=Bias(gate, table), drop=drop) != want)
  monkeypatch.setattr(tpu_attention, 'MIN_PAIRS', 1600)
  assert np.any(attend(*half, mask, 'xla', bias=Bias(gate, table), drop=drop) != want)


def test_its_flops_are_those_of_the_plain_form(on_a_tpu):
  x = jax.ShapeDtypeStruct((2, 256, 4, 64), jnp.bfloat16)

  def gradients(*x, how=None):
    return jax.grad(lambda *x: attend(*x, implementation=how).astype(jnp.float32).sum(), (0, 1, 2))(
      *x
    )

  ours = jax.make_jaxpr(gradients)(x, x, x)
  assert 'pallas_call' in str(ours)
  plain = jax.make_jaxpr(functools.partial(gradients, how='xla'))(x, x, x)
  assert flops.count(ours) == flops.count(plain) == 7 * 2 * 2 * 4 * 256 * 256 * 64


def test_suits(monkeypatch):
  def q(t=512, heads=4, size=64, dtype=jnp.bfloat16):
    return jnp.zeros((1, t, heads, size), dtype)

  def suits(x, mask=None):
    return tpu_attention.suits(x, x, mask)

  assert not suits(q())  # this is a CPU
  monkeypatch.setattr(tpu_attention.meshes, 'device_kind', lambda: 'TPU v5 lite')
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  assert suits(q()) and suits(q(), jnp.ones((1, 512), bool))
  assert suits(q(heads=16, size=80))  # HuBERT X-Large
  assert not suits(q(t=103))
  assert not suits(q(dtype=jnp.float32))
  assert not suits(q(heads=3))
  assert not suits(q(), jnp.ones((1, 1, 512, 512), bool))
  monkeypatch.setattr(tpu_attention.meshes, 'device_kind', lambda: 'TPU v4')
  assert not suits(q())

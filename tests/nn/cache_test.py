"""Caches as arrays: what is written where, what is refused, and rows that change places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import InputError
from research.nn import cache as caches
from research.nn import layers
from research.nn.multihead import MultiHeadAttention, UseBias
from research.nn.positions import Rotary
from tests.nn.decoder import Decoder


def tokens(*numbers):
  """Keys [2, t, 1, 1] that are their own numbers; the second row's are 100 more."""
  x = jnp.asarray([numbers, [100 + n for n in numbers]], jnp.float32)
  return x[:, :, None, None]


def write(cache, *numbers, mask=None):
  mask = None if mask is None else jnp.asarray(mask, bool)
  return caches.append(cache, tokens(*numbers), -tokens(*numbers), mask)


def keys(cache):
  return np.asarray(cache.keys)[:, 0, :, 0].tolist()


def test_aligned_rows_keep_padding_in_slots_of_its_own():
  cache, _ = write(caches.create(2, 5, 1, 1), 1, 2, 3, mask=[[0, 1, 1], [1, 1, 1]])
  cache, seen = write(cache, 4)
  assert keys(cache) == [[1, 2, 3, 4, 0], [101, 102, 103, 104, 0]]
  assert cache.positions.tolist() == [[-1, 0, 1, 2, -1], [0, 1, 2, 3, -1]]
  assert cache.length.tolist() == [3, 4] and int(cache.slots) == 4
  np.testing.assert_array_equal(seen.keys[:, :, 0, 0], keys(cache))
  np.testing.assert_array_equal(seen.values, -seen.keys)


@pytest.mark.parametrize('side', ['left', 'right'])
def test_rows_of_their_own_keep_no_padding(side):
  numbers = (9, 1, 2) if side == 'left' else (1, 2, 9)
  short = [0, 1, 1] if side == 'left' else [1, 1, 0]
  cache = caches.create(2, 5, 1, 1, aligned=False)
  cache, _ = write(cache, *numbers, mask=[short, [1, 1, 1]])
  cache, _ = write(cache, 4)
  row = [100 + n for n in numbers]
  assert keys(cache) == [[1, 2, 4, 0, 0], [*row, 104, 0]]
  assert cache.positions.tolist() == [[0, 1, 2, -1, -1], [0, 1, 2, 3, -1]]
  assert cache.length.tolist() == [3, 4] and cache.slots is None


@pytest.mark.parametrize('aligned', [True, False])
def test_a_ring_keeps_the_last_tokens(aligned):
  cache = caches.create(2, 3, 1, 1, aligned=aligned, ring=True)
  cache, seen = write(cache, *range(1, 8))
  assert sorted(keys(cache)[0]) == [5, 6, 7]
  assert seen.keys.shape[1] == 10  # the first queries see tokens that were written over
  cache, seen = write(cache, 8)
  assert sorted(keys(cache)[0]) == [6, 7, 8] and sorted(cache.positions[1].tolist()) == [5, 6, 7]
  assert seen.keys.shape[1] == 3
  by_position = dict(zip(cache.positions[0].tolist(), keys(cache)[0]))
  assert by_position == {5: 6, 6: 7, 7: 8}


def test_a_full_cache_is_refused_where_it_is_known():
  cache, _ = write(caches.create(2, 3, 1, 1), 1, 2)
  with pytest.raises(InputError, match='cache of 3 slots, 2 of them in use, cannot take 2 more'):
    write(cache, 3, 4)
  with pytest.raises(InputError, match=r'3 slots.*cannot take 4 more'):
    jax.jit(lambda cache: write(cache, 1, 2, 3, 4))(cache)
  step = jax.jit(lambda cache: write(cache, 1)[0])
  cache = step(cache)
  caches.check_room(cache)
  with pytest.raises(InputError, match='3 slots, 4 of them'):
    caches.check_room(step(cache))
  own = caches.create(2, 3, 1, 1, aligned=False)
  own, _ = write(own, 1, 2, 3, 4, mask=[[1, 1, 0, 0], [0, 0, 0, 1]])  # padding takes no slots
  with pytest.raises(InputError, match='3 slots, 2 of them in use, cannot take 2'):
    write(own, 3, 4)
  with pytest.raises(InputError, match='max_length=0'):
    caches.create(2, 0, 1, 1)


def test_shapes_alone():
  made = jax.eval_shape(lambda: caches.create_layers(3, True, 2, 5, 4, 8, 'bfloat16'))
  assert made.keys.shape == (3, 2, 4, 5, 8) and made.keys.dtype == jnp.bfloat16
  assert made.positions.shape == (3, 2, 5) and made.slots.shape == (3,) and made.max_length == 5
  row = caches.create_layers(3, False, 2, 5, 4, 8, aligned=False)
  assert len(row) == 3 and row[0].slots is None
  assert len({x.keys.unsafe_buffer_pointer() for x in row}) == 3  # each is donated by itself


@pytest.mark.parametrize('scan', [True, False])
def test_rows_change_places_in_every_part_of_a_state(scan):
  made = caches.create_layers(2, scan, 2, 3, 1, 1)
  memory = caches.Memory(tokens(1).swapaxes(1, 2), tokens(2).swapaxes(1, 2))
  if not scan:
    made = tuple(write(cache, 1)[0] for cache in made)
  state = {'cache': made, 'memory': memory, 'convolution': jnp.asarray([[1.0], [2.0]])}
  after = caches.reorder(state, jnp.asarray([1, 1, 0]))
  assert after['convolution'].tolist() == [[2], [2], [1]]
  assert after['memory'].keys[:, 0, 0, 0].tolist() == [101, 101, 1]
  first = after['cache'] if scan else after['cache'][0]
  assert first.keys.shape == ((2, 3, 1, 3, 1) if scan else (3, 1, 3, 1))
  if not scan:
    assert keys(first) == [[101, 0, 0], [101, 0, 0], [1, 0, 0]] and int(first.slots) == 1


def test_a_donated_cache_is_written_in_place():
  cache = caches.create(1, 64, 2, 8)
  where = cache.keys.unsafe_buffer_pointer()
  x = jnp.ones((1, 1, 2, 8))
  step = jax.jit(lambda cache, x: caches.append(cache, x, x)[0], donate_argnums=0)
  for _ in range(3):
    cache = step(cache, x)
  assert cache.keys.unsafe_buffer_pointer() == where and int(cache.slots) == 3


# -- The layer ---------------------------------------------------------------------------------


def test_parameters_of_the_layer():
  x = jnp.ones((1, 3, 24))
  layer = MultiHeadAttention(24, 4, kv_heads=2, head_dim=5, use_bias=UseBias(key=False, out=False))
  shapes = jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x)['params'])
  assert shapes == {
    'query': {'kernel': (24, 4, 5), 'bias': (4, 5)},
    'key': {'kernel': (24, 2, 5)},
    'value': {'kernel': (24, 2, 5), 'bias': (2, 5)},
    'out': {'kernel': (4, 5, 24)},
  }


@pytest.mark.slow
def test_the_layer_is_that_of_encoders_where_it_does_the_same():
  x = jax.random.normal(jax.random.key(0), (2, 5, 16))
  mask = jnp.arange(5) < jnp.asarray([[5], [3]])
  fused = layers.Attention(4)
  variables = fused.init(jax.random.key(1), x)
  kernel, bias = (variables['params']['qkv'][k] for k in ('kernel', 'bias'))
  params = {
    name: {'kernel': kernel[:, i], 'bias': bias[i]}
    for i, name in enumerate(('query', 'key', 'value'))
  } | {'out': variables['params']['proj']}
  got, none = MultiHeadAttention(16, 4).apply({'params': params}, x, mask)
  assert none is None
  np.testing.assert_allclose(got, fused.apply(variables, x, mask), atol=1e-6)


@pytest.mark.slow
def test_dropout_of_weights_acts_in_training_alone():
  x = jax.random.normal(jax.random.key(0), (1, 64, 8))
  layer = MultiHeadAttention(8, 2, causal=True, dropout=0.5)
  variables = layer.init(jax.random.key(1), x)
  off, _ = layer.apply(variables, x)
  draws = [
    layer.apply(variables, x, train=True, rngs={'dropout': jax.random.key(i)})[0] for i in range(64)
  ]
  assert np.any(draws[0] != draws[1])
  np.testing.assert_allclose(np.mean(draws, axis=0)[:, 32:], off[:, 32:], atol=0.1)


def test_what_the_layer_refuses():
  x = jnp.ones((1, 3, 8))
  with pytest.raises(InputError, match='width of 10 does not divide into 4'):
    MultiHeadAttention(10, 4)
  with pytest.raises(InputError, match='4 query heads cannot share 3'):
    MultiHeadAttention(8, 4, kv_heads=3)
  memory = caches.Memory(jnp.ones((1, 2, 3, 4)), jnp.ones((1, 2, 3, 4)))
  for args in (dict(causal=True), dict(rotary=Rotary())):
    layer = MultiHeadAttention(8, 2, **args)
    variables = layer.init(jax.random.key(0), x)
    with pytest.raises(InputError, match='another sequence'):
      layer.apply(variables, x, memory=memory)
  for window in (None, 5):
    layer = MultiHeadAttention(8, 2, causal=True, window=window)
    variables = layer.init(jax.random.key(0), x)
    with pytest.raises(InputError, match=f'ring of 4 slots forgets .* window of {window}'):
      layer.apply(variables, x, cache=caches.create(1, 4, 2, 4, ring=True))


@pytest.mark.slow
def test_gradients_of_a_decoder_reach_every_parameter():
  model = Decoder(kv_heads=2, cross=True, positions='learned', dropout=0.1)
  ids = jnp.asarray(np.random.default_rng(0).integers(0, 23, (2, 9)), jnp.int32)
  real = jnp.arange(9) < jnp.asarray([[9], [6]])
  context = jax.random.normal(jax.random.key(0), (2, 5, 32))
  variables = jax.jit(model.init)(jax.random.key(1), ids, real, context=context)

  def loss(params, train):
    rngs = {'dropout': jax.random.key(2)}
    logits, _ = model.apply({'params': params}, ids, real, context=context, train=train, rngs=rngs)
    losses = -jax.nn.log_softmax(logits[:, :-1])[jnp.arange(2)[:, None], jnp.arange(8), ids[:, 1:]]
    return (losses * real[:, 1:].astype(jnp.float32)).sum()

  for train in (False, True):
    gradients = jax.jit(jax.grad(loss), static_argnums=1)(variables['params'], train)
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
      assert np.isfinite(g).all() and np.any(g), jax.tree_util.keystr(path)

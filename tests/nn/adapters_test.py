"""Low-rank adapters: fresh ones change nothing, only they learn, loaded weights contain them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import weights
from research.errors import InputError
from research.nn import adapters
from research.train.config import complete
from research.train.loop import train
from tests.experiments_test import ROOT, load


def kernels(key=0):
  keys = jax.random.split(jax.random.key(key), 4)
  return {
    'encoder': {
      'blocks_0': {
        'attn': {
          'qkv': {'kernel': jax.random.normal(keys[0], (8, 3, 2, 4)), 'bias': jnp.zeros((3, 2, 4))},
          'proj': {'kernel': jax.random.normal(keys[1], (2, 4, 8))},
        },
        'norm': {'scale': jnp.ones(8)},
      }
    },
    'decoder': {'blocks': {'fc1': {'kernel': jax.random.normal(keys[2], (5, 8, 32))}}},
    'head': {'kernel': jax.random.normal(keys[3], (8, 3))},
  }


def test_kernels_of_every_shape_are_matrices():
  assert adapters.matrix((8, 3, 2, 4)) == (8, 24)  # to queries, keys and values
  assert adapters.matrix((2, 4, 8)) == (8, 8)  # from heads
  assert adapters.matrix((8, 32)) == (8, 32)


def test_fresh_adapters_change_nothing_and_trained_ones_are_added():
  params = kernels()
  added = adapters.add(params, jax.random.key(1), rank=2, alpha=6.0, targets='kernel$')
  before = adapters.effective(added)
  assert jax.tree.structure(before) == jax.tree.structure(params)
  assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, params))
  layers = added['decoder']['blocks']['fc1']
  assert layers['lora_a'].shape == (5, 8, 2) and layers['lora_scale'].shape == (5,)
  layers['lora_b'] = jax.random.normal(jax.random.key(2), (5, 2, 32))
  after = adapters.effective(added)['decoder']['blocks']['fc1']['kernel']
  for layer in range(5):
    change = 3.0 * layers['lora_a'][layer] @ layers['lora_b'][layer]
    want = params['decoder']['blocks']['fc1']['kernel'][layer] + change
    np.testing.assert_allclose(after[layer], want, atol=1e-5)


def test_parameters_without_adapters_are_the_same_object():
  params = kernels()
  assert adapters.effective(params) is params


def test_targets_choose_and_what_matches_nothing_is_said():
  added = adapters.add(kernels(), jax.random.key(0), targets=r'attn/(qkv|query|value)/kernel$')
  assert 'lora_a' in added['encoder']['blocks_0']['attn']['qkv']
  assert 'lora_a' not in added['encoder']['blocks_0']['attn']['proj'] | added['head']
  with pytest.raises(InputError, match=r"targets='nothing' matches no kernel: .*attn/qkv/kernel"):
    adapters.add(kernels(), jax.random.key(0), targets='nothing')
  with pytest.raises(InputError, match='rank=0'):
    adapters.add(kernels(), jax.random.key(0), rank=0, targets='.')
  assert adapters.trained('encoder/attn/qkv/lora_b') and not adapters.trained('head/kernel')
  assert adapters.trained('head/kernel', '^head/')


def config(lr):
  made = load(ROOT / 'experiments/audio_mae/builtin_tiny.py').get_config('debug')
  made.adapters = dict(rank=2, trained='^encoder/norm/')
  made.optim.update(lr=lr, weight_decay=0.1)
  return complete(made.to_dict())


@pytest.mark.slow
def test_only_adapters_learn_and_the_run_opens_as_the_plain_model(tmp_path):
  result = train(config(lr=1e-2), tmp_path / 'run')
  flat = weights.tables.flatten({'params': result.state.params})
  start = train(config(lr=0.0), tmp_path / 'still').state
  begun = weights.tables.flatten({'params': start.params})
  moved = {k for k in flat if not np.array_equal(flat[k], begun[k])}
  assert moved and all(k.endswith(('lora_a', 'lora_b')) or 'encoder/norm/' in k for k in moved)
  assert {k for k in moved if 'encoder/norm/' in k}
  loaded = weights.load(tmp_path / 'run')
  want = weights.tables.flatten(dict(result.state.weights()))
  have = weights.tables.flatten(dict(loaded.variables))
  assert not [k for k in have if 'lora' in k]
  for name, x in have.items():
    np.testing.assert_allclose(x, want[name], atol=1e-6)

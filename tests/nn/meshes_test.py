"""With parameters split over `fsdp`, weights move between devices and activations do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.nn.kernels.convolutions import grouped_conv1d
from research.train import sharding
from research.train.config import complete
from research.train.planning import hlo, program
from tests import experiments_test
from tests.train.planning import subject


def hubert(mesh):
  """HuBERT large's recipe with three small scanned layers and batches of 2 s."""
  file = experiments_test.ROOT / 'experiments/hubert/librilight_large.py'
  config = experiments_test.load(file).get_config().to_dict()
  config['model']['args'].update(width=128, depth=3, heads=4, hidden=512, final_dim=32, channels=64)
  config['data'].update(seconds=2.0, buckets=None, batch_seconds=None, batch_multiple=1)
  config['data']['batch_size'] = 32
  return complete({**config, 'mesh': mesh})


def audio_mae(mesh):
  return subject.config(mesh=mesh, model=dict(remat=True))


@pytest.mark.slow
@pytest.mark.parametrize('make', [hubert, audio_mae])
def test_activations_stay(make, monkeypatch):
  # As on chips: CPUs have products of their own.
  monkeypatch.setattr(jax.lax, 'platform_dependent', lambda *a, default, **branches: default(*a))
  made = program.Program(make(dict(data=2, fsdp=4)))
  compiled = made.lower(made.batches[0], sharding.make_mesh(dict(data=2, fsdp=4))).compile()
  found = hlo.Module(compiled.as_text()).collectives()
  # Gradients and metrics are added up; nothing changes from one way of being split to another.
  assert found['all-reduce'].bytes < 1.5 * 4 * made.params
  assert 'all-to-all' not in found or found['all-to-all'].bytes < 1e4


def test_gradients_of_a_grouped_convolution_are_added_up_once():
  """Its loop over taps adds up nothing over devices."""
  x = jax.random.normal(jax.random.key(0), (8, 40, 16))
  kernel = jax.random.normal(jax.random.key(1), (32, 4, 16))

  def gradient(x, kernel):
    return jax.grad(lambda k: jnp.square(grouped_conv1d(x, k, 4, (16, 15))).sum())(kernel)

  alone = jax.jit(gradient)(x, kernel)
  with jax.set_mesh(sharding.make_mesh(dict(data=4, fsdp=2))):
    rows = jax.device_put(x, jax.P(('data', 'fsdp')))
    compiled = jax.jit(gradient).lower(rows, kernel).compile()
    np.testing.assert_allclose(compiled(rows, kernel), alone, rtol=1e-5, atol=1e-3)
  found = hlo.Module(compiled.as_text()).collectives()
  assert found['all-reduce'].count == 1

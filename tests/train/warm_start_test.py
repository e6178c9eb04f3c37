"""Starting a run from weights that exist."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research import models
from research.errors import InputError
from research.train.state import init_state
from research.train.warm_start import warm_start
from tests.evals import toy

SPEC = dict(exclude=None, statistics='same')


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  return toy.save_audio_mae(tmp_path_factory.mktemp('model'))


def fresh(**changes):
  args = dict(size='tiny', width=32, depth=2, heads=2, frames=96, padding='masked', classes=3)
  model = models.get('audio_mae_classifier')(**{**args, **changes})
  batch = dict(audio=jnp.zeros((1, 16000)), audio_mask=jnp.ones((1, 16000), bool))
  return model, init_state(model, optax.sgd(0.1), batch, 0, False)


def start(path, include='^(params/)?encoder/', **changes):
  model, state = fresh(**changes)
  spec = dict(SPEC, path=str(path), include=include)
  return warm_start(state, spec, model.frontend)


@pytest.mark.parametrize('scan', [False, True])
def test_blocks_one_by_one_fit_stacked_ones(path, scan):
  from research import weights

  theirs = weights.load(path).variables['params']['encoder']
  ours = start(path, scan_layers=scan).params
  for i in range(2):
    mine = (
      jax.tree.map(lambda a, i=i: a[i], ours['encoder']['blocks'])
      if scan
      else ours['encoder'][f'blocks_{i}']
    )
    for a, b in zip(*map(jax.tree.leaves, (mine, theirs[f'blocks_{i}'])), strict=True):
      np.testing.assert_array_equal(a, b)
  # The head is not in the weights: it stays as it was drawn.
  _, state = fresh(scan_layers=scan)
  for a, b in zip(*map(jax.tree.leaves, (ours['head'], state.params['head'])), strict=True):
    np.testing.assert_array_equal(a, b)


def test_another_size_is_refused(path):
  with pytest.raises(InputError, match=r'of shape .* this model'):
    start(path, width=64)


def test_another_front_end_is_refused(path):
  with pytest.raises(InputError, match=r'mean is -4.2.* there and 0.0 here'):
    start(path, frontend=dict(name='kaldi_fbank', mean=0.0))


def test_weights_of_something_else_are_refused(path):
  with pytest.raises(InputError, match='Nothing in'):
    start(path, include='^quantizer/')

"""A BYOL-A that was pre-trained here, as the official encoder and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.convert import parse_args
from research.errors import InputError
from research.features import views
from research.models.byol_a import ByolA
from research.weights import conversion
from tests.models.byol_a_test import SMALL, clips, started


@pytest.mark.slow
def test_a_pretrained_model_becomes_the_official_encoder():
  """What comes back embeds as the model does, once the statistics it printed are given to it."""
  batch = clips(4)
  state, step = started(batch)
  for _ in range(2):
    state, _ = step(state, batch)
  model, variables = ByolA(**SMALL), {'params': state.params, **state.variables}
  arrays, files, left = conversion.revert_files('byol_a', model, variables)
  assert not files
  assert {key.partition('.')[0] for key in arrays} == {'features', 'fc'}
  assert left.startswith('the heads of pre-training; the statistics of the input (mean ')

  kept = variables['memory']['statistics']
  mean, std = float(kept['mean']), max(float(kept['square']) ** 0.5, views.EPS)
  assert f'mean {mean:.7g}, std {std:.7g}' in left
  there, again = conversion.convert(
    'byol_a', arrays, frontend=dict(mean=mean, std=std), size='v1_d512'
  )
  wanted = model.apply(variables, **batch, method='embed')[0]
  found = there.apply(jax.tree.map(jnp.asarray, again), **batch, method='embed')[0]
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  assert np.abs(wanted).max() > 0.1

  back, _, left = conversion.revert_files('byol_a', there, again)
  assert left.startswith('the statistics of the input')
  for key, array in arrays.items():
    np.testing.assert_array_equal(back[key], array)


def test_another_model_has_no_such_layout():
  with pytest.raises(InputError, match='Toy is not BYOL-A'):
    from tests.evals.toy import Toy

    conversion.revert_files('byol_a', Toy(), {})


def test_arguments_that_look_like_json_have_to_be_json():
  assert parse_args(['heads=4', 'decoder=global']) == {'heads': 4, 'decoder': 'global'}
  with pytest.raises(InputError, match='the value is not valid JSON'):
    parse_args(['frontend={mean'])


def test_a_guessed_stack_is_said(recwarn):
  from tests.weights.toy import filled

  model = ByolA(**{**SMALL, 'size': 'v2', 'projection': 0}, norm='frontend', stack=True)
  arrays, _, _ = conversion.revert_files('byol_a', model, filled(model))
  given = dict(frontend=dict(mean=-9.0, std=4.0))
  with pytest.warns(UserWarning, match='stack=True is assumed'):
    found, _ = conversion.convert('byol_a', arrays, **given)
  assert found.stack
  recwarn.clear()
  found, _ = conversion.convert('byol_a', arrays, stack=False, **given)
  assert not found.stack and not recwarn.list

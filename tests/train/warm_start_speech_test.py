"""Speech encoders from pretrained weights: mismatched settings are refused."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research import models, weights
from research.errors import InputError
from research.train.state import init_state
from research.train.warm_start import warm_start
from tests.models.toy import make
from tests.weights.toy import filled
from tests.weights.wav2vec2_toy import SIZES

SPEC = dict(include='.*', exclude=None, statistics='same')


def start(tmp_path, theirs, ours, name='wavlm', **spec):
  """A CTC model (arguments `ours`) from a pre-training model (arguments `theirs`)."""
  own = dict(buckets=8, max_distance=20, final_dim=12) if name == 'wavlm' else {}
  made = models.get(name)(**{**SIZES, **own, **theirs})
  path = tmp_path / 'model'
  weights.save(weights.Pretrained(name, made, filled(made), 'a test'), path)
  own.pop('final_dim', None)
  model = make(f'{name}+ctc', **{**SIZES, **own, **ours})
  batch = dict(audio=jnp.zeros((1, 900)), audio_mask=jnp.ones((1, 900), bool))
  state = jax.jit(lambda: init_state(model, optax.sgd(0.1), batch, 0, False))()
  spec = {**SPEC, 'path': str(path), **spec}
  return warm_start(state, spec, model), weights.load(path)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['wavlm', 'hubert'])
def test_the_encoder_is_copied_and_missing_heads_are_accepted(tmp_path, name):
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    state, theirs = start(tmp_path, {}, {}, name)
  for part in ('encoder', 'feature_extractor', 'project', 'feature_norm'):
    pair = state.params[part], theirs.variables['params'][part]
    for a, b in zip(*map(jax.tree.leaves, pair), strict=True):
      np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
  'theirs, ours, says',
  [
    (dict(pre_norm=True), {}, 'pre_norm=True, but params/encoder of this model has pre_norm=False'),
    (dict(norm='layer'), {},
     "norm='layer', but params/feature_extractor of this model has norm='group'"),
    (dict(conv_bias=True), {},
     'conv_bias=True, but params/feature_extractor .* has conv_bias=False'),
    ({}, dict(conv_bias=True),
     'conv_bias=False, but params/feature_extractor .* has conv_bias=True'),
    (dict(heads=4), {},
     'heads=4, but params/encoder of this model has heads=2.*args.encoder.args.heads=4'),
    (dict(max_distance=30), {}, 'max_distance=30, but params/encoder .* max_distance=20'),
    (dict(buckets=0), {}, 'buckets=0, but params/encoder of this model has buckets=8'),
    ({}, dict(buckets=0), 'buckets=8, but params/encoder of this model has buckets=0'),
    (dict(buckets=16), {}, 'buckets=16, but params/encoder of this model has buckets=8'),
    (dict(frontend={'normalise': True}), {},
     r'is True there and False here\): give .*\.args\.encoder\.args\.frontend\.normalise=True'),
    (dict(frontend={'normalise': True, 'epsilon': 1e-7}), dict(frontend={'normalise': True}),
     r'give --config\.model\.args\.encoder\.args\.frontend\.epsilon=1e-07, in a new --workdir\.'),
  ],
  ids=str,
)  # fmt: skip
def test_mismatched_settings_are_refused(tmp_path, theirs, ours, says):
  with pytest.raises(InputError, match=says):
    start(tmp_path, theirs, ours)


@pytest.mark.slow
def test_an_excluded_part_may_differ(tmp_path):
  changed = dict(theirs=dict(pre_norm=True, heads=4), ours={})
  state, theirs = start(tmp_path, **changed, exclude='^params/encoder/')
  np.testing.assert_array_equal(
    state.params['feature_extractor']['conv_0']['kernel'],
    theirs.variables['params']['feature_extractor']['conv_0']['kernel'],
  )


@pytest.mark.slow
def test_unused_layers_are_named(tmp_path):
  with pytest.warns(UserWarning, match=r'no place for: params/encoder/blocks_1/.*in all\)'):
    start(tmp_path, {}, dict(depth=1))

"""Warm start from pretrained weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research import models, weights
from research.errors import InputError
from research.train.state import init_state
from research.train.warm_start import warm_start
from tests.evals import toy
from tests.models.toy import make

SPEC = dict(exclude=None, statistics='same')


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  return toy.save_audio_mae(tmp_path_factory.mktemp('model'))


def fresh(**changes):
  args = dict(size='tiny', width=32, depth=2, heads=2, frames=96, padding='masked', classes=3)
  model = make('audio_mae+classifier', **{**args, **changes})
  batch = dict(audio=jnp.zeros((1, 16000)), audio_mask=jnp.ones((1, 16000), bool))
  return model, init_state(model, optax.sgd(0.1), batch, 0, False)


def start(path, include='^(params/)?encoder/', **changes):
  model, state = fresh(**changes)
  spec = dict(SPEC, path=str(path), include=include)
  return warm_start(state, spec, model)


@pytest.mark.slow
@pytest.mark.parametrize('scan', [False, True])
def test_unrolled_blocks_initialise_scanned_ones(path, scan):
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
  # The head is not in the weights and keeps its initialisation.
  _, state = fresh(scan_layers=scan)
  for a, b in zip(*map(jax.tree.leaves, (ours['head'], state.params['head'])), strict=True):
    np.testing.assert_array_equal(a, b)


TOKENIZER = dict(size='tiny', channels=16, kernels=(2,), codebook_size=12, vq_type='gumbel')


def save_tokenizer(folder, **args):
  model = models.get('wav2vec')(**{**TOKENIZER, **args})
  batch = dict(audio=jnp.zeros((1, 4000)), audio_mask=jnp.ones((1, 4000), bool))
  variables = jax.jit(model.init)(jax.random.key(5), batch)
  weights.save(weights.Pretrained('wav2vec', model, variables, 'a test'), folder)
  return variables


@pytest.fixture(scope='module')
def bert():
  args = dict(size='tiny', width=16, depth=1, heads=2, hidden=16, tokenizer=TOKENIZER)
  model = models.get('code_bert')(**args)
  batch = dict(audio=jnp.zeros((1, 4000)), audio_mask=jnp.ones((1, 4000), bool))
  return model, jax.jit(lambda: init_state(model, optax.sgd(0.1), batch, 0, False))()


def start_bert(bert, path):
  model, state = bert
  spec = dict(SPEC, path=str(path), include='.*', under='frozen/vq_wav2vec')
  return warm_start(state, spec, model)


@pytest.mark.slow
def test_weights_fill_the_given_subtree(bert, tmp_path):
  theirs = save_tokenizer(tmp_path)['params']
  state = start_bert(bert, tmp_path)
  got = state.variables['frozen']['vq_wav2vec']['params']
  assert set(got) == {'feature_extractor', 'quantizer'}
  for name, tree in got.items():
    for a, b in zip(*map(jax.tree.leaves, (tree, theirs[name])), strict=True):
      np.testing.assert_array_equal(a, b)
  for a, b in zip(*map(jax.tree.leaves, (state.params, bert[1].params)), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (dict(activation='gelu'), "activation='gelu', but frozen/vq_wav2vec .* activation='relu'"),
    (dict(vq_type='kmeans'), "vq_type='kmeans', but"),
    (dict(codebook_size=13), r'of shape .* this model'),
    (dict(encoder_layers=5), 'lacks frozen/vq_wav2vec/params/feature_extractor/conv_5/kernel'),
  ],
  ids=str,
)
def test_other_codes_are_refused(bert, tmp_path, args, words):
  save_tokenizer(tmp_path, **args)
  with pytest.raises(InputError, match=words):
    start_bert(bert, tmp_path)


@pytest.mark.slow
def test_another_size_is_refused(path):
  with pytest.raises(InputError, match=r'of shape .* this model'):
    start(path, width=64)


@pytest.mark.slow
def test_another_front_end_is_refused(path):
  with pytest.raises(InputError, match=r'mean is -4.2.* there and 0.0 here'):
    start(path, frontend=dict(name='kaldi_fbank', mean=0.0))


def test_weights_without_a_match_are_refused(path):
  with pytest.raises(InputError, match='Nothing in'):
    start(path, include='^quantizer/')

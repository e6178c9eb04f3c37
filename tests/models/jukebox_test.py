"""Jukebox's models: published numbers of parameters, hops, windows, steps behind caches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.errors import InputError
from research.models.jukebox_attention import Window, attn_functions
from research.models.jukebox_sizes import SIZES
from research.train.state import count
from tests import contract
from tests.contract import Stepper, jit

# openai/jukebox, counted from its hparams.
PARAMETERS = {
  'prior_5b': 5_060_452_800,
  'prior_5b_lyrics': 5_640_506_800,
  'prior_1b_lyrics': 942_643_200,
  'upsampler_level_1': 981_298_176,
  'upsampler_level_0': 981_298_176,
}
TINY = dict(
  size='tiny',
  vqvae=dict(size='tiny', downs_t=(1, 1), width=4, depth=1, emb_width=4, l_bins=16),
  n_ctx=24,
  prior_width=16,
  prior_depth=4,
  attn_order=9,
  heads=2,
  blocks=4,
)


def shapes(model, batch=None):
  return jax.eval_shape(model.init, jax.random.key(0), batch or model.example())


@pytest.mark.slow
@pytest.mark.parametrize('size', PARAMETERS)
def test_published_numbers_of_parameters(size):
  model = models.get('jukebox')(size=size)
  example = {'codes': np.zeros((1, 8), np.int32)}
  if model.upsamples:
    example['codes_above'] = np.zeros((1, 2), np.int32)
  example['labels'] = np.zeros((1, model.label_width), np.int32)
  example['labels'][:, 0] = int(model.limits[0])
  assert count(shapes(model, jax.tree.map(jnp.asarray, example))['params']) == PARAMETERS[size]


def test_hops_and_windows():
  vqvae = models.get('jukebox_vqvae')
  assert vqvae().hops == (8, 32, 128) and vqvae(size='small').hops == (32, 256)
  assert count(shapes(vqvae())['params']) == 1_485_763
  windows = {'prior_5b': 1_048_576, 'prior_1b_lyrics': 786_432, 'upsampler_level_1': 262_144}
  for size, samples in {**windows, 'upsampler_level_0': 65_536}.items():
    assert models.get('jukebox')(size=size).sample_length == samples
  five = attn_functions(10, SIZES['prior_5b_lyrics'].prior_depth)
  assert [i for i, f in enumerate(five) if f == 6] == [18, 28, 38, 48, 58, 68, 78]
  one = attn_functions(12, SIZES['prior_1b_lyrics'].prior_depth)
  assert {i: one[i] for i in (15, 31, 47, 63)} == {15: 7, 31: 7, 47: 0, 63: 7}
  assert Window(6528, 64, 384).primed == 448


def test_settings_that_do_not_fit_are_refused():
  prior = models.get('jukebox')
  with pytest.raises(InputError, match='lyrics are of the top level'):
    prior(**TINY, n_tokens=4)
  with pytest.raises(InputError, match='give it labels=True and n_tokens'):
    prior(**TINY, single_enc_dec=True)
  with pytest.raises(InputError, match=r'has levels 0 to 1, not 2'):
    prior(**{**TINY, 'level': 2})
  with pytest.raises(InputError, match='blocks=5: give a number that divides it'):
    shapes(prior(**{**TINY, 'blocks': 5}))
  with pytest.raises(InputError, match='A stride of 3'):
    models.get('jukebox_vqvae')(size='tiny', strides_t=(3, 2))
  with pytest.raises(InputError, match='30 codes were given, and a window'):
    shapes(prior(**TINY), {'codes': jnp.zeros((1, 30), jnp.int32)})


@pytest.mark.slow
def test_steps_behind_caches_are_the_whole():
  """Functions 1, 2, 3 and 0, with rows of 6 positions."""
  model = models.get('jukebox')(**TINY)
  tokens = np.random.default_rng(0).integers(0, 16, (8, 12)).astype(np.int32)
  variables = jit(model.init)(jax.random.key(0), {'codes': jnp.asarray(tokens)})

  def full(variables, tokens, real, inputs):
    # What stands before a code is the code before it, and of the first one what begins a window.
    codes = jnp.concatenate([tokens[:, 1:], tokens[:, :1]], axis=1)
    return model.apply(variables, codes, method='forward')['gen_logits']

  def step(variables, state, tokens, real=None, inputs=None):
    return model.apply(variables, tokens, state, method='step')

  stepper = Stepper(variables, tokens, {}, full, lambda b, dtype: model.start(b, 0), step, step, ())
  contract.check_steps(stepper)


@pytest.mark.slow
def test_windows_of_an_embedding_stand_alone():
  vqvae = dict(size='tiny', downs_t=(1, 1), width=4, depth=1, emb_width=4, l_bins=16)
  model = models.get('jukebox')(
    size='tiny', vqvae=vqvae, n_ctx=16, prior_width=8, prior_depth=2, attn_order=0, heads=1,
    blocks=4, labels=True,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  audio = rng.standard_normal((1, 150)).astype(np.float32)
  mask = np.ones(audio.shape, bool)
  example = {'codes': jnp.zeros((1, 16), jnp.int32), 'labels': jnp.zeros((1, 5), jnp.int32)}
  variables = jax.jit(model.init)(jax.random.key(0), example)
  draw = lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype)  # noqa: E731
  variables = jax.tree.map(draw, variables)
  states, real = model.apply(variables, audio, mask, method='embed')
  # 37 codes of 4 samples: windows of 16, 16 and 5, which know where they are in the song.
  assert states.shape == (3, 1, 37, 8) and real.all()
  codes = model.apply(variables, {'audio': audio, 'audio_mask': mask}, method='_codes')[0]
  for first in (0, 16, 32):
    y = np.array(model.apply(variables, jnp.array([150]), method='unknown'))
    y[:, 1] = first * 4
    out = model.apply(variables, codes[:, first : first + 16], y, method='forward')
    want = np.stack(out['states'])
    np.testing.assert_allclose(states[:, :, first : first + 16], want, atol=1e-5)

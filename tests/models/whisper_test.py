"""Whisper: its table of sizes, its windows, and decoding step by step (contract 7)."""

import functools

import jax
import numpy as np
import pytest

from research.capabilities import Embeds, Encodes, Generates
from research.errors import InputError
from research.models.whisper import SIZES, Whisper
from research.nn import cache as caches
from research.weights import tables
from tests import contract
from tests.models.toy import make

# Of openai/whisper's models, without the encoder's positions, which are no parameter.
PARAMETERS = {
  'tiny.en': 37_184_256,
  'tiny': 37_184_640,
  'base': 71_825_920,
  'small': 240_582_912,
  'medium': 762_321_920,
  'turbo': 806_958_080,
}
SMALL = dict(size='nano', width=32, n_vocab=60, n_audio_ctx=32, n_text_ctx=24)


def test_sizes():
  for name in SIZES:
    model = Whisper(size=name)
    assert isinstance(model, Embeds) and isinstance(model, Encodes) and isinstance(model, Generates)
  assert Whisper(size='large-v3').frontend.num_mel_bins == 128
  assert Whisper(size='turbo').decoder_depth == 4
  assert not Whisper(size='base.en').multilingual
  languages = {name: Whisper(size=name).num_languages for name in ('tiny.en', 'tiny', 'large-v3')}
  assert languages == {'tiny.en': 99, 'tiny': 99, 'large-v3': 100}


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=() if n == 'tiny.en' else pytest.mark.slow) for n in PARAMETERS]
)
def test_parameters(name):
  model = Whisper(size=name)
  shapes = tables.expected_shapes(model)
  params = sum(np.prod(s, dtype=int) for k, s in shapes.items() if k.startswith('params/'))
  assert params == PARAMETERS[name]
  assert shapes['buffers/encoder/positions'] == (1500, model.width)


def test_alignment_heads():
  published = Whisper(size='tiny.en').alignment_heads
  assert published[:3] == ((1, 0), (2, 0), (2, 5)) and len(published) == 8
  # Another decoder: all heads of its upper half.
  other = Whisper(size='tiny.en', decoder_depth=2)
  assert other.alignment_heads == tuple((1, h) for h in range(6))
  with pytest.raises(InputError, match='alignment_heads'):
    Whisper(size='tiny', alignment_heads=((4, 0),))


def test_what_cannot_be():
  for args, match in (
    (dict(size='tinny'), 'tinny'),
    (dict(width=100), 'width=100'),
    (dict(dtype='float16'), 'float16'),
  ):
    with pytest.raises(InputError, match=match):
      Whisper(**args)
  model = Whisper(**SMALL)
  batch = {
    'audio': np.zeros((1, 400), np.float32),
    'audio_mask': np.ones((1, 400), bool),
    'tokens': np.zeros((1, 25), np.int32),
  }
  with pytest.raises(InputError, match='25 tokens a clip'):
    jax.eval_shape(model.init, jax.random.key(0), batch)


@pytest.mark.slow
def test_silence_behind_a_clip_is_heard_like_silence():
  """A clip alone is the clip with zeros up to the window."""
  model = Whisper(**SMALL)
  audio = contract.wave(0, 4000)[None]
  short = model.log_mel(audio, np.ones(audio.shape, bool))
  long = np.pad(audio, ((0, 0), (0, 9000)))
  np.testing.assert_allclose(short, model.log_mel(long, np.ones(long.shape, bool)), atol=1e-6)


@pytest.mark.slow
def test_under_a_head():
  model = make('whisper+classifier', **SMALL, classes=3)
  batch = {'audio': contract.wave(0, 9000)[None], 'audio_mask': np.ones((1, 9000), bool)}
  variables = jax.jit(model.init)(jax.random.key(0), batch)
  assert 'decoder' not in variables['params']
  assert model.apply(variables, batch)['logits'].shape == (1, 3)


# -- Contract 7 --------------------------------------------------------------------------------


@functools.cache
def stepper(scan):
  model = Whisper(**SMALL, scan_layers=scan)
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, model.n_vocab, (8, 12)).astype(np.int32)
  mel = rng.standard_normal((8, model.window_frames, 80)).astype(np.float32)
  batch = {'spectrogram': mel[:1], 'tokens': tokens[:1]}
  variables = jax.jit(model.init)(jax.random.key(0), batch)
  keys = iter(jax.random.split(jax.random.key(1), 200))
  variables = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), variables)
  heard = jax.jit(lambda v, x: model.apply(v, x, method='encode'))(variables, mel)

  def full(variables, tokens, real, inputs):
    def run(module, tokens, heard):
      return module.decoder(tokens, heard, real=real)[0]

    return model.apply(variables, tokens, inputs['heard'], method=run)

  def prefill(variables, state, tokens, real, inputs):
    memories = model.apply(variables, inputs['heard'], method='remember')
    state = caches.State(state.caches, memories)
    return model.apply(variables, tokens, state, real, method='step')

  def step(variables, state, tokens, real):
    return model.apply(variables, tokens, state, real, method='step')

  def start(batch, dtype):
    made = model.start(batch, model.n_text_ctx)
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == np.float32 else x, made)

  inputs = {'heard': np.asarray(heard)}
  return contract.Stepper(variables, tokens, inputs, jax.jit(full), start, prefill, step)


SCAN = pytest.mark.parametrize('scan', [False, True], ids=['unrolled', 'scan'])


@pytest.mark.slow
@SCAN
def test_step_by_step_equals_all_at_once(scan):
  contract.check_steps(stepper(scan))


@pytest.mark.slow
@SCAN
def test_padding_changes_nothing(scan):
  contract.check_padded_steps(stepper(scan))


@pytest.mark.slow
@SCAN
def test_rows_go_on_from_other_rows(scan):
  def reorder(state, rows):
    return caches.State(caches.reorder(state.caches, rows), caches.reorder(state.memories, rows))

  contract.check_reordered_steps(stepper(scan), reorder)


@pytest.mark.slow
@SCAN
@pytest.mark.parametrize('mesh', (contract.MESHES[0], contract.MESHES[-1]), ids=str)
def test_meshes(scan, mesh):
  contract.check_steps_on_mesh(stepper(scan), mesh)

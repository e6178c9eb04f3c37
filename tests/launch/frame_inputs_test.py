"""Layer and dtype of frames, from flags and codebooks."""

import jax
import numpy as np
import pytest

from launch.frame_inputs import open_frames
from research.errors import InputError
from research.units.codebook import Codebook
from research.weights import Pretrained, save
from tests.evals import toy
from tests.models.toy import make

FLAGS = dict(release=None, layer=None, dtype=None, layer_flag='layer')


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
  """The same weights in models with compute dtype float32 and bfloat16."""
  sizes = dict(size='tiny', channels=8, width=16, depth=2, heads=2, hidden=24, conv_pos_groups=4)
  folder, variables, found = tmp_path_factory.mktemp('models'), None, {}
  for dtype in ('float32', 'bfloat16'):
    model = make('hubert+', **sizes, dtype=dtype)
    if variables is None:
      batch = {'audio': np.zeros((1, 1000), np.float32), 'audio_mask': np.ones((1, 1000), bool)}
      variables = jax.jit(model.init)(jax.random.key(0), batch)
    found[dtype] = str(save(Pretrained('finetuned', model, variables, 'random'), folder / dtype))
  return found


def tokens(frames):
  audio = toy.tone(300, 0.5, 0)[None].astype(np.float32) / 32768
  made, _ = jax.jit(frames.embedder.apply)(frames.embedder.variables, audio, audio < 2)
  return np.asarray(made[frames.layer].astype(np.float32))


def test_frames_are_float32_for_any_training_dtype(paths):
  own, other = (open_frames(paths[d], None, **FLAGS)[0] for d in ('float32', 'bfloat16'))
  assert own.dtype == other.dtype == 'float32' and own.fingerprint() == other.fingerprint()
  np.testing.assert_array_equal(tokens(own), tokens(other))
  half = open_frames(paths['float32'], None, **{**FLAGS, 'dtype': 'bfloat16'})[0]
  assert half.about()['dtype'] == 'bfloat16' and half.fingerprint() != own.fingerprint()
  apart = np.abs(tokens(half) - tokens(own)).max()
  assert 1e-4 < apart < 0.1


def test_units_of_different_dtypes_are_distinguished(paths):
  own = open_frames(paths['float32'], None, **FLAGS)[0]
  half = open_frames(paths['float32'], None, **{**FLAGS, 'dtype': 'bfloat16'})[0]
  centroids = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
  book = Codebook(centroids, half.about())
  assert book.fingerprint(half) != book.fingerprint(own)
  with pytest.raises(InputError, match="its dtype is 'bfloat16', not 'float32'"):
    book.check(own, 16)
  # Without a flag, the dtype of the codebook is used.
  taken = open_frames(paths['float32'], book, **FLAGS)[0]
  assert taken.fingerprint() == half.fingerprint() and taken.layer == half.layer == 2
  book.check(taken, 16)
  given = open_frames(paths['float32'], book, **{**FLAGS, 'dtype': 'float32'})[0]
  assert given.fingerprint() == own.fingerprint()
  # A codebook without a dtype still has a fingerprint.
  silent = {k: v for k, v in half.about().items() if k != 'dtype'}
  with pytest.raises(InputError, match='its weights or dtype is'):
    Codebook(centroids, silent).check(own, 16)


def test_layers(paths):
  bare = Codebook(np.zeros((5, 16), np.float32), {})
  with pytest.raises(InputError, match='does not specify its layer: give --layer=NUMBER'):
    open_frames(paths['float32'], bare, **FLAGS)
  frames, origin = open_frames(paths['float32'], bare, **{**FLAGS, 'layer': '1'})
  assert frames.layer == 1 and origin == 'random'
  assert open_frames('mfcc', bare, **FLAGS)[0].embedder.kind == 'mfcc'
  for flag in (dict(layer='1'), dict(release='hubert'), dict(dtype='float32')):
    with pytest.raises(InputError, match='apply to models only; remove them for mfcc'):
      open_frames('mfcc', None, **{**FLAGS, **flag})

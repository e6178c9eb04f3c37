"""AST: a start from weights of another length, and the mean of checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research import models, weights
from research.errors import InputError
from research.models.ast import HEAD
from research.nn.positions import resize_table
from research.train.state import init_state
from research.train.warm_start import warm_start
from research.weights import Pretrained
from tests.launch import runner
from tests.weights.toy import filled

ENCODER = dict(size='tiny', width=16, depth=1, heads=2)


def make(frames, **args):
  return models.get('finetuned')(
    encoder=dict(name='ast', args=dict(ENCODER, frames=frames, **args)),
    head=dict(name='classifier', args=dict(HEAD, classes=3)),
  )


@pytest.mark.slow
@pytest.mark.parametrize('frames', [56, 96])
def test_positions_are_resized(tmp_path, frames):
  theirs, ours = make(76), make(frames)
  have = filled(theirs)
  weights.save(Pretrained('finetuned', theirs, have, 'made here'), tmp_path)
  batch = dict(audio=jnp.zeros((1, 16000)), audio_mask=jnp.ones((1, 16000), bool))
  state = init_state(ours, optax.sgd(0.1), batch, 0, False)
  spec = dict(path=str(tmp_path), include='^(params/)?encoder/', exclude=None, statistics='same')
  started = warm_start(state, spec, ours).params['encoder']
  grids = theirs.upstream.grid, ours.upstream.grid
  assert grids[0][0] == 7 and grids[1][0] == (5 if frames == 56 else 9)
  own = have['params']['encoder']
  np.testing.assert_array_equal(started['pos_embed'], resize_table(own['pos_embed'], *grids, 2))
  np.testing.assert_array_equal(started['cls_token'], own['cls_token'])
  # Of another width nothing fits.
  other = make(frames, width=32)
  state = init_state(other, optax.sgd(0.1), batch, 0, False)
  with pytest.raises(InputError, match='of shape'):
    warm_start(state, spec, other)


def test_fixed_positions_start_learned_ones(tmp_path):
  """Those of an AudioMAE, which has one class token."""
  theirs = models.get('audio_mae')(
    size='tiny', width=16, depth=1, heads=2, frames=76, positions='time_frequency',
    decoder='global',
  )  # fmt: skip
  have = filled(theirs)
  weights.save(Pretrained('audio_mae', theirs, have, 'made here'), tmp_path)
  ours = make(96, time_stride=16, frequency_stride=16)
  batch = dict(audio=jnp.zeros((1, 16000)), audio_mask=jnp.ones((1, 16000), bool))
  state = init_state(ours, optax.sgd(0.1), batch, 0, False)
  spec = dict(path=str(tmp_path), include='^params/encoder/', exclude='token', statistics='same')
  started = warm_start(state, spec, ours).params['encoder']
  table = have['buffers']['encoder']['pos_embed']
  table = np.concatenate([table[:1], table])
  want = resize_table(table, theirs.grid, ours.upstream.grid, 2)
  np.testing.assert_array_equal(started['pos_embed'], want)
  assert theirs.grid == (4, 8) and ours.upstream.grid == (6, 8)


def test_a_table_that_is_longer_is_interpolated_between_centres():
  table = np.arange(4, dtype=np.float32)[:, None]
  got = resize_table(table, (4, 1), (8, 1), 0)[:, 0]
  np.testing.assert_allclose(got, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0])
  np.testing.assert_array_equal(resize_table(table, (4, 1), (2, 1), 0)[:, 0], [1, 2])
  with pytest.raises(InputError, match='A table of 4 positions is not one of 1 class'):
    resize_table(table, (4, 1), (2, 1), 1)


@pytest.mark.slow
def test_the_mean_of_checkpoints(tmp_path):
  done = runner.train(
    tmp_path, '--config.checkpoint.every=1', '--config.checkpoint.keep=3',
    config='experiments/ast/finetune_esc50.py:debug',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  mean = weights.average(tmp_path)
  each = [weights.load(tmp_path / 'checkpoints' / str(step)).variables for step in (1, 2, 3)]
  want = jax.tree.map(lambda *x: np.mean(np.stack(x).astype(np.float64), axis=0), *each)
  for a, b in zip(*map(jax.tree.leaves, (mean.variables['params'], want['params'])), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
  assert 'the mean of steps 1, 2, 3' in mean.origin
  with pytest.raises(InputError, match='fewer than two'):
    weights.average(tmp_path, first=3)

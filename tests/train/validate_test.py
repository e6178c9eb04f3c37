"""Evaluations during training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.audio import sources
from research.models.audio_mae import AudioMAE
from research.train import build, loop, sharding, validate
from research.train.config import complete
from research.train.state import State
from tests.experiments_test import ROOT, load


@pytest.mark.slow
@pytest.mark.parametrize('norm_pix', [True, False])
def test_pictures_take_the_arguments_of_the_objective(tmp_path, monkeypatch, norm_pix):
  asked, picture = [], AudioMAE.picture

  def spy(self, batch, norm_pix=True):
    asked.append(norm_pix)
    return picture(self, batch, norm_pix)

  monkeypatch.setattr(AudioMAE, 'picture', spy)
  config = load(ROOT / 'experiments/audio_mae/builtin_tiny.py').get_config('debug')
  config.total_steps = 1
  config.optim.schedule.warmup_steps = 0
  config.objective.args.norm_pix = norm_pix
  config.evals = dict(pictures=dict(name='pictures', data=dict(split='valid')))
  loop.train(config, str(tmp_path / 'run'))
  assert set(asked) == {norm_pix}
  with np.load(tmp_path / 'run' / 'pictures.npz') as panels:
    sounds = {'audio', 'audio_samples', 'audio_names', 'sample_rate'}
    assert set(panels) == {'original', 'masked', 'reconstructed'} | sounds


@pytest.mark.parametrize(
  ('own', 'rows'),
  # A batch of 1600 s holds 44 of the longest clips; the evaluation's own settings take precedence.
  [({}, 44), ({'batch_size': 64}, 64), ({'seconds': 2.0}, 800), ({'batch_seconds': None}, 1024)],
)
def test_evaluation_batches_hold_as_many_clips_as_fit_of_the_longest(tmp_path, own, rows):
  config = load(ROOT / 'experiments/hubert/finetune_librispeech.py').get_config()
  config = complete(config)
  mesh = sharding.make_mesh(config['mesh'])
  run = validate.Run(config, None, build.objective(config), mesh, tmp_path, None)
  assert validate._data(run, {'data': own})['batch_size'] == rows


class Counting(nn.Module):
  """Number of samples of each clip."""

  def __call__(self, batch, train=False):
    return {'samples': batch['audio_mask'].sum(axis=1).astype(jnp.float32)}


def squares(out, batch):
  """A mean over samples, like losses over masked frames."""
  samples = jnp.where(batch['valid'], out['samples'], 0.0)
  size = samples.sum()
  return (samples**2).sum() / size, {'length': (samples**2).sum() / size, 'sample_size': size}


@pytest.mark.parametrize('batches', [None, 2])
def test_losses_are_weighted_by_their_sample_size(tmp_path, monkeypatch, batches):
  config = load(ROOT / 'experiments/audio_mae/builtin_tiny.py').get_config('debug')
  where = dict(kind=['word', 'sentence'])
  config.data.update(where=where, seconds=None)
  config = complete(config)
  mesh = sharding.make_mesh(config['mesh'])
  run = validate.Run(config, Counting(), squares, mesh, tmp_path, None)
  seen = []
  place = sharding.to_devices

  def spy(batch, mesh):
    seen.append(batch['audio_mask'].sum(axis=1)[batch['valid']])
    return place(batch, mesh)

  monkeypatch.setattr(sharding, 'to_devices', spy)
  spec = dict(name='validation', batches=batches, data=dict(split='valid', batch_size=8), args={})
  evaluator = validate.validation(run, 'valid', spec)
  nothing = State(
    step=jnp.int32(0), params={}, opt_state={}, teacher=None, variables={}, key=jax.random.key(0)
  )
  found = evaluator(0, nothing)
  samples = np.concatenate(seen).astype(np.float64)
  clips = sources.open_source('builtin', split='valid').where(where)
  assert len(clips) > 24 and len(samples) == (len(clips) if batches is None else 16)
  want = (samples**2).sum() / samples.sum()
  np.testing.assert_allclose([found['valid/loss'], found['valid/length']], want, rtol=1e-5)
  assert found['valid/sample_size'] == samples.sum()
  # A few batches still cover short and long clips.
  seconds = np.sort(clips.durations())
  assert abs(samples.mean() / 16_000 - seconds.mean()) < 0.1 * seconds.mean()
  assert samples.max() / 16_000 > np.quantile(seconds, 0.9)


def test_panels_of_unequal_lengths_end_at_their_lowest_value():
  found = validate._stacked([np.full((2, 3), 1.0), np.arange(12.0).reshape(4, 3) - 5.0])
  assert found.shape == (2, 4, 3)
  np.testing.assert_array_equal(found[0], np.ones((4, 3)))
  np.testing.assert_array_equal(found[1, -1], [4.0, 5.0, 6.0])

"""What is measured while a run goes on."""

import numpy as np
import pytest

from research.models.audio_mae import AudioMAE
from research.train import build, loop, sharding, validate
from tests.experiments_test import ROOT, load


@pytest.mark.parametrize('norm_pix', [True, False])
def test_pictures_know_what_the_predictions_are(tmp_path, monkeypatch, norm_pix):
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
    assert set(panels) == {'original', 'masked', 'reconstructed'}


@pytest.mark.parametrize(
  ('own', 'rows'),
  # Of the longest clips a batch of 1600 s has 44; what an evaluation says itself counts.
  [({}, 44), ({'batch_size': 64}, 64), ({'seconds': 2.0}, 800), ({'batch_seconds': None}, 1024)],
)
def test_evaluations_have_as_many_clips_as_fit_of_the_longest(tmp_path, own, rows):
  config = load(ROOT / 'experiments/hubert/finetune_librispeech.py').get_config()
  config = build.complete(config)
  mesh = sharding.make_mesh(config['mesh'])
  run = validate.Run(config, None, build.objective(config), mesh, tmp_path, None)
  assert validate._data(run, {'data': own})['batch_size'] == rows

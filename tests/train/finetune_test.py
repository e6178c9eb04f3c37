"""Fine-tuning as an evaluation: which encoders it takes, and the config it makes of each."""

import jax
import numpy as np
import pytest

from research import weights
from research.errors import InputError
from research.evals import tasks
from research.train import finetune, loop
from research.train.config import complete
from tests.evals import toy as tones
from tests.models.subjects import SPEECH
from tests.models.toy import make
from tests.weights.toy import filled

MODELS = {
  'hubert': SPEECH,
  'hubert+ctc': {**SPEECH, 'vocabulary': ('_', 'a')},
  'wav2vec2': {**SPEECH, 'mask_embedding': False, 'mask_prob': 0.0},
  'byol_a': dict(
    size='tiny', frames=32, hidden=24, width=32, channels=8, projection=16, projection_hidden=24,
    bank=6,
  ),
}  # fmt: skip
QUICK = finetune.Finetune(steps=2, batch_size=8)


def saved(name, folder):
  model = make(name, **MODELS[name])
  kind = 'finetuned' if '+' in name else name
  variables = jax.tree.map(np.abs, filled(model))  # variances are
  return weights.save(weights.Pretrained(kind, model, variables, 'random'), folder)


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_every_encoder_is_fine_tuned(name, tmp_path):
  path = saved(name, tmp_path / 'model')
  parts = ('train', 'train', 'train', 'valid', 'test', 'test')
  folder = tones.tones(
    tmp_path / 'tones', per_class=6, columns=('split',), row=lambda i, c: (parts[i % 6],)
  )
  task = tasks.prepare(str(folder))
  loaded = weights.load(path)
  seconds = finetune.clip_seconds(loaded, task)
  config = finetune.config_for(loaded, str(path), task, QUICK, seconds)
  encoder = complete(config)['model']['args']['encoder']
  assert encoder['name'] == name.split('+')[0] and 'dropout' not in encoder['args']
  if name == 'byol_a':
    assert seconds == pytest.approx(32 * 0.01, abs=0.1)
  else:
    assert seconds == pytest.approx(max(task.source.durations()))
  clips = task.source.select(np.arange(len(task.source)))
  result = loop.train(config, tmp_path / 'run', quiet=True, clips=clips)
  assert result.finished and np.isfinite(result.metrics['loss'])
  tuned = weights.load(tmp_path / 'run')
  logits = finetune.predict(
    tuned.model, result.state, clips, sample_rate=16_000, seconds=seconds, batch_size=8
  )
  assert logits.shape == (18, 3) and np.isfinite(logits).all()
  # The encoder starts from the weights: convolutions that are frozen are still theirs.
  if name == 'hubert':
    for part, tree in loaded.variables['params']['feature_extractor'].items():
      own = tuned.variables['params']['feature_extractor'][part]
      np.testing.assert_array_equal(own['kernel'], tree['kernel'])
  scratch = finetune.config_for(loaded, None, task, QUICK, seconds)
  assert scratch['init'] is None and scratch['model'] == config['model']


def test_a_model_without_hidden_states_is_refused(tmp_path, monkeypatch):
  from research import models
  from tests.models.toy_text import ToyText

  monkeypatch.setitem(models.ELSEWHERE, 'toy_text', 'tests.models.toy_text:ToyText')
  folder = tones.tones(tmp_path / 'tones', per_class=4)
  loaded = weights.Pretrained('toy_text', ToyText(), {}, 'nothing')
  with pytest.raises(InputError, match='toy_text cannot be fine-tuned: it gives no hidden states'):
    finetune.config_for(loaded, None, tasks.prepare(str(folder)), QUICK, 1.0)

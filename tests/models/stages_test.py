"""What the stages of audio language models freeze: after steps of training, with weight decay, not
a bit of it has changed, and the rest has."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.train import build, optim
from research.train.config import complete
from research.train.state import init_state
from research.train.step import make_train_step
from tests.contract import flat, jit
from tests.experiments_test import load, variants
from tests.models import subjects

ROOT = Path(__file__).resolve().parents[2] / 'experiments'
SUBJECTS = subjects.every()


def stages():
  """{model: frozen parts of one of its stages}."""
  found = {}
  for file in sorted(ROOT.glob('*/stages.py')):
    for variant in variants(file):
      model = load(file).get_config(*[variant] * bool(variant)).to_dict()['model']
      frozen = tuple(model['args']['freeze'])
      if frozen:
        found[model['name']] = frozen
  return found


STAGES = stages()


def test_stages_are_found():
  assert set(STAGES) >= {'audio_flamingo', 'audio_flamingo2', 'audio_flamingo3', 'qwen_audio'}


@pytest.mark.slow
@pytest.mark.parametrize('stage', STAGES)
def test_what_is_frozen_stays(stage):
  subject, frozen = SUBJECTS[stage], STAGES[stage]
  model = subject.model(freeze=frozen)
  batch = subject.batch(model, [model.frontend.samples(60), model.frontend.samples(40)])
  config = complete(load(ROOT / stage / 'stages.py').get_config())
  changes = dict(lr=1e-2, weight_decay=0.1, no_decay='$^', schedule=dict(name='constant'))
  settings = {**config, 'optim': {**config['optim'], **changes}}
  schedule = optim.make_schedule(settings['optim'], 10)
  optimizer = build.optimizer(settings, model, schedule)
  state = jit(lambda: init_state(model, optimizer, batch, 0, False))()
  step = make_train_step(model, subject.objective, optimizer, schedule=schedule, teacher=None)
  after, step = state, jit(step)
  for _ in range(3):
    after, metrics = step(after, batch)
  assert float(metrics['finite']) == 1
  before, now = flat(jax.device_get(state.params)), flat(jax.device_get(after.params))
  still = {k for k in before if any(re.search(pattern, k) for pattern in model.frozen)}
  changed = {k for k in before if not np.array_equal(before[k], now[k])}
  assert not changed & still
  assert still
  # Weight decay moves whatever learns, but zeros without a gradient.
  assert not [k for k in set(before) - still - changed if before[k].any()]
  assert jnp.isfinite(metrics['loss'])

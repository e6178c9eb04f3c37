"""Learning rates against the official schedules."""

import numpy as np
import pytest

from research.train import optim
from tests.parity import golden


@golden.each_case('audio_mae', where=lambda case: 'settings' in case.config)
def test_lr_schedule(case):
  """The rate of every fractional epoch, and its multiple by layer decay."""
  for name, setting in case.config['settings'].items():
    schedule = dict(
      name='cosine', warmup_epochs=setting['warmup_epochs'], final_lr=setting['min_lr']
    )
    config = {**optim.DEFAULTS, 'lr': setting['lr'], 'schedule': schedule}
    epoch_steps = 1000
    rate = optim.make_schedule(config, setting['epochs'] * epoch_steps, epoch_steps)
    expected = case.outputs[f'lr_{name}']
    for epoch, (whole, scaled) in zip(case.inputs['epoch'], expected):
      got = float(rate(float(epoch) * epoch_steps))
      assert got == pytest.approx(whole, rel=2e-6, abs=1e-12)
      assert got * 0.3 == pytest.approx(scaled, rel=2e-6, abs=1e-12)
  assert np.isfinite(case.inputs['epoch']).all()

"""The training benchmark runs both peers to the end and reports one row."""

import pytest

pytest.importorskip('torch')

from launch.benchmarks import training


def test_a_step_of_ours_and_of_the_peer_are_timed_in_turns():
  (row,) = training.compare_training(size='tiny', batch=1, repeats=2)
  assert row['ours'] == 'oido' and row['peer'] == 'torch' and row['dtype'] == 'float32'
  assert row['ratio_low'] <= row['ratio'] <= row['ratio_high']
  assert row['ours_seconds'] > 0 and row['step_flops'] > 1e9
  assert row['audio_seconds_per_second'] == pytest.approx(10.24 / row['ours_seconds'])

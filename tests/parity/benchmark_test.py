"""The training benchmark runs both peers to the end and reports one row."""

import pytest

pytest.importorskip('torch')

from launch.benchmarks import speech, training


def test_a_step_of_ours_and_of_the_peer_are_timed_in_turns():
  (row,) = training.compare_training(size='tiny', batch=1, repeats=2)
  assert row['ours'] == 'oido' and row['peer'] == 'torch' and row['dtype'] == 'float32'
  assert row['ratio_low'] <= row['ratio'] <= row['ratio_high']
  assert row['ours_seconds'] > 0 and row['step_flops'] > 1e9
  assert row['audio_seconds_per_second'] == pytest.approx(10.24 / row['ours_seconds'])


def test_parts_of_wav2vec2_are_timed_against_transformers():
  rows = speech.compare_speech(size='tiny', batch=1, clip_seconds=1.0, repeats=1)
  assert [row['part'] for row in rows] == list(speech.PARTS)
  for row in rows:
    assert row['peer'] == 'transformers' and row['peer_seconds'] > 0 and row['step_flops'] > 1e8
    assert row['audio_seconds_per_second'] == pytest.approx(1.0 / row['ours_seconds'])

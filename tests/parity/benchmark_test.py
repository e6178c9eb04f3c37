"""The training benchmark runs both peers to the end and reports one row."""

import pytest

pytest.importorskip('torch')

from launch.benchmarks import byol, speech, training


def test_a_step_of_ours_and_of_the_peer_are_timed_in_turns():
  (row,) = training.compare_training(size='tiny', batch=1, repeats=2)
  assert row['ours'] == 'oido' and row['peer'] == 'torch' and row['dtype'] == 'float32'
  assert row['ratio_low'] <= row['ratio'] <= row['ratio_high']
  assert row['ours_seconds'] > 0 and row['step_flops'] > 1e9
  assert row['audio_seconds_per_second'] == pytest.approx(10.24 / row['ours_seconds'])


@pytest.mark.parametrize('model', ['wav2vec2', 'wavlm'])
def test_models_of_speech_are_timed_against_transformers(model):
  rows = speech.compare_speech(size='tiny', batch=1, clip_seconds=1.0, repeats=1, model=model)
  peers = ['transformers'] * 3 + ['hubert'] * (model == 'wavlm')
  assert [row['part'] for row in rows] == [*speech.PARTS, 'backward'][: len(peers)]
  assert [row['peer'] for row in rows] == peers
  for row in rows:
    assert row['peer_seconds'] > 0 and row['step_flops'] > 1e8
    assert row['audio_seconds_per_second'] == pytest.approx(1.0 / row['ours_seconds'])


def test_byol_a_is_timed_against_a_peer_that_draws_its_views_by_clip():
  training, embedding = byol.compare_byol(batch=4, repeats=1, seconds=1.0)
  assert (training['part'], embedding['part']) == ('training', 'embedding')
  for row in (training, embedding):
    assert row['ratio'] > 0 and row['ours_seconds'] > 0
  assert training['step_flops'] > 1e9

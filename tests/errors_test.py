import time

from research.errors import unknown


def test_few_names_are_all_listed():
  assert str(unknown('model', 'audio_mea', ['hubert', 'audio_mae'])) == (
    "Unknown model 'audio_mea'. Did you mean 'audio_mae'? Known: audio_mae, hubert."
  )
  assert str(unknown('model', 'x', [])) == "Unknown model 'x'. Known: none."


def test_of_many_names_a_few_are_listed():
  names = [f'speaker_{i:06d}/clip.wav' for i in range(300_000)]
  start = time.process_time()
  text = str(unknown('clip', 'speaker_123457/clip.wqv', names))
  assert time.process_time() - start < 10
  assert "Did you mean 'speaker_123457/clip.wav'" in text
  assert 'speaker_000019/clip.wav, and 299980 more.' in text and len(text) < 1000


def test_more_than_a_handful_is_cut():
  assert str(unknown('x', 'y', map(str, range(100)))).count(',') == 99
  assert str(unknown('x', 'y', map(str, range(101)))).endswith('18, 19, and 81 more.')

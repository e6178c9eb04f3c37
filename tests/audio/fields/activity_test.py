"""Frame labels of speakers: crops, windows, padding, several columns of classes, messages."""

import numpy as np
import pytest

from research.audio.clips import windows
from research.audio.decode import decode
from research.audio.fields import Context, make
from research.audio.fields.activity import frame_labels
from research.audio.pipeline import eval_batches, train_batches
from research.errors import InputError

TURNS = [['b 0.1 0.5', 'a 0.0 0.3'], ['c 0.02 0.14'], []]


@pytest.fixture
def source(make_source):
  clips = make_source([0.6, 0.2, 0.4])
  clips.table.columns['turns'] = [list(t) for t in TURNS]
  return clips


def fields(**args):
  return make(dict(activity=dict(name='activity', args=dict(frame_shift=320, **args))))


def expected(clip, start, frames):
  """Frames of 20 ms: speakers in sorted order."""
  want = np.zeros((frames, 2), np.int32)
  for text in TURNS[clip]:
    speaker, low, high = text.split()
    column = sorted({t.split()[0] for t in TURNS[clip]}).index(speaker)
    for frame in range(frames):
      want[frame, column] |= float(low) - 1e-9 <= (start + frame) * 0.02 < float(high) - 1e-9
  return want


def test_whole_recordings_are_padded_with_minus_one(source):
  (batch,) = eval_batches(source, batch_size=3, fields=fields(), lengths=1)
  assert batch['activity'].shape == (3, 30, 2) and batch['activity'].dtype == np.int32
  for i, got in zip(batch['index'].tolist(), batch['activity']):
    frames = [30, 10, 20][i]
    np.testing.assert_array_equal(got[:frames], expected(i, 0, frames))
    assert (got[frames:] == -1).all()


def test_labels_of_a_crop_are_the_crop_of_the_labels(source):
  batches = iter(
    train_batches(
      source, batch_size=3, seconds=0.1, fields=fields(spanning=True), num_threads=0, seed=3
    )
  )
  starts = set()
  for _ in range(8):
    batch = next(batches)
    for index, audio, got in zip(batch['index'], batch['audio'], batch['activity']):
      clip = int(index)
      place = np.flatnonzero(
        (np.lib.stride_tricks.sliding_window_view(samples(source, clip), 1600) == audio).all(1)
      )[0]
      assert place % 320 == 0
      starts.add((clip, int(place)))
      np.testing.assert_array_equal(got, expected(clip, place // 320, 5))
  assert len({s for c, s in starts if c == 0}) > 3


def samples(source, clip):
  return decode(source[clip], sample_rate=16000)


def test_windows_know_their_place(source):
  parts = windows(source, 0.24, shortest=0.05)
  (batch,) = eval_batches(parts, batch_size=8, fields=fields(spanning=True), lengths=1)
  seen = {parts.id(i): got for i, got in zip(batch['index'], batch['activity'])}
  np.testing.assert_array_equal(seen['000.flac@0.24'][:12], expected(0, 12, 12))
  np.testing.assert_array_equal(parts.starts(), [0, 0.24, 0.48, 0, 0, 0.24])
  again = windows(parts, 0.12, shortest=0.05)
  assert again.starts()[:3].tolist() == [0, 0.12, 0.24]


def test_a_turn_across_a_whole_crop_is_labelled_if_asked():
  turns = [('a', 0.1, 1.0)]
  assert not frame_labels(turns, 10, 10, speakers=['a']).any()
  assert frame_labels(turns, 10, 10, speakers=['a'], spanning=True).all()
  # It only has to begin or to end in the crop.
  for first in (0, 45):
    np.testing.assert_array_equal(
      frame_labels(turns, first, 10, speakers=['a']),
      frame_labels(turns, first, 10, speakers=['a'], spanning=True),
    )


def test_several_columns_of_classes(source):
  source.table.columns['action'] = ['on', 'off', 'on']
  source.table.columns['place'] = ['hall', 'attic', 'none']
  made = make(dict(label=['action', 'place']))
  (batch,) = eval_batches(source, batch_size=3, fields=made, lengths=1)
  want = {0: [1, 1], 1: [0, 0], 2: [1, 2]}
  assert batch['label'].dtype == np.int32
  assert [row.tolist() for row in batch['label']] == [want[int(i)] for i in batch['index']]
  assert made[0].example(Context(16000), 4, 100)['label'].shape == (4, 2)
  assert made[0].weights(source) is None
  for columns, message in (([], 'is empty'), (['action', 'plaec'], "Did you mean 'place'")):
    with pytest.raises(InputError, match=message):
      make(dict(label=dict(args=dict(column=columns))))[0].open(source, Context(16000))
  source.table.columns['place'] = [['hall'], ['attic'], []]
  with pytest.raises(InputError, match='each needs one class per clip'):
    made[0].open(source, Context(16000))


def test_the_numbers_of_classes_of_a_model(source):
  source.table.columns['action'] = ['on', 'off', 'on']
  source.table.columns['place'] = ['hall', 'attic', 'none']
  (field,) = make(dict(label=['action', 'place']))

  class Model:
    classes = (2, 3)

  field.open(source, Context(16000, Model()))
  Model.classes = (2, 4)
  with pytest.raises(InputError, match=r'have \[2, 3\] classes, .* logits of \[2, 4\]'):
    field.open(source, Context(16000, Model()))


def test_mistakes(source):
  for args, message in (
    (dict(column='turn'), "Did you mean 'turns'"),
    (dict(speakers=1), "'000.flac' of 'clips' has 2 speakers"),
    (dict(speakers=0), 'speakers is 0'),
  ):
    with pytest.raises(InputError, match=message):
      fields(**args)[0].open(source, Context(16000))
  with pytest.raises(InputError, match=r'A frame of .* has 320 samples'):
    train_batches(source, batch_size=1, seconds=0.01, fields=fields())
  for bad in ('a 1', 'a x 2', 'a 2 1', 'a -1 1', ' 0 1'):
    source.table.columns['turns'][1] = [bad]
    with pytest.raises(InputError, match=r"Clip '001.flac' of 'clips': the turn .* is not"):
      fields()[0].open(source, Context(16000))

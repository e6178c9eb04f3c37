import json

import numpy as np
import pytest
import soundfile

from research.audio.bad_files import BadFiles
from research.audio.clips import Source, Table
from research.audio.decode import decode
from research.audio.example import Example
from research.audio.fields import make
from research.audio.pipeline import eval_batches, train_batches
from research.errors import InputError

LENGTHS = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.12, 0.26, 0.33, 0.07, 0.18]


def take(batches, count, state=None):
  iterator = iter(batches)
  if state is not None:
    iterator.set_state(state)
  found = [next(iterator) for _ in range(count)]
  iterator.close()
  return found


def assert_equal(a, b):
  assert a.keys() == b.keys()
  for key in a:
    assert a[key].dtype == b[key].dtype
    np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def concatenated(parts):
  return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def test_what_a_batch_is(make_source):
  source = make_source(LENGTHS)
  for batch in take(
    train_batches(source, batch_size=4, seconds=0.25, fields=make(dict(label='label'))), 6
  ):
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
      'audio': ((4, 4000), 'float32'),
      'audio_mask': ((4, 4000), 'bool'),
      'index': ((4,), 'int32'),
      'valid': ((4,), 'bool'),
      'label': ((4,), 'int32'),
    }
    assert batch['valid'].all()
    for row, i in enumerate(batch['index']):
      clip = decode(source[i], sample_rate=16000)
      n = min(4000, len(clip))
      assert batch['audio_mask'][row].tolist() == [True] * n + [False] * (4000 - n)
      assert (batch['audio'][row, n:] == 0).all()
      windows = np.lib.stride_tricks.sliding_window_view(clip, n)
      assert (windows == batch['audio'][row, :n]).all(axis=1).any()
      assert source.classes('label')[batch['label'][row]] == source[i].columns['label']


@pytest.mark.parametrize(('crop', 'first'), [('start', 0), ('center', 2000)])
def test_fixed_crops(make_source, crop, first):
  source = make_source([0.5])
  (batch,) = take(train_batches(source, batch_size=1, seconds=0.25, crop=crop), 1)
  clip = decode(source[0], sample_rate=16000)
  np.testing.assert_array_equal(batch['audio'][0], clip[first : first + 4000])


def test_random_crops_change_every_epoch_and_cover_the_clip(make_source):
  source = make_source([0.5])
  clip = decode(source[0], sample_rate=16000)
  starts = []
  for batch in take(train_batches(source, batch_size=1, seconds=0.1), 40):
    windows = np.lib.stride_tricks.sliding_window_view(clip, 1600)
    starts.append(int(np.flatnonzero((windows == batch['audio'][0]).all(axis=1))[0]))
  assert len(set(starts)) > 35
  assert min(starts) < 800 and max(starts) > 5600


def test_without_seconds_the_longest_clip_sets_the_length(make_source):
  (batch,) = take(train_batches(make_source([0.1, 0.3, 0.2]), batch_size=2), 1)
  assert batch['audio'].shape == (2, 4800)


@pytest.mark.parametrize('options', [{'seconds': 0.2}, {'buckets': [0.1, 0.2, 0.4]}])
def test_resuming_anywhere_gives_the_same_batches_to_the_bit(make_source, options):
  source = make_source(LENGTHS)
  settings = {'batch_size': 4, 'fields': make(dict(label='label')), 'seed': 7, **options}
  whole = take(train_batches(source, **settings), 12)
  for stop in (0, 1, 5, 11):
    iterator = iter(train_batches(source, **settings, num_threads=2))
    for _ in range(stop):
      next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    iterator.close()
    rest = take(train_batches(source, **settings, num_threads=stop % 3), 12 - stop, state)
    for a, b in zip(whole[stop:], rest, strict=True):
      assert_equal(a, b)
  # Backwards within one iterator.
  iterator = iter(train_batches(source, **settings))
  state = iterator.get_state()
  first = [next(iterator) for _ in range(3)]
  iterator.set_state(state)
  for batch in first:
    assert_equal(batch, next(iterator))
  iterator.close()


@pytest.mark.parametrize('options', [{'seconds': 0.2}, {'buckets': [0.1, 0.2, 0.4]}])
def test_processes_share_the_batch_of_one(make_source, options):
  source = make_source(LENGTHS)
  settings = {'batch_size': 4, 'fields': make(dict(label='label')), **options}
  whole = take(train_batches(source, **settings), 8)
  for count in (2, 4):
    parts = [
      take(train_batches(source, **settings, process_index=i, process_count=count), 8)
      for i in range(count)
    ]
    for g, batch in enumerate(whole):
      assert_equal(concatenated([p[g] for p in parts]), batch)


def test_the_state_of_one_process_count_continues_on_another(make_source):
  source = make_source(LENGTHS)
  whole = take(train_batches(source, batch_size=4, seconds=0.2), 8)
  iterator = iter(train_batches(source, batch_size=4, seconds=0.2, process_count=2))
  for _ in range(3):
    next(iterator)
  state = iterator.get_state()
  iterator.close()
  for count in (1, 4):
    parts = [
      take(
        train_batches(source, batch_size=4, seconds=0.2, process_index=i, process_count=count),
        5,
        state,
      )
      for i in range(count)
    ]
    for g in range(5):
      assert_equal(concatenated([p[g] for p in parts]), whole[3 + g])


def test_worker_processes_give_the_same_batches_and_a_portable_state(make_source):
  source = make_source(LENGTHS)
  settings = {'batch_size': 4, 'seconds': 0.2, 'fields': make(dict(label='label'))}
  whole = take(train_batches(source, **settings, num_threads=0), 6)
  iterator = iter(train_batches(source, **settings, num_workers=2, num_threads=1, prefetch=2))
  for batch in whole[:3]:
    assert_equal(batch, next(iterator))
  state = iterator.get_state()
  iterator.close()
  for a, b in zip(whole[3:], take(train_batches(source, **settings), 3, state), strict=True):
    assert_equal(a, b)


def test_another_order_is_noticed(make_source, caplog):
  source = make_source(LENGTHS)
  state = iter(train_batches(source, batch_size=4, seconds=0.2)).get_state()
  take(train_batches(source, batch_size=2, seconds=0.2, process_count=2), 1, state)
  assert 'differ from those of the saved position' in caplog.text
  caplog.clear()
  take(train_batches(source, batch_size=4, seconds=0.2, num_threads=0), 1, state)
  assert not caplog.text


def test_epochs_end(make_source):
  source = make_source(LENGTHS)
  batches = list(iter(train_batches(source, batch_size=4, seconds=0.1, epochs=2)))
  assert len(batches) == 5
  rows = np.concatenate([b['index'] for b in batches])
  assert sorted(rows[:11]) == list(range(11))
  assert len(list(iter(train_batches(source, batch_size=4, buckets=2, epochs=2)))) == 6


def test_seeds_and_shuffle(make_source):
  source = make_source(LENGTHS)
  a, b = (take(train_batches(source, batch_size=4, seconds=0.1, seed=s), 2) for s in (0, 1))
  assert not np.array_equal(a[0]['index'], b[0]['index'])
  plain = take(train_batches(source, batch_size=4, seconds=0.1, shuffle=False), 3)
  np.testing.assert_array_equal(np.concatenate([p['index'] for p in plain]), np.arange(12) % 11)


def test_buckets_are_the_same_on_every_process_and_fit(make_source):
  source = make_source(LENGTHS)
  durations = source.durations()
  shapes = []
  for i in range(2):
    batches = train_batches(
      source, batch_size=4, buckets=[0.1, 0.2, 0.4], process_index=i, process_count=2
    )
    found = take(batches, 9)
    shapes.append([b['audio'].shape for b in found])
    for batch in found:
      fits = batch['audio'].shape[1] / 16000
      assert (durations[batch['index']] <= fits + 1e-6).all()
      np.testing.assert_array_equal(
        batch['audio_mask'].sum(axis=1), np.round(durations[batch['index']] * 16000)
      )
  assert shapes[0] == shapes[1]
  assert len(set(shapes[0])) > 1


def test_a_batch_holds_n_seconds(make_source):
  source = make_source([0.1, 0.1, 0.05, 0.2, 0.2, 0.15, 0.4, 0.3] * 4)
  settings = {'batch_size': 12, 'buckets': [0.1, 0.2, 0.4], 'seed': 3}
  by_seconds = {**settings, 'batch_seconds': 1.6, 'batch_multiple': 2}
  batches = train_batches(source, **by_seconds)
  found = take(batches, 20)
  sizes = {b['audio'].shape for b in found}
  # Sixteen clips of 0.1 s would be too many.
  assert sizes == {(12, 1600), (8, 3200), (4, 6400)}
  plan = batches.loader.batches
  assert sum(len(plan[g].rows) for g in range(plan.per_epoch)) in range(32, 36)
  assert batches.mean_rows == 32 / plan.per_epoch
  assert batches.signature != train_batches(source, **settings).signature
  rest = take(train_batches(source, **by_seconds, num_threads=0), 5, {'next_index': 15})
  halves = [
    take(train_batches(source, **by_seconds, process_index=i, process_count=2), 20)
    for i in range(2)
  ]
  for g, batch in enumerate(found):
    assert_equal(concatenated([half[g] for half in halves]), batch)
    if g >= 15:
      assert_equal(rest[g - 15], batch)


def test_multi_label(tmp_path, make_source):
  base = make_source([0.1] * 3)
  labels = [['x', 'z'], [], ['y']]
  source = Source(Table('m', base.table.ids, {'label': labels}, base.table.locate))
  (batch,) = take(
    train_batches(source, batch_size=3, fields=make(dict(label='label')), shuffle=False), 1
  )
  assert batch['label'].dtype == np.float32
  assert batch['label'].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_weights(make_source):
  source = make_source([0.05] * 4, labels=('a', 'a', 'a', 'b'))
  batches = take(
    train_batches(
      source, batch_size=20, fields=make(dict(label='label')), weights='balanced', num_threads=0
    ),
    20,
  )
  rows = np.concatenate([b['index'] for b in batches])
  fraction = np.bincount(rows, minlength=4) / len(rows)
  expected = np.array([1 / 3.01] * 3 + [1 / 1.01])
  np.testing.assert_allclose(fraction, expected / expected.sum(), atol=0.08)
  only = take(train_batches(source, batch_size=4, weights=[0, 1, 0, 0]), 1)
  assert only[0]['index'].tolist() == [1] * 4


def spoil(source, *rows):
  for row in rows:
    with open(source[row].path, 'w') as file:
      file.write('not audio')


@pytest.mark.parametrize('options', [{'seconds': 0.2}, {'buckets': [0.1, 0.2, 0.4]}])
def test_bad_files_are_replaced_and_listed(make_source, tmp_path, options):
  source = make_source([*LENGTHS, 0.2])
  settings = {'batch_size': 4, 'fields': make(dict(label='label')), **options}
  clean = take(train_batches(source, **settings), 9)
  spoil(source, 3, 11)
  bad = BadFiles(tmp_path / 'bad.jsonl', 0.5)
  found = take(train_batches(source, **settings, bad_files=bad), 9)
  forgiving = BadFiles(None, 0.5)
  again = take(train_batches(source, **settings, num_threads=0, bad_files=forgiving), 9)
  replaced = 0
  for a, b, c in zip(clean, found, again, strict=True):
    assert_equal(b, c)  # The replacement depends only on the seed.
    assert b['valid'].all() and b['audio_mask'].any(axis=1).all()
    assert not set(b['index']) & {3, 11}
    for row in range(4):
      if a['index'][row] in (3, 11):
        replaced += 1
        assert b['label'][row] == b['index'][row] % 3
      elif 'seconds' in options:  # The other rows do not change.
        np.testing.assert_array_equal(a['audio'][row], b['audio'][row])
  if 'seconds' in options:
    assert replaced == 6
  listed = [json.loads(line) for line in (tmp_path / 'bad.jsonl').read_text().splitlines()]
  assert {row['id'] for row in listed} == {'003.flac', '011.flac'}
  assert 'not an audio file' in listed[0]['reason']
  assert listed[0]['path'].endswith('.flac')


def test_bad_files_do_not_break_resuming_or_sharding(make_source):
  source = make_source(LENGTHS)
  spoil(source, 0, 4)
  settings = {'batch_size': 4, 'seconds': 0.2}

  def bad():
    return BadFiles(None, 0.9)

  whole = take(train_batches(source, **settings, bad_files=bad()), 6)
  state = {'next_index': 2}
  rest = take(train_batches(source, **settings, bad_files=bad()), 4, state)
  halves = [
    take(train_batches(source, **settings, bad_files=bad(), process_index=i, process_count=2), 6)
    for i in range(2)
  ]
  for g, batch in enumerate(whole):
    assert_equal(concatenated([h[g] for h in halves]), batch)
    if g >= 2:
      assert_equal(rest[g - 2], batch)


@pytest.mark.parametrize('num_workers', [0, 1])
def test_too_many_bad_files_stop_the_run(make_source, tmp_path, num_workers):
  source = make_source(LENGTHS)
  spoil(source, 1, 2, 5)
  batches = train_batches(
    source,
    batch_size=4,
    seconds=0.2,
    num_workers=num_workers,
    bad_files=BadFiles(tmp_path / 'bad.jsonl', 0.2),
  )
  with pytest.raises(InputError, match=r'Too many bad audio files: 3 of 11 clips .*bad\.jsonl'):
    take(batches, 20)


def test_nothing_readable(make_source):
  source = make_source(LENGTHS)
  spoil(source, *range(11))
  with pytest.raises(InputError, match='Too many bad audio files'):
    take(train_batches(source, batch_size=4, seconds=0.2), 1)
  forgiving = train_batches(source, batch_size=4, seconds=0.2, bad_files=BadFiles(None, 1.0))
  with pytest.raises(InputError, match=r'100 clips in a row .* could not be read'):
    take(forgiving, 1)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'batch_size': 5, 'process_count': 2}, 'cannot be split over 2 processes'),
    ({'batch_size': 0}, 'batch of 0'),
    ({'batch_size': 4, 'process_count': 2, 'process_index': 2}, 'not one of 2'),
    ({'batch_size': 64, 'epochs': 2, 'seconds': 0.1}, '11 clips x 2 epochs .* do not fill'),
    ({'batch_size': 4, 'crop': 'centre'}, "Unknown crop 'centre'. Did you mean 'center'"),
    ({'batch_size': 4, 'seconds': 0.0}, 'above 0'),
    ({'batch_size': 4, 'buckets': [2.0, 1.0]}, 'ascending'),
    ({'batch_size': 4, 'fill': 'cut'}, 'fill'),
    ({'batch_size': 4, 'batch_seconds': 2.0}, 'give buckets= with it'),
    (
      {'batch_size': 4, 'batch_seconds': 1.0, 'buckets': [1.0], 'batch_multiple': 2},
      'cannot hold 2 clips',
    ),
    ({'batch_size': 4, 'batch_seconds': float('nan'), 'buckets': [1.0]}, 'cannot hold'),
    ({'batch_size': 4, 'batch_multiple': 3}, 'batch_size is 4, .* batch_multiple 3'),
    (
      {'batch_size': 4, 'batch_seconds': 9.0, 'buckets': [1.0], 'process_count': 2},
      'a batch_multiple that 2 divides',
    ),
    ({'batch_size': 4, 'fill': 'crop', 'seconds': 1.0}, 'give buckets='),
    ({'batch_size': 4, 'buckets': [1.0], 'seconds': 1.0}, 'not both'),
    (
      {'batch_size': 4, 'fields': make(dict(label='lable'))},
      "Unknown column .* Did you mean 'label'",
    ),
    ({'batch_size': 4, 'weights': 'balance'}, "Did you mean 'balanced'"),
    ({'batch_size': 4, 'weights': [1.0, 2.0]}, 'do not fit the 11 clips'),
    ({'batch_size': 4, 'weights': [0.0] * 11}, 'do not fit'),
  ],
)
def test_mistakes_get_one_sentence(make_source, options, message):
  with pytest.raises(InputError, match=message):
    train_batches(make_source(LENGTHS), **options)


def test_a_clip_without_a_label(make_source):
  source = make_source([0.1] * 3, labels=('a', '', 'b'))
  with pytest.raises(InputError, match=r"Clip '001.flac' .* has no 'label'"):
    train_batches(source, batch_size=1, fields=make(dict(label='label')))
  assert source.classes('label') == ('a', 'b')


def test_long_clips_need_a_length(tmp_path):
  soundfile.write(tmp_path / 'a.flac', np.zeros(8000 * 70), 8000)
  source = Source(Table('long', ['a'], {}, Locate(str(tmp_path / 'a.flac'))))
  with pytest.raises(InputError, match=r'longest clip of .* is 70 s long'):
    train_batches(source, batch_size=1)


class Locate:
  def __init__(self, path):
    self.path = path

  def __call__(self, row):
    return {'path': self.path}


@pytest.mark.parametrize('count', [1, 2])
def test_evaluation_sees_every_clip_once(make_source, tmp_path, count):
  source = make_source([*LENGTHS, 0.2])
  spoil(source, 2)
  bad = BadFiles(tmp_path / 'bad.jsonl', 1.0)
  parts = [
    list(
      eval_batches(
        source,
        batch_size=4,
        fields=make(dict(label='label')),
        process_index=i,
        process_count=count,
        bad_files=bad,
      )
    )
    for i in range(count)
  ]
  batches = [concatenated(p) for p in zip(*parts, strict=True)]
  seen = np.concatenate([b['index'][b['valid']] for b in batches])
  assert sorted(seen) == [i for i in range(12) if i != 2]
  assert len({b['audio'].shape for b in batches}) <= 4
  for batch in batches:
    assert batch['audio'].shape[0] == 4
    for row in range(4):
      if not batch['valid'][row]:
        assert not batch['audio_mask'][row].any() and not batch['audio'][row].any()
        continue
      clip = decode(source[batch['index'][row]], sample_rate=16000)
      assert batch['audio_mask'][row].sum() == len(clip)
      np.testing.assert_array_equal(batch['audio'][row, : len(clip)], clip)
      assert batch['label'][row] == batch['index'][row] % 3
  assert [i for i, _ in bad.items()] == ['002.flac']


def test_evaluation_crops_to_max_seconds(make_source):
  source = make_source([0.1, 0.5, 0.25])
  batches = list(eval_batches(source, batch_size=2, max_seconds=0.25))
  assert max(b['audio'].shape[1] for b in batches) == 4000
  rows = {
    int(i): (a[m], v)
    for b in batches
    for i, a, m, v in zip(b['index'], b['audio'], b['audio_mask'], b['valid'])
    if v
  }
  for i in range(3):
    np.testing.assert_array_equal(rows[i][0], decode(source[i], sample_rate=16000)[:4000])


def test_evaluation_of_nothing_readable(make_source):
  source = make_source([0.1] * 3)
  spoil(source, 0, 1, 2)
  batches = list(eval_batches(source, batch_size=2))
  assert sum(b['valid'].sum() for b in batches) == 0
  assert sum(len(b['valid']) for b in batches) == 4


def test_memory_arrays_as_a_source():
  audio = [np.full(1600 * (i + 1), 0.1 * i, np.float32) for i in range(3)]

  def locate(row):
    return {'array': audio[row], 'sample_rate': 16000}

  source = Source(Table('memory', ['a', 'b', 'c'], {}, locate))
  assert isinstance(source[1], Example)
  np.testing.assert_allclose(source.durations(), [0.1, 0.2, 0.3])
  (batch,) = take(train_batches(source, batch_size=3, shuffle=False), 1)
  assert batch['audio_mask'].sum(axis=1).tolist() == [1600, 3200, 4800]

"""Units in batches match the audio, whatever is cropped, padded or replaced."""

import json
import pickle

import numpy as np
import pytest

from research.audio import sources
from research.audio.bad_files import BadFiles
from research.audio.clips import Files, Source, Table, windows
from research.audio.decode import decode
from research.audio.fields import make
from research.audio.fields.units import open_sets
from research.audio.pipeline import eval_batches, train_batches
from research.audio.units import Units, save
from research.errors import InputError
from research.train import build, config, selection
from tests.audio.pipeline_test import assert_equal, concatenated, spoil, take

HOP, WINDOW = 160, 400
LENGTHS = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.12, 0.26, 0.33, 0.02, 0.18]


def sums(audio):
  """A code that is nearly unique to a window: the sum of its PCM samples."""
  if len(audio) < WINDOW:
    return np.zeros(0, np.int64)
  pcm = np.round(audio.astype(np.float64) * 32768).astype(np.int64)
  return np.lib.stride_tricks.sliding_window_view(pcm, WINDOW)[::HOP].sum(axis=1) % 60_000


def extremes(audio):
  if len(audio) < WINDOW:
    return np.zeros(0, np.int64)
  pcm = np.round(audio.astype(np.float64) * 32768).astype(np.int64)
  return np.lib.stride_tricks.sliding_window_view(pcm, WINDOW)[::HOP].max(axis=1) % 60_000


def places(audio):
  """The index of the frame in its clip."""
  return np.arange(len(sums(audio)))


def label(path, source, function=sums, fingerprint='ab', rate=16_000, hop=HOP, window=WINDOW):
  about = dict(clusters=60_000, sample_rate=rate, hop=hop, window=window, fingerprint=fingerprint)
  found = [function(decode(clip, sample_rate=rate)) for clip in source]
  save(path, [clip.id for clip in source], found, about)
  return str(path)


def check(batch, functions=(sums,)):
  """The units of every row are those of its samples; returns their number."""
  audio, mask, units = batch['audio'], batch['audio_mask'], batch['units']
  count = max(0, 1 + (audio.shape[1] - WINDOW) // HOP)
  assert units.shape == (len(audio), count, len(functions)) and units.dtype == np.int32
  for row, n in enumerate(mask.sum(axis=1)):
    for g, function in enumerate(functions):
      want = function(audio[row, :n])
      np.testing.assert_array_equal(units[row, : len(want), g], want)
      assert (units[row, len(want) :, g] == -1).all()
  return (units >= 0).sum()


@pytest.mark.parametrize(
  'options',
  [
    {'seconds': 0.1},
    {'seconds': 0.2001, 'crop': 'start'},
    {'seconds': 0.15, 'crop': 'center'},
    {'buckets': [0.1, 0.2, 0.4]},
    {'buckets': [0.06, 0.15], 'fill': 'crop'},
  ],
)
def test_units_of_a_batch_are_those_of_its_audio(make_source, tmp_path, options):
  source = make_source(LENGTHS)
  units = label(tmp_path / 'units', source)
  settings = {'batch_size': 4, 'fields': make(dict(units=units)), 'seed': 3, **options}
  whole = take(train_batches(source, **settings), 12)
  starts = set()
  for batch in whole:
    assert check(batch) > 0
    for row, i in enumerate(batch['index']):
      clip, n = decode(source[i], sample_rate=16_000), batch['audio_mask'][row].sum()
      view = np.lib.stride_tricks.sliding_window_view(clip, n)
      starts.add(int(np.flatnonzero((view == batch['audio'][row, :n]).all(axis=1))[0]))
  assert all(start % HOP == 0 for start in starts)
  if options.get('crop') == 'start':
    assert starts == {0}
  elif 'seconds' in options or 'fill' in options:
    assert len(starts) > 4
  # Resumed, and split over processes.
  rest = take(train_batches(source, **settings, num_threads=0), 5, {'next_index': 7})
  halves = [
    take(train_batches(source, **settings, process_index=i, process_count=2), 12) for i in range(2)
  ]
  for g, batch in enumerate(whole):
    assert_equal(concatenated([h[g] for h in halves]), batch)
    if g >= 7:
      assert_equal(rest[g - 7], batch)


def test_fixed_crops_keep_to_the_grid(make_source, tmp_path):
  source = make_source([0.5])
  units = label(tmp_path / 'units', source, places)
  for crop, first in (('start', 0), ('center', 2080)):
    # 8000 - 3900 samples are 25 steps of 160: of the 26 places the middle one is 13.
    settings = dict(batch_size=1, seconds=3900 / 16_000, crop=crop, fields=make(dict(units=units)))
    (batch,) = take(train_batches(source, **settings), 1)
    assert batch['units'][0, 0, 0] == first // HOP
    clip = decode(source[0], sample_rate=16_000)
    np.testing.assert_array_equal(batch['audio'][0], clip[first : first + 3900])


@pytest.mark.parametrize('rate', [8_000, 22_050, 44_100, 47_999])
def test_files_of_another_rate_line_up(tmp_path, write, rate):
  for i in range(3):
    write(tmp_path / f'a/{i}.flac', 0.8 + 0.1 * i, rate, seed=i)
  source = sources.open_source(str(tmp_path / 'a'))
  units = label(tmp_path / 'units', source, places)
  starts = set()
  for batch in take(
    train_batches(source, batch_size=3, seconds=0.3, fields=make(dict(units=units))), 8
  ):
    for row, i in enumerate(batch['index']):
      start = batch['units'][row, 0, 0] * HOP
      starts.add(start)
      whole = decode(source[i], sample_rate=16_000)
      np.testing.assert_allclose(batch['audio'][row], whole[start : start + 4800], atol=1e-6)
      np.testing.assert_array_equal(np.diff(batch['units'][row, :, 0]), 1)
  assert len(starts) > 10


def test_several_label_sets(make_source, tmp_path):
  source = make_source(LENGTHS)
  units = [
    label(tmp_path / 'sums', source),
    label(tmp_path / 'extremes', source, extremes),
    label(tmp_path / 'few', source, lambda audio: places(audio)[:-3], 'cd'),
  ]
  for batch in take(
    train_batches(source, batch_size=4, seconds=0.25, fields=make(dict(units=units))), 6
  ):
    check({**batch, 'units': batch['units'][..., :2]}, (sums, extremes))
    # A label set may lack units at the ends of clips (codec headers); the others are unaffected.
    lacking = (batch['units'][..., 2] < 0) & (batch['units'][..., 0] >= 0)
    assert lacking.sum(axis=1).max() <= 3
  batches = [
    train_batches(source, batch_size=4, fields=make(dict(units=u))) for u in (None, units[0], units)
  ]
  assert len({b.signature for b in batches}) == 3
  other = label(tmp_path / 'other', source, fingerprint='ef')
  assert (
    train_batches(source, batch_size=4, fields=make(dict(units=other))).signature
    != batches[1].signature
  )


def test_evaluation_batches(make_source, tmp_path):
  source = make_source(LENGTHS)
  units = label(tmp_path / 'units', source)
  spoil(source, 5)
  for max_seconds in (None, 0.155):
    seen = 0
    batches = eval_batches(
      source, batch_size=4, fields=make(dict(units=units)), max_seconds=max_seconds
    )
    for batch in batches:
      check(batch)
      assert (batch['units'][~batch['valid']] == -1).all()
      seen += batch['valid'].sum()
    assert seen == len(source) - 1


def test_worker_processes_open_the_units_for_themselves(make_source, tmp_path, monkeypatch):
  source = make_source(LENGTHS)
  label(tmp_path / 'units', source)
  monkeypatch.chdir(tmp_path)
  settings = {'batch_size': 4, 'seconds': 0.15, 'fields': make(dict(units='units'))}
  whole = take(train_batches(source, **settings), 4)
  for a, b in zip(whole, take(train_batches(source, **settings, num_workers=1), 4), strict=True):
    assert_equal(a, b)
  big = dict(clusters=9, sample_rate=16_000, hop=HOP, window=WINDOW, fingerprint='')
  save(tmp_path / 'big', ['a'], [np.zeros(10**6, int)], big)
  opened = Units.open('big')
  pickled = pickle.dumps(opened)
  assert len(pickled) < 1000
  monkeypatch.chdir('/')
  np.testing.assert_array_equal(pickle.loads(pickled)['a'], opened['a'])


def test_substitutes_have_their_own_units(make_source, tmp_path):
  source = make_source(LENGTHS)
  units = label(tmp_path / 'units', source)
  spoil(source, 3, 5)
  settings = {'batch_size': 4, 'seconds': 0.15, 'fields': make(dict(units=units))}
  for batch in take(train_batches(source, **settings, bad_files=BadFiles(None, 0.9)), 9):
    check(batch)
    assert not set(batch['index']) & {3, 5}


def test_units_of_other_audio_are_refused(make_source, tmp_path, write):
  source = make_source(LENGTHS)
  units = label(tmp_path / 'units', source)
  # Another recording replaces clip 4; one of nearly the same length passes.
  write(tmp_path / 'clips/004.flac', 0.55)
  write(tmp_path / 'clips/007.flac', 0.28)
  bad = BadFiles(tmp_path / 'bad.jsonl', 0.9)
  settings = {'batch_size': 4, 'seconds': 0.15, 'fields': make(dict(units=units))}
  for batch in take(train_batches(source, **settings, bad_files=bad), 9):
    assert 4 not in batch['index']
  (row,) = map(json.loads, (tmp_path / 'bad.jsonl').read_text().splitlines())
  assert row['id'] == '004.flac' and '53 units, but' in row['reason'] and 'has 28' in row['reason']
  # Evaluation skips bad files, so it would silently measure nothing.
  source.table.seconds[:] = np.nan
  with pytest.raises(InputError, match=r'004.flac: It has 8800 samples.*made from other audio'):
    list(eval_batches(source, batch_size=4, fields=make(dict(units=units))))
  with pytest.raises(InputError, match='made from other audio'):
    take(train_batches(source, **settings, bad_files=BadFiles(None, 0.0)), 9)


def test_windows_have_units_of_their_own(make_source, tmp_path):
  source = make_source([0.5, 0.3])
  cut = windows(source, 0.2, shortest=0.05)
  whole, parts = label(tmp_path / 'whole', source), label(tmp_path / 'parts', cut)
  for batch in take(
    train_batches(cut, batch_size=4, seconds=0.15, fields=make(dict(units=parts))), 4
  ):
    check(batch)
  with pytest.raises(InputError, match=r"'000.flac@0', the first id of the units is '000.flac'"):
    train_batches(cut, batch_size=4, fields=make(dict(units=whole)))


def test_clips_without_units_are_left_out_of_training(make_source, tmp_path, caplog):
  source = make_source(LENGTHS)
  units = label(tmp_path / 'units', source.select([0, 2, 4, 6]))
  data = dict(config.DATA, fields=dict(units=units))
  with pytest.raises(InputError, match=r"7 of 11 clips .* no units .* the first is '001.flac'"):
    train_batches(source, batch_size=4, fields=make(dict(units=units)))
  kept = selection.usable(source, data)
  assert [clip.id for clip in kept] == ['000.flac', '002.flac', '004.flac', '006.flac']
  assert '7 of 11 clips' in caplog.text
  for batch in take(train_batches(kept, batch_size=4, fields=make(dict(units=units))), 3):
    check(batch)
  with pytest.raises(InputError, match='No clip of'):
    selection.usable(source.select([1, 3]), data)
  # Each of two label sets has some of the clips, but no clip is in both.
  other = label(tmp_path / 'other', source.select([1, 3]))
  with pytest.raises(InputError, match=r"No clip of .*other.* first id of the units is '001.flac'"):
    selection.usable(source, {**data, 'fields': dict(units=[units, other])})


def test_configs_name_units(make_source, tmp_path):
  source = make_source(LENGTHS)
  data = dict(
    config.DATA, fields=dict(units=[label(tmp_path / 'units', source)]), batch_size=4, seconds=0.15
  )
  batches = build.train_batches(data, source, bad_files=None)
  check(take(batches, 1)[0])


@pytest.mark.parametrize('spec', [[], 3, {'path': 'units'}, ['a', 3]])
def test_invalid_units_are_refused(spec):
  with pytest.raises(InputError, match='give a folder of units, or a list'):
    open_sets(spec)


def test_label_sets_and_data_must_match(make_source, tmp_path):
  source = make_source(LENGTHS)
  units = label(tmp_path / 'units', source)
  for name, value in (('rate', 8_000), ('hop', 320), ('window', 320)):
    other = label(tmp_path / name, source, **{name: value})
    with pytest.raises(InputError, match=f'{name}.* {value}: label sets of one run'):
      train_batches(source, batch_size=4, fields=make(dict(units=[units, other])))
  with pytest.raises(InputError, match='8000 Hz, but the data are read at 16000 Hz'):
    train_batches(source, batch_size=4, fields=make(dict(units=str(tmp_path / 'rate'))))
  with pytest.raises(InputError, match=r'covers 400 samples, .* batches have 320'):
    train_batches(source, batch_size=4, seconds=0.02, fields=make(dict(units=units)))
  with pytest.raises(InputError, match='is not a folder of units'):
    train_batches(source, batch_size=4, fields=make(dict(units=str(tmp_path / 'nothing'))))


def test_crops_without_units_need_no_grid(make_source):
  source = make_source([0.5])
  starts = set()
  clip = decode(source[0], sample_rate=16_000)
  for batch in take(train_batches(source, batch_size=1, seconds=0.1), 20):
    assert 'units' not in batch
    view = np.lib.stride_tricks.sliding_window_view(clip, 1600)
    starts.add(int(np.flatnonzero((view == batch['audio'][0]).all(axis=1))[0]))
  assert any(start % HOP for start in starts)


# ---------------------------------------------------------------------------------------------
# Noise clips.


@pytest.fixture
def hum(tmp_path, write):
  """Twenty clips of 0.05 to 1 s, in no other source."""
  paths = [f'{i:02d}.flac' for i in range(20)]
  for i, path in enumerate(paths):
    write(tmp_path / 'hum' / path, 0.05 * (i + 1), seed=100 + i)
  return Source(Table('hum', paths, {}, Files(str(tmp_path / 'hum'), paths)))


# Batches of six clips of 0.4 s, or twelve shorter ones.
SECONDS = {'buckets': [0.1, 0.2, 0.4], 'batch_seconds': 2.4, 'batch_multiple': 6}


@pytest.mark.parametrize('options', [{'seconds': 0.3}, {'buckets': [0.1, 0.2, 0.4]}, SECONDS])
def test_noise_comes_with_the_clips(make_source, hum, options):
  source = make_source(LENGTHS)
  settings = {'batch_size': 12, 'seed': 1, **options}
  noisy = {**settings, 'fields': make(dict(noise=hum))}
  plain = take(train_batches(source, **settings), 10)
  whole = take(train_batches(source, **noisy), 10)
  clips = [decode(clip, sample_rate=16_000) for clip in hum]
  found, starts = set(), set()
  for without, batch in zip(plain, whole, strict=True):
    assert_equal({k: v for k, v in batch.items() if not k.startswith('noise')}, without)
    noise, mask = batch['noise'], batch['noise_mask']
    assert noise.shape == mask.shape == batch['audio'].shape and noise.dtype == np.float32
    # Eight rows share a clip.
    for rows in (slice(0, 8), slice(8, 12))[: 1 + (len(noise) > 8)]:
      assert (noise[rows] == noise[rows][0]).all() and (mask[rows] == mask[rows][0]).all()
    for row in range(0, len(noise), 8):
      n = mask[row].sum()
      assert mask[row, :n].all() and not noise[row, n:].any()
      for i, clip in enumerate(clips):
        view = np.lib.stride_tricks.sliding_window_view(clip, min(n, len(clip)))
        at = np.flatnonzero((view == noise[row, : view.shape[1]]).all(axis=1))
        if len(at):
          assert n == min(len(clip), noise.shape[1])
          found.add(i)
          starts.add(int(at[0]))
  # Six rows share one noise clip, twelve have two.
  assert len(found) > (6 if options is SECONDS else 8) and len(starts) > 5
  # Resumed, and split over processes.
  rest = take(
    train_batches(source, **noisy, num_threads=0),
    4,
    {'next_index': 6},
  )
  for count in (2, 3):
    parts = [
      take(
        train_batches(source, **noisy, process_index=i, process_count=count),
        10,
      )
      for i in range(count)
    ]
    for g, batch in enumerate(whole):
      assert_equal(concatenated([p[g] for p in parts]), batch)
      if g >= 6:
        assert_equal(rest[g - 6], batch)


def test_bad_noise_is_replaced_and_listed(make_source, hum, tmp_path):
  source = make_source(LENGTHS)
  spoil(hum, 2, 11, 17)
  settings = {'batch_size': 4, 'seconds': 0.2, 'fields': make(dict(noise=hum))}
  bad = BadFiles(tmp_path / 'run/bad_files.jsonl', 0.5)
  for batch in take(train_batches(source, **settings, bad_files=bad), 30):
    assert batch['noise_mask'].any(axis=1).all()
  assert not len(bad)
  listed = (tmp_path / 'run/bad_noise.jsonl').read_text().splitlines()
  assert {json.loads(line)['id'] for line in listed} <= {'02.flac', '11.flac', '17.flac'}
  strict = BadFiles(tmp_path / 'other/bad_files.jsonl', 0.0)
  with pytest.raises(InputError, match=r'Too many bad audio files.*bad_noise\.jsonl'):
    take(train_batches(source, **settings, bad_files=strict), 30)
  a = train_batches(source, **settings)
  b = train_batches(source, **{**settings, 'fields': ()})
  c = train_batches(source, **{**settings, 'fields': make(dict(noise=hum.select(range(5))))})
  assert len({a.signature, b.signature, c.signature}) == 3

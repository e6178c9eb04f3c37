"""Units on disk: written, read by clip id, and checked."""

import json
import tracemalloc

import numpy as np
import pytest

from research.audio.units import Units, Writer, save
from research.errors import InputError

ABOUT = dict(clusters=300, sample_rate=16_000, hop=320, window=400, fingerprint='ab12')


def test_units_come_back(tmp_path):
  given = {'a/1': np.array([3, 299, 0]), 'b 2': np.zeros(0, int), 'c': np.arange(5)}
  save(tmp_path / 'units', list(given), given.values(), ABOUT)
  units = Units.open(tmp_path / 'units')
  assert len(units) == 3 and 'b 2' in units and 'd' not in units
  for clip, codes in given.items():
    np.testing.assert_array_equal(units[clip], codes)
  assert (units.clusters, units.rate) == (300, 50.0)
  assert [units.frames(n) for n in (399, 400, 719, 720)] == [0, 1, 1, 2]
  assert np.load(tmp_path / 'units' / 'codes.npy').dtype == np.uint16
  save(tmp_path / 'few', ['a'], [np.array([99])], {**ABOUT, 'clusters': 100})
  assert np.load(tmp_path / 'few' / 'codes.npy').dtype == np.uint8


def test_ids_may_be_any_file_name(tmp_path):
  ids = ['a\u2028b', 'c\rd', 'e\x0cf', 'g\udce9h']  # other line separators, and Latin-1
  save(tmp_path / 'units', ids, [np.array([i]) for i in range(4)], ABOUT)
  units = Units.open(tmp_path / 'units')
  assert [units[name].tolist() for name in ids] == [[0], [1], [2], [3]]


def test_clips_too_short_for_any_unit(tmp_path):
  save(tmp_path / 'units', ['a', 'b'], [np.zeros(0, int)] * 2, ABOUT)
  units = Units.open(tmp_path / 'units')
  assert len(units) == 2 and not len(units['a']) and units.count(1) == 0


def test_parts_of_clips(tmp_path):
  save(tmp_path / 'units', ['a', 'b'], [np.arange(5), np.arange(10, 13)], ABOUT)
  units = Units.open(tmp_path / 'units')
  assert units.rows(['b', 'c', 'a']).tolist() == [1, -1, 0]
  assert [units.count(row) for row in (0, 1)] == [5, 3]
  assert units.part(0, 1, 3).tolist() == [1, 2, 3]
  # Never units of the next clip.
  assert units.part(0, 3, 9).tolist() == [3, 4] and not len(units.part(0, 7, 9))


@pytest.mark.parametrize(
  'ids, codes, message',
  [
    (['a', 'a'], [[0], [1]], 'unique clip ids'),
    (['a'], [[0], [1]], '1 ids, .* 2 clips'),
    (['a'], [[300]], 'but there are 300'),
    (['a'], [[-1]], 'from -1'),
  ],
)
def test_what_cannot_be_written(tmp_path, ids, codes, message):
  with pytest.raises(InputError, match=message):
    save(tmp_path / 'units', ids, map(np.array, codes), ABOUT)
  assert not (tmp_path / 'units').exists()


def test_codes_are_not_all_held_in_memory(tmp_path):
  def peak(clips):
    codes = (np.full(100_000, i % 300) for i in range(clips))
    tracemalloc.start()
    save(tmp_path / f'{clips}', [f'{i}' for i in range(clips)], codes, ABOUT)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found

  few, many = peak(5), peak(50)
  assert many < 1.1 * few
  units = Units.open(tmp_path / '50')
  assert len(units.codes) == 5_000_000 and (units['49'] == 49).all()


def test_codes_may_come_in_any_order(tmp_path):
  given = [np.array([3, 299]), np.array([7]), np.zeros(0, int), np.array([1, 2, 3])]
  save(tmp_path / 'once', list('abcd'), given, ABOUT)
  with Writer(tmp_path / 'parts', 300) as writer:
    writer.put(3, np.array([1, 2, 3]))
    writer.put(0, np.array([3]))
    writer.put(1, np.array([299, 7]))
    assert not (tmp_path / 'parts').exists()
    writer.finish(list('abcd'), np.array([2, 1, 0, 3]), ABOUT)
  for name in ('codes.npy', 'offsets.npy', 'ids.txt', 'about.json'):
    assert (tmp_path / 'parts' / name).read_bytes() == (tmp_path / 'once' / name).read_bytes()
  # As numpy writes it.
  np.save(tmp_path / 'flat.npy', np.concatenate(given).astype(np.uint16))
  assert (tmp_path / 'once' / 'codes.npy').read_bytes() == (tmp_path / 'flat.npy').read_bytes()


def test_an_unfinished_folder_is_removed(tmp_path):
  with pytest.raises(KeyboardInterrupt), Writer(tmp_path / 'units', 300) as writer:
    writer.put(0, np.array([1]))
    raise KeyboardInterrupt
  promise = pytest.raises(ValueError, match='counts add up to 3 units, but 2 were written')
  with promise, Writer(tmp_path / 'units', 300) as writer:
    writer.put(0, np.array([1, 2]))
    writer.finish(['a'], np.array([3]), ABOUT)
  assert not list(tmp_path.iterdir())


def test_read_errors(tmp_path):
  with pytest.raises(InputError, match=r'about\.json, codes.npy'):
    Units.open(tmp_path)
  save(tmp_path / 'units', ['clip_a'], [np.array([1, 2])], ABOUT)
  with pytest.raises(InputError, match='exists already'):
    save(tmp_path / 'units', ['clip_a'], [np.array([1, 2])], ABOUT)
  with pytest.raises(InputError, match=r'clip_b.*clip_a'):
    Units.open(tmp_path / 'units')['clip_b']
  about = tmp_path / 'units' / 'about.json'
  about.write_text(json.dumps({'clusters': 3}))
  with pytest.raises(InputError, match='sample_rate, hop, window, fingerprint'):
    Units.open(tmp_path / 'units')
  about.write_text(json.dumps(ABOUT))
  for wrong in (dict(hop=0), dict(window=25.0), dict(clusters='500')):
    about.write_text(json.dumps({**ABOUT, **wrong}))
    with pytest.raises(InputError, match='expected a whole number above 0'):
      Units.open(tmp_path / 'units')
  about.write_text('3')
  with pytest.raises(InputError, match='lacks clusters'):
    Units.open(tmp_path / 'units')
  about.write_text(json.dumps(ABOUT))
  for name in ('codes', 'offsets'):
    good = np.load(tmp_path / f'units/{name}.npy')
    np.save(tmp_path / f'units/{name}.npy', good.astype(np.float32))
    with pytest.raises(
      InputError, match=rf'{name}.npy has dtype float32 and shape \({len(good)},\)'
    ):
      Units.open(tmp_path / 'units')
    np.save(tmp_path / f'units/{name}.npy', good)
  np.save(tmp_path / 'units' / 'offsets.npy', np.array([0, 3]))
  with pytest.raises(InputError, match='codes, which do not match'):
    Units.open(tmp_path / 'units')


def test_codes_above_the_number_of_clusters(tmp_path):
  save(tmp_path / 'units', ['a', 'b'], [np.array([1, 2]), np.array([0, 3])], ABOUT)
  np.save(tmp_path / 'units' / 'codes.npy', np.array([1, 2, 0, ABOUT['clusters']], np.uint16))
  units = Units.open(tmp_path / 'units')
  np.testing.assert_array_equal(units['a'], [1, 2])
  clusters = ABOUT['clusters']
  with pytest.raises(InputError, match=rf"'b' of .* has unit {clusters}, .* {clusters} clusters"):
    units['b']

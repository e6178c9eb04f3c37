"""Splits are complete, disjoint, reproducible and described in words."""

import numpy as np
import pytest

from research.audio.clips import Files, Source, Table
from research.errors import InputError
from research.evals import splits


def source(count, **columns):
  paths = [f'{i:03d}.wav' for i in range(count)]
  groups = columns.pop('splits', {})
  return Source(Table('made', paths, columns, Files('/nowhere', paths), splits=groups))


def check(made, count):
  """Checks that every part has clips, no clip is in two parts and every row exists."""
  for fold in made.folds:
    rows = np.concatenate(fold.rows())
    assert len(set(rows.tolist())) == len(rows) <= count
    assert all(len(r) for r in fold.rows())


def test_each_fold_is_tested_once_and_the_next_is_validation():
  fold = [str(1 + i % 5) for i in range(100)]
  made = splits.make(source(100, fold=fold), np.arange(100) % 10, kind='fold')
  check(made, 100)
  assert len(made.folds) == 5
  values = np.array(fold)
  for i, part in enumerate(made.folds):
    assert set(values[part.test]) == {str(i + 1)}
    assert set(values[part.validation]) == {str((i + 1) % 5 + 1)}
    assert len(part.train) == 60
    assert not set(values[part.train]) & (set(values[part.test]) | set(values[part.validation]))
  tested = np.sort(np.concatenate([f.test for f in made.folds]))
  np.testing.assert_array_equal(tested, np.arange(100))
  assert 'column fold: 5 folds' in made.origin


def test_ten_folds_are_in_numeric_order_and_clips_without_a_fold_only_train():
  fold = [str(1 + i % 10) for i in range(50)] + [''] * 3
  made = splits.make(source(53, fold=fold), np.zeros(53, int), kind='fold')
  assert {fold[r] for r in made.folds[9].test} == {'10'}
  for part in made.folds:
    assert {50, 51, 52} <= set(part.train.tolist())
  assert '3 clips without a fold are always in train' in made.origin


def test_columns_that_are_not_used_are_named():
  def origin(**columns):
    return splits.make(source(40, **columns), np.arange(40) % 2).origin

  both = origin(split=['train'] * 30 + ['test'] * 10, fold=['1', '2'] * 20)
  assert both.startswith('column split') and both.endswith('; its column fold is not used')
  assert 'is not used' not in origin(fold=['1', '2'] * 20)
  for columns, why in (
    (dict(split=['train'] * 30 + ['valid'] * 10), 'split (train, valid) has no train or no test'),
    (dict(fold=['1'] * 40), 'fold (1) has fewer than two folds'),
  ):
    text = origin(**columns)
    assert text.startswith('seeded, stratified') and f'its column {why}' in text


def test_two_folds_validate_on_part_of_train():
  made = splits.make(source(40, fold=['a', 'b'] * 20), np.arange(40) // 2 % 2, kind='fold')
  check(made, 40)
  assert [len(f.validation) for f in made.folds] == [2 * round(0.15 * 10)] * 2


def test_published_splits_are_taken_as_they_are():
  names = ['training'] * 6 + ['dev'] * 2 + ['eval'] * 3 + ['other']
  made = splits.make(source(12, split=names), np.zeros(12, int))
  part = made.folds[0]
  assert (part.train.tolist(), part.validation.tolist(), part.test.tolist()) == (
    [0, 1, 2, 3, 4, 5], [6, 7], [8, 9, 10],
  )  # fmt: skip
  assert made.origin == 'column split' and made.published_validation


def test_validation_is_taken_from_train_where_there_is_none():
  names = ['train'] * 80 + ['test'] * 20
  strata = np.arange(100) % 4
  made = splits.make(source(100, split=names), strata)
  check(made, 100)
  part = made.folds[0]
  assert part.test.tolist() == list(range(80, 100))
  assert np.bincount(strata[part.validation]).tolist() == [3, 3, 3, 3]
  assert '15% of train, stratified, seed 0' in made.origin and not made.published_validation


def test_groups_of_a_data_set_and_own_names():
  names = ['balanced', 'unbalanced', 'eval'] * 10
  groups = {'train': ('balanced', 'unbalanced')}
  strata = np.zeros(30, int)
  whole = source(30, split=names, splits=groups)
  parts = {'train': ('train',), 'validation': (), 'test': ('eval',)}
  made = splits.make(whole, strata, kind='split', names=parts).folds[0]
  assert len(made.test) == 10 and len(made.train) + len(made.validation) == 20
  small = {'train': ('balanced',), 'validation': (), 'test': ('eval',)}
  made = splits.make(whole, strata, kind='split', names=small).folds[0]
  assert len(made.train) + len(made.validation) == 10


def test_a_seeded_split_is_stratified_and_described():
  strata = np.repeat(np.arange(5), 20)
  made = splits.make(source(100, label=[str(s) for s in strata]), strata)
  check(made, 100)
  part = made.folds[0]
  assert np.bincount(strata[part.test]).tolist() == [3] * 5
  assert np.bincount(strata[part.validation]).tolist() == [3] * 5
  assert made.origin.startswith('seeded, stratified 70%/15%/15%')


def test_a_seeded_split_separates_speakers():
  speakers = [f's{i % 20:02d}' for i in range(400)]
  strata = np.arange(400) // 20 % 4
  made = splits.make(source(400, speaker=speakers), strata)
  check(made, 400)
  assert made.origin.startswith('seeded, by speaker')
  sets = [{speakers[r] for r in rows} for rows in made.folds[0].rows()]
  assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]


def test_speakers_that_are_the_classes_are_not_separated():
  speakers = [f's{i % 20:02d}' for i in range(400)]
  made = splits.make(source(400, speaker=speakers), np.arange(400) % 20)
  assert made.origin.startswith('seeded, stratified')
  assert len({speakers[r] for r in made.folds[0].train}) == 20


def test_a_seeded_split_by_another_column_and_with_other_fractions():
  presets = [f'p{i % 50:02d}' for i in range(500)]
  strata = np.arange(500) // 50
  settings = splits.Seeded(group='preset', validation=0.1, test=0.1)
  made = splits.make(source(500, preset=presets), strata, seeded=settings)
  check(made, 500)
  assert made.origin == 'seeded, by preset 80%/10%/10%, seed 0'
  sets = [{presets[r] for r in rows} for rows in made.folds[0].rows()]
  assert [len(s) for s in sets] == [40, 5, 5]
  assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
  settings = splits.Seeded(group='preset', validation=0.1, test=0.2)
  stratified = splits.make(source(500), strata, seeded=settings)
  assert stratified.origin == 'seeded, stratified 70%/10%/20%, seed 0'
  assert [len(r) for r in stratified.folds[0].rows()] == [350, 50, 100]


def test_seeded_folds_of_speakers_are_leave_one_out_and_of_few_groups_stratified():
  # Six speakers of unequal numbers of clips: a fold each. Of four folds the sizes are balanced.
  speakers = [name for name, count in zip('abcdef', (30, 10, 20, 20, 10, 10)) for _ in range(count)]
  strata = np.arange(100) % 5
  made = splits.make(source(100, speaker=speakers), strata, seeded=splits.Seeded(folds=6))
  assert sorted(len(f.test) for f in made.folds) == [10, 10, 10, 20, 20, 30]
  for fold in made.folds:
    assert len({speakers[r] for r in fold.test}) == 1
    train, validation, test = ({speakers[r] for r in rows} for rows in fold.rows())
    assert len(train) == 4 and not train & validation and not train & test
  assert made.origin == 'seeded: 6 folds by speaker, each tested once, seed 0'
  four = splits.make(source(100, speaker=speakers), strata, seeded=splits.Seeded(folds=4))
  assert sorted(len(f.test) for f in four.folds) == [20, 20, 30, 30]
  for other in (dict(seeded=splits.Seeded(folds=7)), dict(seeded=splits.Seeded(folds=3))):
    # Too few speakers, and speakers that are the classes.
    classes = np.unique(speakers, return_inverse=True)[1] if other['seeded'].folds == 3 else strata
    back = splits.make(source(100, speaker=speakers), classes, **other)
    assert 'stratified folds' in back.origin


def test_seeded_folds_are_stratified_and_each_clip_is_tested_once():
  strata = np.repeat(np.arange(4), [10, 11, 12, 14])
  made = splits.make(source(47), strata, seeded=splits.Seeded(folds=5))
  check(made, 47)
  assert made.origin == 'seeded: 5 stratified folds, each tested once, seed 0'
  tested = np.concatenate([f.test for f in made.folds])
  np.testing.assert_array_equal(np.sort(tested), np.arange(47))
  for i, part in enumerate(made.folds):
    assert len(part.test) in (9, 10)
    counts = np.bincount(strata[part.test], minlength=4)
    assert np.all(np.abs(counts - np.bincount(strata) / 5) < 1)
    np.testing.assert_array_equal(part.validation, made.folds[(i + 1) % 5].test)


def test_the_fingerprint_is_of_the_clips():
  strata = np.arange(60) % 3
  one = splits.make(source(60), strata)
  assert one.fingerprint == splits.make(source(60), strata).fingerprint
  assert one.fingerprint != splits.make(source(60), strata[::-1].copy()).fingerprint
  assert one.fingerprint != splits.make(source(60).select(np.arange(60)[::-1]), strata).fingerprint


def test_rows_that_are_missing_are_left_out_of_every_part():
  part = splits.Split(np.array([0, 1]), np.array([2, 3]), np.array([4, 5]))
  kept = part.only(np.array([True, False, True, True, False, True]))
  assert [r.tolist() for r in kept.rows()] == [[0], [2, 3], [5]]


@pytest.mark.parametrize(
  'columns, kind, message',
  [
    (dict(fold=['1'] * 9), 'fold', 'two folds or more'),
    (dict(split=['train'] * 9), 'split', r"its column .split. holds \['train'\]"),
    ({}, 'split', 'needs clips in the splits'),
  ],
)
def test_what_cannot_be_split_is_refused(columns, kind, message):
  with pytest.raises(InputError, match=message):
    splits.make(source(9, **columns), np.zeros(9, int), kind=kind)


def test_segments_of_one_recording_stay_together(tmp_path, caplog):
  from research.audio.sources import open_source

  def made(recordings):
    rows = [f'r{i % recordings}.wav,{i},{i + 1},{"ab"[i // recordings % 2]}' for i in range(48)]
    (tmp_path / 'list.csv').write_text('\n'.join(['path,start,end,label', *rows]) + '\n')
    found = open_source(str(tmp_path / 'list.csv'))
    strata = np.array([v == 'b' for v in found.column('label')]).astype(int)
    return found, splits.make(found, strata)

  found, parted = made(8)
  check(parted, len(found))
  whose = found.recordings()
  train, validation, test = (set(whose[rows].tolist()) for rows in parted.folds[0].rows())
  assert not train & (validation | test) and not validation & test
  assert parted.origin.startswith('seeded, by recording')
  # One recording cannot be divided otherwise; that is said.
  _, parted = made(1)
  assert 'segments of one recording are in several parts' in parted.origin
  assert 'scores will be too good' in caplog.text

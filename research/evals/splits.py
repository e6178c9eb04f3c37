"""Disjoint training, validation and test rows of a task."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from research.errors import InputError

# Accepted values of a `split` column for each part.
NAMES: Mapping[str, tuple[str, ...]] = {
  'train': ('train', 'training', 'tr'),
  'validation': ('valid', 'validation', 'val', 'dev'),
  'test': ('test', 'testing', 'eval', 'evaluation'),
}
SEED = 0
VALIDATION_FRACTION, TEST_FRACTION = 0.15, 0.15


@dataclasses.dataclass(frozen=True)
class Split:
  """Rows of one fold, as disjoint int arrays."""

  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray

  def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(train, validation, test)."""
    return self.train, self.validation, self.test

  def only(self, kept: np.ndarray) -> 'Split':
    """The split without rows where `kept` is False."""
    return Split(*(r[kept[r]] for r in self.rows()))


@dataclasses.dataclass(frozen=True)
class Splits:
  """The folds of a task; a fixed split is a single fold.

  Attributes:
    folds: train, validation and test rows of each.
    origin: one phrase that describes how the clips were split.
    fingerprint: hash of the ids in every part, equal on every machine.
    published_validation: the data set defines the validation rows. Otherwise they are drawn from
      the training rows, and may be used for a final refit.
  """

  folds: tuple[Split, ...]
  origin: str
  fingerprint: str
  published_validation: bool


@dataclasses.dataclass(frozen=True)
class Seeded:
  """Settings of a seeded random split, used when the data set publishes none.

  Attributes:
    group: column whose values must not cross parts, used if it is known for every clip and every
      class is left in training.
    validation: fraction of the clips for validation.
    test: fraction of the clips for test.
    folds: number of folds, each tested once; 0 for a single split. They are of whole groups where
      these can be used, else stratified.
  """

  group: str = 'speaker'
  validation: float = VALIDATION_FRACTION
  test: float = TEST_FRACTION
  folds: int = 0


def make(
  source: Any,
  strata: np.ndarray,
  *,
  kind: str = 'auto',
  names: Mapping[str, Sequence[str]] | None = None,
  seeded: Seeded | None = None,
) -> Splits:
  """The splits of a source.

  Args:
    source: clips.
    strata: int [n], the class of each clip (any one class of a multi-label clip).
    kind: 'split' (column split), 'fold' (column fold), 'seeded' (random), or 'auto': the first of
      these that the source supports.
    names: part -> values of the column `split`, if they differ from NAMES.
    seeded: settings of a seeded split; None for `Seeded()`.

  Raises:
    InputError: the column is missing or empty, or a part would be empty.
  """
  remark = ''
  if kind == 'auto':
    usable = [k for k in ('split', 'fold') if _usable(source, k, names)]
    kind = usable[0] if usable else 'seeded'
    remark = _unused_columns(source, kind, usable)
  if kind == 'seeded':
    folds, origin = _seeded(source, strata, seeded or Seeded())
  else:
    folds, origin = {'split': _by_split, 'fold': _by_fold}[kind](source, strata, names or {})
  for number, fold in enumerate(folds):
    for part, rows in zip(NAMES, fold.rows()):
      if not len(rows):
        raise InputError(
          f'Task data {source.name!r} ({origin}): fold {number} has no {part} clips. Provide a few '
          'clips of every class for each of training, validation and test.'
        )
  published = kind == 'split' and bool(len(_part(source, 'validation', names or {})))
  return Splits(tuple(folds), origin + remark, _fingerprint(source, folds), published)


def _unused_columns(source: Any, kind: str, usable: Sequence[str]) -> str:
  """Remark on split and fold columns that are present but not used."""
  remarks = []
  for name, lack in (('split', 'no train or no test clips'), ('fold', 'fewer than two folds')):
    held = sorted(set(_values(source, name)) - {''})
    if name == kind or not held:
      continue
    values = ', '.join(held[:5]) + (' …' if len(held) > 5 else '')
    if name in usable:
      remarks.append(f'; its column {name} is not used')
    else:
      remarks.append(f'; its column {name} ({values}) has {lack} and is not used')
  return ''.join(remarks)


def from_clip_list(source: Any, listed: Mapping[str, Any]) -> Splits:
  """The splits of a clip list (`clip_lists.py`), for those of its clips that are present.

  Raises:
    InputError: a part has no clips.
  """
  row = {source.id(i): i for i in range(len(source))}
  folds = []
  for number, parts in enumerate(listed['parts']):
    found: list[list[int]] = [[], [], []]
    for name, part in zip(listed['ids'], parts):
      if part >= 0 and name in row:
        found[part].append(row[name])
    for part, rows in zip(NAMES, found):
      if not rows:
        raise InputError(
          f'Task data {source.name!r} has none of the {part} clips of fold {number} in the clip '
          'list. Check that the data and the list belong together.'
        )
    folds.append(Split(*(np.array(sorted(rows)) for rows in found)))
  return Splits(
    tuple(folds), f'{listed["origin"]} (clip list)', _fingerprint(source, folds),
    bool(listed['published_validation']),
  )  # fmt: skip


def _fingerprint(source: Any, folds: Sequence[Split]) -> str:
  digest = hashlib.sha256()
  for fold in folds:
    for part, rows in zip(NAMES, fold.rows()):
      digest.update(f'{part} {[source.id(r) for r in rows]}'.encode(errors='surrogateescape'))
  return digest.hexdigest()[:16]


def _values(source: Any, name: str) -> np.ndarray:
  if name not in source.column_names:
    return np.full(len(source), '', object)
  return np.array([str(v) for v in source.column(name)], object)


def _part(source: Any, part: str, names: Mapping[str, Sequence[str]]) -> np.ndarray:
  """Rows whose split column names the part; data sets may define named groups of values."""
  groups = source.table.splits
  accepted = names.get(part, NAMES[part])
  wanted = {v for name in accepted for v in groups.get(name, (name,))}
  values = _values(source, 'split')
  return np.flatnonzero([str(v) in wanted for v in values])


def _usable(source: Any, kind: str, names: Mapping[str, Sequence[str]] | None) -> bool:
  if kind == 'split':
    return all(len(_part(source, part, names or {})) for part in ('train', 'test'))
  return len(set(_values(source, 'fold')) - {''}) > 1


def _by_split(source: Any, strata: np.ndarray, names: Mapping[str, Sequence[str]]):
  train, validation, test = (_part(source, part, names) for part in NAMES)
  if not len(train) or not len(test):
    found = sorted(set(_values(source, 'split')))
    raise InputError(
      f'Task data {source.name!r} needs clips in the splits {list(names or NAMES)}, but its column '
      f'"split" holds {found}.'
    )
  if len(validation):
    return [Split(train, validation, test)], 'column split'
  train, validation = _stratified(train, strata, VALIDATION_FRACTION)
  fraction = f'{VALIDATION_FRACTION:.0%}'
  return (
    [Split(train, validation, test)],
    f'column split; validation is {fraction} of train, stratified, seed {SEED}',
  )


def _by_fold(source: Any, strata: np.ndarray, names: Mapping[str, Sequence[str]]):
  """Cross-validation over a column: each fold is tested once, the next one is the validation set.

  Validation is a whole fold, so groups that do not cross folds do not cross parts either. Clips
  without a fold are training clips in every fold.
  """
  del names
  values = _values(source, 'fold')
  folds = sorted(set(values) - {''}, key=lambda v: (len(v), v))
  if len(folds) < 2:
    raise InputError(
      f'Task data {source.name!r} needs a column "fold" with two folds or more; it holds {folds}.'
    )
  made = _each_once(values, folds, strata)
  how = f'validation is {"the next fold" if len(folds) > 2 else "part of train"}'
  rest = int((values == '').sum())
  how += f'; {rest} clips without a fold are always in train' if rest else ''
  return made, f'column fold: {len(folds)} folds, each tested once; {how}'


def _each_once(values: np.ndarray, folds: Sequence[str], strata: np.ndarray) -> list[Split]:
  made = []
  for i, fold in enumerate(folds):
    test = np.flatnonzero(values == fold)
    rest = np.flatnonzero(values != fold)
    if len(folds) == 2:
      train, validation = _stratified(rest, strata, VALIDATION_FRACTION)
    else:
      following = values[rest] == folds[(i + 1) % len(folds)]
      train, validation = rest[~following], rest[following]
    made.append(Split(train, validation, test))
  return made


def _seeded(source: Any, strata: np.ndarray, seeded: Seeded):
  """A split by group if groups are known and every class is left in training, else stratified."""
  if seeded.folds:
    names, kind = [str(k) for k in range(seeded.folds)], f'folds by {seeded.group}'
    values = _deal_groups(_values(source, seeded.group), seeded.folds)
    made = [] if values is None else _each_once(values, names, strata)
    if not made or any(set(strata[fold.train]) != set(strata) for fold in made):
      kind = 'stratified folds'
      made = _each_once(_assign_folds(strata, seeded.folds), names, strata)
    return made, f'seeded: {seeded.folds} {kind}, each tested once, seed {SEED}'
  everything = np.arange(len(source))
  fractions = f'{1 - seeded.validation - seeded.test:.0%}/{seeded.validation:.0%}/{seeded.test:.0%}'
  by, remark = {seeded.group: _values(source, seeded.group)}, ''
  if source.table.segments is not None:
    by = {'recording': source.recordings().astype(str).astype(object)}
    remark = '; segments of one recording are in several parts'
  for name, values in by.items():
    groups = _groups(values, strata, seeded, fewest=3 if remark else 10)
    if groups is not None:
      test, validation, train = groups
      return [Split(train, validation, test)], f'seeded, by {name} {fractions}, seed {SEED}'
  if remark:
    logging.warning('%s: scores will be too good%s', source.name, remark)
  rest, test = _stratified(everything, strata, seeded.test)
  train, validation = _stratified(rest, strata, seeded.validation / (1 - seeded.test))
  return [Split(train, validation, test)], f'seeded, stratified {fractions}, seed {SEED}{remark}'


def _assign_folds(strata: np.ndarray, folds: int) -> np.ndarray:
  """Fold of each clip, '0', '1', …: the clips of each stratum, shuffled, go to folds in turn."""
  random = np.random.default_rng(SEED)
  values = np.empty(len(strata), object)
  start = 0  # Continues across strata, so that folds have equal sizes.
  for stratum in np.unique(strata):
    members = random.permutation(np.flatnonzero(strata == stratum))
    values[members] = [str((start + k) % folds) for k in range(len(members))]
    start += len(members)
  return values


def _deal_groups(groups: np.ndarray, folds: int) -> np.ndarray | None:
  """Fold of each clip, '0', '1', …: groups, the largest first, go to the smallest fold; None if
  some groups are unknown or there are fewer than folds."""
  names, counts = np.unique(groups, return_counts=True)
  if '' in names or len(names) < folds:
    return None
  order = np.random.default_rng(SEED).permutation(len(names))
  sizes = np.zeros(folds, int)
  values = np.empty(len(groups), object)
  for i in sorted(order, key=lambda i: -counts[i]):
    fold = int(np.argmin(sizes))
    values[groups == names[i]] = str(fold)
    sizes[fold] += counts[i]
  return values


def _stratified(rows: np.ndarray, strata: np.ndarray, fraction: float):
  """(kept, taken): takes `fraction` of each stratum, at least one clip if it has three or more."""
  random = np.random.default_rng(SEED)
  parts = []
  for stratum in np.unique(strata[rows]):
    members = random.permutation(rows[strata[rows] == stratum])
    count = round(fraction * len(members))
    if len(members) >= 3:
      count = min(max(count, 1), len(members) - 1)
    parts.append(members[:count])
  taken = np.sort(np.concatenate(parts)) if parts else rows[:0]
  return np.setdiff1d(rows, taken), taken


def _groups(groups: np.ndarray, strata: np.ndarray, seeded: Seeded, fewest: int):
  """(test, validation, train) without a common group, for instance speaker; None if some groups
  are unknown, there are fewer than `fewest`, or a class has no training clips."""
  names = np.unique(groups)
  if '' in names or len(names) < fewest:
    return None
  order = np.random.default_rng(SEED).permutation(names)
  sizes = np.cumsum([np.sum(groups == name) for name in order]) / len(groups)
  first = int(np.searchsorted(sizes, seeded.test)) + 1
  second = int(np.searchsorted(sizes, seeded.test + seeded.validation)) + 1
  second = max(second, first + 1)
  parts = [
    np.flatnonzero(np.isin(groups, chosen))
    for chosen in (order[:first], order[first:second], order[second:])
  ]
  if set(strata[parts[2]]) != set(strata):
    return None
  return parts

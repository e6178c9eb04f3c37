"""Which clips train a probe, which choose its settings, which are scored; never two at once."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.errors import InputError

# What a `split` column may call the three parts.
NAMES: Mapping[str, tuple[str, ...]] = {
  'train': ('train', 'training', 'tr'),
  'validation': ('valid', 'validation', 'val', 'dev'),
  'test': ('test', 'testing', 'eval', 'evaluation'),
}
SEED = 0
VALIDATION_SHARE, TEST_SHARE = 0.15, 0.15


@dataclasses.dataclass(frozen=True)
class Split:
  """Rows of one fold, as int arrays without a common row."""

  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray

  def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(train, validation, test)."""
    return self.train, self.validation, self.test

  def only(self, kept: np.ndarray) -> 'Split':
    """Without the rows whose `kept` is False."""
    return Split(*(r[kept[r]] for r in self.rows()))


@dataclasses.dataclass(frozen=True)
class Splits:
  """The folds of a task; a fixed split is a single fold.

  Attributes:
    folds: train, validation and test rows of each.
    origin: one sentence: where they come from.
    fingerprint: hash of the ids in every part, equal on every machine.
    published_validation: the data set itself sets the validation rows apart; else they are taken
      from the training rows, and may train in the end.
  """

  folds: tuple[Split, ...]
  origin: str
  fingerprint: str
  published_validation: bool


@dataclasses.dataclass(frozen=True)
class Ours:
  """How a split of ours is made, where nothing is published with the data.

  Attributes:
    group: column whose values stay in one part each, if it is known and says nothing of the class.
    validation: share of the clips that validates.
    test: share of the clips that is tested.
    folds: so many stratified folds, each tested once, instead of one split; 0 for one split.
  """

  group: str = 'speaker'
  validation: float = VALIDATION_SHARE
  test: float = TEST_SHARE
  folds: int = 0


def make(
  source: Any,
  strata: np.ndarray,
  *,
  kind: str = 'auto',
  names: Mapping[str, Sequence[str]] | None = None,
  ours: Ours | None = None,
) -> Splits:
  """The splits of a source.

  Args:
    source: clips.
    strata: int [n], the class of each clip (any class of a multi-label clip).
    kind: 'split' (column split), 'fold' (column fold), 'seeded' (ours), or 'auto': the first of
      these that the source has.
    names: part -> values of the column `split`, where they are not those of NAMES.
    ours: how a seeded split is made; None for `Ours()`.

  Raises:
    InputError: the column is missing or empty, or a part would be empty.
  """
  remark = ''
  if kind == 'auto':
    usable = [k for k in ('split', 'fold') if _usable(source, k, names)]
    kind = usable[0] if usable else 'seeded'
    remark = _left_alone(source, kind, usable)
  if kind == 'seeded':
    folds, origin = _seeded(source, strata, ours or Ours())
  else:
    folds, origin = {'split': _by_split, 'fold': _by_fold}[kind](source, strata, names or {})
  for number, fold in enumerate(folds):
    for part, rows in zip(NAMES, fold.rows()):
      if not len(rows):
        raise InputError(
          f'Task data {source.name!r} ({origin}): the {part} rows of fold {number} are '
          'empty: it takes a few clips of every class for each of training, validation and test.'
        )
  published = kind == 'split' and bool(len(_part(source, 'validation', names or {})))
  return Splits(tuple(folds), origin + remark, _fingerprint(source, folds), published)


def _left_alone(source: Any, kind: str, usable: Sequence[str]) -> str:
  """What is said of columns that could have split the clips, and did not."""
  said = []
  for name, lack in (('split', 'no train or no test clips'), ('fold', 'fewer than two folds')):
    held = sorted(set(_values(source, name)) - {''})
    if name == kind or not held:
      continue
    values = ', '.join(held[:5]) + (' …' if len(held) > 5 else '')
    if name in usable:
      said.append(f'; its column {name} is not used')
    else:
      said.append(f'; its column {name} ({values}) has {lack} and is not used')
  return ''.join(said)


def pinned(source: Any, listed: Mapping[str, Any]) -> Splits:
  """The splits that a list of `pins.py` holds, for the clips of it that are there.

  Raises:
    InputError: a part has no clip left.
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
          f'Task data {source.name!r}: no clip that is pinned as {part} of fold {number} is here.'
        )
    folds.append(Split(*(np.array(sorted(rows)) for rows in found)))
  return Splits(
    tuple(folds), f'{listed["origin"]} (pinned)', _fingerprint(source, folds),
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
  """Rows whose split column names that part; data sets may give groups of values a name."""
  groups = source.table.splits
  asked = names.get(part, NAMES[part])
  wanted = {v for name in asked for v in groups.get(name, (name,))}
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
  train, validation = _stratified(train, strata, VALIDATION_SHARE)
  share = f'{VALIDATION_SHARE:.0%}'
  return (
    [Split(train, validation, test)],
    f'column split; validation is {share} of train, stratified, seed {SEED}',
  )


def _by_fold(source: Any, strata: np.ndarray, names: Mapping[str, Sequence[str]]):
  """Each fold is tested once and the next one validates, so what folds keep apart stays apart.

  Clips without a fold train in every fold.
  """
  del names
  values = _values(source, 'fold')
  folds = sorted(set(values) - {''}, key=lambda v: (len(v), v))
  if len(folds) < 2:
    raise InputError(
      f'Task data {source.name!r} needs a column "fold" with two folds or more; it holds {folds}.'
    )
  made = _each_once(values, folds, strata)
  how = 'the next fold validates' if len(folds) > 2 else 'part of train validates'
  rest = int((values == '').sum())
  how += f'; {rest} clips without a fold always train' if rest else ''
  return made, f'column fold: {len(folds)} folds, each tested once; {how}'


def _each_once(values: np.ndarray, folds: Sequence[str], strata: np.ndarray) -> list[Split]:
  made = []
  for i, fold in enumerate(folds):
    test = np.flatnonzero(values == fold)
    rest = np.flatnonzero(values != fold)
    if len(folds) == 2:
      train, validation = _stratified(rest, strata, VALIDATION_SHARE)
    else:
      following = values[rest] == folds[(i + 1) % len(folds)]
      train, validation = rest[~following], rest[following]
    made.append(Split(train, validation, test))
  return made


def _seeded(source: Any, strata: np.ndarray, ours: Ours):
  """By speaker where speakers are known and say nothing about the class, else stratified."""
  if ours.folds:
    values = _dealt(strata, ours.folds)
    made = _each_once(values, [str(k) for k in range(ours.folds)], strata)
    return made, f'ours: {ours.folds} stratified folds, each tested once, seed {SEED}'
  everything = np.arange(len(source))
  shares = f'{1 - ours.validation - ours.test:.0%}/{ours.validation:.0%}/{ours.test:.0%}'
  if (groups := _groups(_values(source, ours.group), strata, ours)) is not None:
    test, validation, train = groups
    return [Split(train, validation, test)], f'ours, by {ours.group} {shares}, seed {SEED}'
  rest, test = _stratified(everything, strata, ours.test)
  train, validation = _stratified(rest, strata, ours.validation / (1 - ours.test))
  return [Split(train, validation, test)], f'ours, stratified {shares}, seed {SEED}'


def _dealt(strata: np.ndarray, folds: int) -> np.ndarray:
  """The fold of each clip, '0' …; the clips of a stratum are dealt out in a random order."""
  random = np.random.default_rng(SEED)
  values = np.empty(len(strata), object)
  start = 0  # Goes on from stratum to stratum, so that folds stay of one size.
  for stratum in np.unique(strata):
    members = random.permutation(np.flatnonzero(strata == stratum))
    values[members] = [str((start + k) % folds) for k in range(len(members))]
    start += len(members)
  return values


def _stratified(rows: np.ndarray, strata: np.ndarray, share: float):
  """(kept, taken): `share` of each stratum is taken, at least one clip where it has three."""
  random = np.random.default_rng(SEED)
  parts = []
  for stratum in np.unique(strata[rows]):
    members = random.permutation(rows[strata[rows] == stratum])
    count = round(share * len(members))
    if len(members) >= 3:
      count = min(max(count, 1), len(members) - 1)
    parts.append(members[:count])
  taken = np.sort(np.concatenate(parts)) if parts else rows[:0]
  return np.setdiff1d(rows, taken), taken


def _groups(speakers: np.ndarray, strata: np.ndarray, ours: Ours):
  """(test, validation, train) without a common speaker; None where that cannot be done well:
  unknown speakers, fewer than ten, or a class that the training speakers never say."""
  names = np.unique(speakers)
  if '' in names or len(names) < 10:
    return None
  order = np.random.default_rng(SEED).permutation(names)
  sizes = np.cumsum([np.sum(speakers == name) for name in order]) / len(speakers)
  first = int(np.searchsorted(sizes, ours.test)) + 1
  second = int(np.searchsorted(sizes, ours.test + ours.validation)) + 1
  second = max(second, first + 1)
  parts = [
    np.flatnonzero(np.isin(speakers, chosen))
    for chosen in (order[:first], order[first:second], order[second:])
  ]
  if set(strata[parts[2]]) != set(strata):
    return None
  return parts

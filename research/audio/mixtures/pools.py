"""Which clips a recipe draws from: speakers in one split only."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from research.audio.clips import Source
from research.audio.decode import decode
from research.audio.rows import ALSO_VALID, VALID
from research.errors import InputError

SPLITS = ('train', VALID, 'test')
# Fractions of the speakers (or recordings) where the data have no splits of their own.
_EDGES = (0.7, 0.82)

T = TypeVar('T')
# Split -> group (speaker or recording) -> rows of the source.
Pools = dict[str, dict[str, list[int]]]


def random(seed: int, *names: object) -> np.random.Generator:
  """A generator of its own for every purpose."""
  digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
  return np.random.default_rng(int.from_bytes(digest[:16], 'big'))


def by_speaker(
  source: Source, seed: int, *, shortest: float, speakers: int, sizes: Mapping[str, int]
) -> Pools:
  """Clips by split and speaker. The splits are those of the source if they share no speaker, else
  the speakers are divided by the seed, 70 : 12 : 18.

  Args:
    source: clips with a column `speaker`.
    seed: of the division.
    shortest: minimum length of a clip, seconds.
    speakers: minimum number of speakers in a split.
    sizes: split -> number of items that are wanted; those of 0 need no speakers.

  Raises:
    InputError: no speakers, or too few in a split.
  """
  if 'speaker' not in source.column_names:
    raise InputError(
      f'{source.name!r} has no column "speaker", which keeps the speakers of training and test '
      'apart: give a labels.csv with it, or a data set that has it.'
    )
  names = [str(v) for v in source.column('speaker')]
  rows = [r for r in np.flatnonzero(source.durations() >= shortest).tolist() if names[r]]
  pools = _divide(source, rows, names, seed)
  for split, wanted in sizes.items():
    found = len(pools[split])
    if wanted and found < speakers:
      raise InputError(
        f'{source.name!r} has {found} speakers with clips of {shortest:g} s or more for '
        f'{split!r}; {speakers} are needed: give data of more speakers, or {split}=0.'
      )
  return pools


def by_recording(source: Source, seed: int) -> Pools:
  """Clips of noise by split and recording; no recording is in two splits."""
  hashes = [f'{h:016x}' for h in source.recordings().tolist()]
  rows = np.flatnonzero(source.durations() > 0).tolist()
  names = hashes
  for column in ('src_file', 'source_file', 'recording'):
    # Of ESC: clips of one upload.
    if column in source.column_names:
      names = [str(v) or h for v, h in zip(source.column(column), hashes)]
      break
  pools = _divide(source, rows, names, seed)
  for split in SPLITS:
    if not pools[split]:
      raise InputError(f'{source.name!r} has {len(rows)} clips, too few for three splits of noise.')
  return pools


def _divide(source: Source, rows: Sequence[int], names: Sequence[str], seed: int) -> Pools:
  own = source.column('split') if 'split' in source.column_names else [''] * len(names)
  also = dict.fromkeys(ALSO_VALID, VALID)
  # Groups of splits, as LibriSpeech has them.
  also |= {own: s for s in SPLITS for own in source.table.splits.get(s, ())}
  splits = {names[r]: set[str]() for r in rows}
  for r in rows:
    splits[names[r]].add(also.get(str(own[r]), str(own[r])))
  apart = all(len(found) == 1 and found <= set(SPLITS) for found in splits.values())
  if apart and len({s for found in splits.values() for s in found}) == len(SPLITS):
    place = {name: next(iter(found)) for name, found in splits.items()}
  else:
    order = sorted(splits)
    random(seed, 'splits').shuffle(order)
    edges = [0, *(round(e * len(order)) for e in _EDGES), len(order)]
    place = {n: SPLITS[k] for k in range(3) for n in order[edges[k] : edges[k + 1]]}
  pools: Pools = {split: {} for split in SPLITS}
  for r in rows:
    pools[place[names[r]]].setdefault(names[r], []).append(r)
  return pools


def read(source: Source, row: int, sample_rate: int = 16000) -> np.ndarray:
  """The samples of a clip."""
  return decode(source[row], sample_rate=sample_rate)


def draw(rng: np.random.Generator, values: Sequence[T]) -> T:
  """One of some values."""
  return values[int(rng.integers(len(values)))]

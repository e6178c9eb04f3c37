"""SUPERB's speakers: identification and verification on VoxCeleb1."""

import os
import pathlib

import numpy as np

from research.audio import tables
from research.audio.clips import Source
from research.audio.datasets.superb.found import GAIN, Found
from research.audio.folder import Inside, find_audio
from research.errors import InputError

# The speakers of VoxCeleb1 are id10001 to id11251.
SPEAKERS = tuple(f'id{number}' for number in range(10001, 11252))
_PARTS = {'1': 'train', '2': 'valid', '3': 'test'}
_CLASS_LISTS = ('veri_test_class.txt', 'iden_split.txt')
TRIAL_LISTS = ('voxceleb1_test_v2.txt', 'veri_test2.txt', 'veri_test.txt')
_FOLDERS = ('dev/wav', 'test/wav', 'wav')
# Training clips of verification are longer than this, seconds.
SHORTEST = 2.0


def superb_sid(root: str, list: str | None = None) -> Source:
  """Speaker identification: VoxCeleb1 by its official list (s3prl/downstream/voxceleb1).

  Columns: split, speaker, video. The class of speaker idNNNNN is NNNNN - 10001, of 1251, whatever
  is on disk. Training crops are 8 s (seconds=8.0); valid and test clips are whole.

  Args:
    root: the folder.
    list: the list of '1 idNNNNN/VIDEO/N.wav' (1 train, 2 valid, 3 test); by default in the folder.

  Raises:
    InputError: no list, or a line that is none of it.
  """
  found = Found('superb_sid', pathlib.Path(root))
  inside = Inside(found.base)
  file = _list(found, list, _CLASS_LISTS, 'the list of splits')
  for number, line in tables.lines(file):
    part, _, path = line.partition(' ')
    where = f'{file}, line {number}'
    parts = inside(path.strip(), where).split('/')
    if part not in _PARTS or len(parts) != 3 or parts[0] not in _KNOWN:
      raise InputError(f'{where}: expected "1 idNNNNN/VIDEO/N.wav", found {line[:200]!r}.')
    place = _place(found.base, path.strip())
    columns = {'split': _PARTS[part], 'speaker': parts[0], 'video': parts[1]}
    found.add('/'.join(parts), place, {**columns})
  return found.source(label_sets={'speaker': SPEAKERS})


_KNOWN = frozenset(SPEAKERS)


def superb_asv(root: str, trials: str | None = None, shortest: float = SHORTEST) -> Source:
  """Speaker verification: VoxCeleb1 (s3prl/downstream/sv_voxceleb1), levels lowered by 3 dB.

  Columns: split (train: clips of dev/wav longer than `shortest`; test: clips of the trials),
  speaker, video. Classes are the folders of dev/wav in sorted order, 1211. s3prl also removes
  pauses and measures clips after that: give the folder that the recipe `voxceleb1` of
  `audio/mixtures` makes, or clips keep their pauses.
  Training crops are 8 s (seconds=8.0). There is no validation: see `trials`.

  Args:
    root: the folder.
    trials: the list of trials; by default in the folder.
    shortest: seconds.

  Raises:
    InputError: no clips, or a trial that is none.
  """
  found = Found('superb_asv', pathlib.Path(root))
  development, classes = found.base / 'dev' / 'wav', []
  if development.is_dir():
    classes = sorted(p.name for p in development.iterdir() if p.is_dir())
    for path in find_audio(development):
      speaker, _, rest = path.partition('/')
      columns = {'split': 'train', 'speaker': speaker, 'video': rest.split('/')[0]}
      found.add(path, development / path, {**columns})
  if trials is not None or any((found.base / n).is_file() for n in TRIAL_LISTS):
    tried = read_trials(root, trials)
    for path in dict.fromkeys(p for _, *pair in tried for p in pair):
      speaker, video = path.split('/')[:2]
      columns = {'split': 'test', 'speaker': speaker, 'video': video}
      found.add(f'test/{path}', _place(found.base, path, _FOLDERS[1:]), {**columns})
  source = found.source(gain=GAIN, label_sets={'speaker': tuple(classes)})
  training = np.array([split == 'train' for split in source.column('split')])
  long = np.ones(len(source), bool)
  if training.any() and shortest > 0:
    # Headers are read once and cached.
    long[training] = source.select(np.flatnonzero(training)).durations() > shortest
  return source.select(np.flatnonzero(long))


def read_trials(root: str, trials: str | None = None) -> list[tuple[bool, str, str]]:
  """The trials of verification: (same speaker, path, path). Ids of the clips of `superb_asv` are
  'test/PATH'.

  Args:
    root: the folder of VoxCeleb1.
    trials: the list, lines '1 PATH PATH' with paths below test/wav; by default in the folder.

  Raises:
    InputError: no list, or a line that is no trial.
  """
  found = Found('superb_asv', pathlib.Path(root))
  inside = Inside(found.base)
  file = _list(found, trials, TRIAL_LISTS, 'the list of trials')
  made = []
  for number, line in tables.lines(file):
    fields, where = line.split(), f'{file}, line {number}'
    if len(fields) != 3 or fields[0] not in ('0', '1') or not all('/' in f for f in fields[1:]):
      raise InputError(f'{where}: expected "1 PATH PATH" or "0 PATH PATH", found {line[:200]!r}.')
    first, second = (inside(path, where) for path in fields[1:])
    made.append((fields[0] == '1', first, second))
  return made


def _list(found: Found, given: str | None, names: tuple[str, ...], what: str) -> pathlib.Path:
  files = [pathlib.Path(os.path.expanduser(given))] if given else [found.base / n for n in names]
  file = next((f for f in files if f.is_file()), None)
  if file is None:
    raise found.lacks(files[0], what)
  return file


def _place(base: pathlib.Path, path: str, folders: tuple[str, ...] = _FOLDERS) -> pathlib.Path:
  """Where a clip lies: in the first folder that has its speaker."""
  speaker = path.split('/')[0]
  return next((base / f / path for f in folders if (base / f / speaker).is_dir()), base / path)

"""GTZAN genres and notes of the Surge synthesizer, as downloaded."""

import pathlib
import re

from research.audio import tables
from research.audio.clips import Source
from research.audio.datasets.tables import check_columns, read_rows, source
from research.audio.example import Value
from research.audio.folder import find_audio
from research.errors import InputError

# Possible parents of the ten genre folders; the original archive has genres/.
GENRES = ('genres', 'genres_original', 'Data/genres_original', '.')
_GTZAN = re.compile(r'([a-z]+)/\1\.(\d{5})')
_LISTS = {
  'train': 'train_filtered.txt', 'valid': 'valid_filtered.txt', 'test': 'test_filtered.txt',
}  # fmt: skip


def gtzan(root: str, lists: bool = True) -> Source:
  """GTZAN: genres/GENRE/GENRE.NNNNN.wav (or genres_original/, or .au), and lists of its split.

  The fault-filtered split (Kereliuk et al., arXiv 1507.04761) separates artists and excludes
  duplicates and distorted clips: 443, 197 and 290 of the 1000 clips. It is published separately, as
  {train,valid,test}_filtered.txt (github.com/jongpillee/music_dataset_split, GTZAN_split); put the
  files next to the genre folders or one folder above. Columns: label (the genre), split (empty for
  clips that are in no list).

  Args:
    root: the folder.
    lists: whether to read the lists; without them there is no column `split`.

  Raises:
    InputError: a list is missing, a clip is in two lists, or a file name is unexpected.
  """
  base = pathlib.Path(root)
  top = next((t for t in GENRES if next((base / t).glob('*/*.[0-9]*.*'), None)), '.')
  prefix = '' if top == '.' else f'{top}/'
  paths = {}
  for path in find_audio(base / top):
    name = path.rpartition('.')[0]
    if not _GTZAN.fullmatch(name):
      raise InputError(f'GTZAN in {root}: {prefix}{path} is not GENRE/GENRE.NNNNN.')
    paths[name] = path
  split = _gtzan_split(base, base / top) if lists else {}
  # Listed clips without a file stay rows, so that they count as bad files.
  paths |= {name: f'{name}.wav' for name in split if name not in paths}
  rows = []
  for name in sorted(paths):
    path = f'{prefix}{paths[name]}'
    columns: dict[str, Value] = {'label': name.split('/')[0]}
    rows.append((path, path, columns | ({'split': split.get(name, '')} if lists else {})))
  return source('gtzan', root, rows)


def _gtzan_split(base: pathlib.Path, genres: pathlib.Path) -> dict[str, str]:
  """GENRE/GENRE.NNNNN -> its split."""
  split: dict[str, str] = {}
  places = (base, genres, *([base.parent] if base.name in GENRES else []))
  for part, name in _LISTS.items():
    found = [f / name for f in places if (f / name).is_file()]
    if not found:
      raise InputError(
        f'GTZAN in {base} lacks {name}, the list of that split; it is in '
        'github.com/jongpillee/music_dataset_split (GTZAN_split). Without the three lists, '
        "args={'lists': False} reads the clips without a split."
      )
    for _, line in tables.lines(found[0]):
      clip = line.rpartition('.')[0]
      if not _GTZAN.fullmatch(clip):
        raise InputError(f'{found[0]}: {line!r} is not GENRE/GENRE.NNNNN.wav.')
      if split.setdefault(clip, part) != part:
        raise InputError(f'{found[0]}: {line} is also in {_LISTS[split[clip]]}.')
  return split


# EVAR evar/predefined: split of the 2084 presets, 1692 train, 195 valid and 197 test.
_TONES = 'dataset_surge_tone_splits.csv'


def surge(root: str) -> Source:
  """Notes of the Surge synthesizer (zenodo.org/record/4677097): PRESET-velocity64/NOTE.ogg.

  Columns: label (one of 88 MIDI note numbers), preset, and split if the folder has EVAR's
  dataset_surge_tone_splits.csv (tone, split); the data set has no published split.

  Raises:
    InputError: a file is not named by its note, or a preset is not in the table.
  """
  base = pathlib.Path(root)
  table, split = base / _TONES, {}
  if table.is_file():
    for row in read_rows(table):
      check_columns(table, row, 'tone', 'split')
      split[row['tone']] = row['split']
  rows = []
  for path in find_audio(base):
    preset, _, name = path.rpartition('/')
    note = name.rpartition('.')[0]
    if not preset or not re.fullmatch(r'\d{1,3}', note) or int(note) > 127:
      raise InputError(f'Surge in {root}: {path} is not PRESET/NOTE with a MIDI number, 0 to 127.')
    preset = preset.split('/')[-1]
    if split and preset not in split:
      raise InputError(f'{table} has no split for the preset {preset!r}.')
    columns: dict[str, Value] = {'label': str(int(note)), 'preset': preset}
    rows.append((path, path, columns | ({'split': split[preset]} if split else {})))
  return source('surge', root, rows)

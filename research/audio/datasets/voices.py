"""CREMA-D (emotions), VoxForge (languages) and LibriCount (speaker counts), as downloaded."""

import pathlib
import re

from research.audio.clips import Source
from research.audio.datasets.tables import check_columns, read_rows, source
from research.audio.example import Value
from research.audio.folder import find_audio
from research.errors import InputError

_EMOTIONS = ('ANG', 'DIS', 'FEA', 'HAP', 'NEU', 'SAD')
_CREMA_D = re.compile(r'(\d{4})_([A-Z]{3})_(ANG|DIS|FEA|HAP|NEU|SAD)_([A-Z]+)')
_ACTORS = range(1001, 1092)
# Validation and test actors of EVAR (github.com/nttcslab/eval-audio-repr,
# evar/metadata/cremad.csv); the other 63 are for training.
_VALID_ACTORS = (1009, 1011, 1022, 1034, 1039, 1047, 1066, 1070, 1082)
_TEST_ACTORS = (
  1001, 1004, 1017, 1019, 1020, 1025, 1026, 1029, 1033, 1035, 1042, 1044, 1050, 1053, 1056, 1058,
  1060, 1069, 1083,
)  # fmt: skip


def crema_d(root: str) -> Source:
  """CREMA-D (github.com/CheyneyComputerScience/CREMA-D): AudioWAV/ACTOR_SENTENCE_EMOTION_LEVEL.wav.

  Columns: label (ANG, DIS, FEA, HAP, NEU or SAD), speaker (the actor), sentence, level, split. The
  data set has no published split; `split` is EVAR's, by actor: 5155, 732 and 1551 of its 7438
  clips. The repository has 7442 clips; those that EVAR lacks are in the split of their actor.

  Raises:
    InputError: an unexpected file name, or an unknown actor.
  """
  rows = []
  for path in find_audio(pathlib.Path(root)):
    # The repository also has the same clips in AudioMP3/ and VideoFlash/.
    if path.count('/') > 1 or ('/' in path and not path.startswith('AudioWAV/')):
      continue
    found = _CREMA_D.fullmatch(pathlib.PurePath(path).stem)
    if not found or int(found[1]) not in _ACTORS:
      raise InputError(
        f'CREMA-D in {root}: {path} is not named ACTOR_SENTENCE_EMOTION_LEVEL, with an actor from '
        f'1001 to 1091 and an emotion of {", ".join(_EMOTIONS)}.'
      )
    actor = int(found[1])
    part = 'test' if actor in _TEST_ACTORS else 'valid' if actor in _VALID_ACTORS else 'train'
    columns: dict[str, Value] = {
      'label': found[3],
      'speaker': found[1],
      'sentence': found[2],
      'level': found[4],
      'split': part,
    }
    rows.append((path, path, columns))
  return source('crema_d', root, rows, label_sets={'label': _EMOTIONS})


_LANGUAGES = ('de', 'en', 'es', 'fr', 'it', 'ru')
# Name of the English part on the site.
_ENGLISH = 'SpeechCorpus'


def voxforge(root: str) -> Source:
  """VoxForge (voxforge.org), six languages: LANGUAGE/…/SUBMISSION/{wav,flac}/NAME.

  LANGUAGE is de, en (or SpeechCorpus, as on the site), es, fr, it or ru; other languages are left
  out. If the folder has EVAR's voxforge.csv (file_name, label, split), its rows are the clips.
  Columns: label (the language), submission (the folder of a contribution), speaker (name of the
  contributor; empty if anonymous), split (from voxforge.csv).

  Raises:
    InputError: no clips in folders of these languages, and no voxforge.csv.
  """
  base = pathlib.Path(root)
  table, rows = base / 'voxforge.csv', []
  if table.is_file():
    for row in read_rows(table):
      check_columns(table, row, 'file_name', 'label', 'split')
      rows.append(_voxforge(row['file_name'], row['label'], row['split']))
    return source('voxforge', root, rows, label_sets={'label': _LANGUAGES})
  for path in find_audio(base):
    parts = path.split('/')
    language = 'en' if parts[0] == _ENGLISH else parts[0]
    if language in _LANGUAGES and len(parts) > 3 and parts[-2] in ('wav', 'flac'):
      rows.append(_voxforge(path, language, ''))
  if not rows:
    raise InputError(
      f'VoxForge in {root}: no audio in LANGUAGE/…/SUBMISSION/wav/ with a language of '
      f'{", ".join(_LANGUAGES)}. Put the submissions of each language into a folder of that name, '
      "or add EVAR's voxforge.csv (file_name,label,split)."
    )
  return source('voxforge', root, rows, label_sets={'label': _LANGUAGES})


def _voxforge(path: str, language: str, split: str) -> tuple[str, str, dict[str, Value]]:
  parts = path.split('/')
  submission = parts[-3] if len(parts) > 2 else ''
  speaker = submission.split('-')[0]
  columns: dict[str, Value] = {
    'label': language,
    'submission': f'{language}/{submission}',
    'speaker': '' if speaker.lower() == 'anonymous' else speaker,
  }
  return path, path, columns | ({'split': split} if split else {})


_MAX_VOICES = 10


def libricount(root: str) -> Source:
  """LibriCount (zenodo.org/record/1216072): LibriCount10-0dB/test/COUNT_NAME.wav.

  Columns: label, the number of concurrent speakers, '0' to '10'. No published splits.

  Raises:
    InputError: an unexpected file name, or more speakers.
  """
  rows = []
  for path in find_audio(pathlib.Path(root)):
    count = re.match(r'(\d+)_', pathlib.PurePath(path).name)
    if not count or int(count[1]) > _MAX_VOICES:
      raise InputError(
        f'LibriCount in {root}: {path} is not named COUNT_NAME with a count from 0 to '
        f'{_MAX_VOICES}.'
      )
    columns: dict[str, Value] = {'label': str(int(count[1]))}
    rows.append((path, path, columns))
  classes = tuple(str(n) for n in range(_MAX_VOICES + 1))
  return source('libricount', root, rows, label_sets={'label': classes})

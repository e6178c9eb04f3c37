"""SUPERB's emotion recognition: IEMOCAP in five folds (s3prl/downstream/emotion)."""

import os
import pathlib
import re
from collections.abc import Iterator

from absl import logging

from research.audio import tables
from research.audio.clips import Source
from research.audio.datasets.superb.found import Found, on_disk
from research.audio.example import Value
from research.errors import InputError, unknown
from research.text import targets

LABELS = ('neu', 'hap', 'ang', 'sad')
_MERGED = {'exc': 'hap'}
FOLDS = (1, 2, 3, 4, 5)
TRAINING, CLIPS = 0.8, 5531
# The division into training and validation depends on the order of the list that s3prl published
# (meta_data/Session*/test_meta_data.json): the dialogs of each session, in the order of a folder.
_ORDER = {
  1: 'F_script02_2 F_impro07 F_script03_2 M_impro02 F_impro06 F_script01_3 M_script02_1 M_impro04 '
  'M_script01_1 F_impro01 F_script01_1 F_impro05 M_script01_2 M_script02_2 F_script02_1 '
  'M_script03_2 M_impro05 M_impro01 F_impro03 M_impro03 M_script01_3 F_script03_1 M_impro07 '
  'F_impro02 M_impro06 M_script03_1 F_impro04 F_script01_2',
  2: 'F_impro03 F_script03_2 M_script03_2 M_impro04 M_impro05 F_script02_1 F_script02_2 '
  'M_script02_2 M_impro08 M_impro07 F_script03_1 M_script01_3 F_impro06 F_impro01 F_impro04 '
  'F_script01_2 M_impro02 M_impro03 F_script01_3 F_impro05 F_script01_1 M_impro06 M_script02_1 '
  'F_impro08 F_impro02 M_script01_1 M_impro01 M_script01_2 M_script03_1 F_impro07',
  3: 'F_script02_1 M_impro04 M_script03_2 M_impro05b M_impro02 F_impro05 M_script02_2 M_impro08b '
  'F_impro07 M_script01_1 M_script02_1 M_impro05a M_impro07 M_script03_1 F_script03_1 M_impro01 '
  'F_script01_1 F_impro04 F_script02_2 F_script01_3 M_script01_3 M_impro06 F_impro01 F_impro03 '
  'M_script01_2 M_impro08a M_impro03 F_script03_2 F_script01_2 F_impro08 F_impro06 F_impro02',
  4: 'F_script03_1 F_impro01 M_script02_1 M_script02_2 F_script01_3 M_impro05 F_script02_1 '
  'F_impro07 F_impro02 F_impro03 M_impro02 F_script01_1 M_script01_1 F_script03_2 M_impro06 '
  'F_script02_2 M_impro01 M_impro04 F_impro05 F_script01_2 F_impro08 F_impro06 M_impro03 '
  'M_script01_3 M_script01_2 M_script03_1 M_script03_2 M_impro07 F_impro04 M_impro08',
  5: 'M_script01_3 F_impro04 M_script02_2 F_script01_3 F_script01_2 F_impro06 M_impro06 M_impro01 '
  'F_script03_1 F_impro07 F_script03_2 M_script01_1b F_impro05 M_script01_1 F_impro08 M_script03_1 '
  'M_impro05 F_impro01 F_impro02 M_impro03 F_script01_1 M_impro04 M_script02_1 F_impro03 '
  'F_script02_2 F_script02_1 M_script03_2 M_impro08 M_impro02 M_impro07 M_script01_2',
}  # fmt: skip


def superb_er(root: str, fold: int = 1) -> Source:
  """Emotion recognition: IEMOCAP, four emotions; `exc` counts as `hap`, others are left out.

  Columns: split, label, speaker, session, dialog. In fold k, session k is `test`; of the other
  four, 80 % are `train` and 20 % `valid`, the same clips as in s3prl where all 5531 are on disk.

  Args:
    root: the folder of Session1 to Session5.
    fold: 1 to 5; the score is the mean of the five.

  Raises:
    InputError: an unknown fold, or a session that is missing.
  """
  if fold not in FOLDS:
    raise unknown('fold of superb_er', fold, map(str, FOLDS))
  found = Found('superb_er', pathlib.Path(root))
  rows: list[tuple[int, str, pathlib.Path, dict[str, Value]]] = []
  for session in FOLDS:
    folder = found.base / f'Session{session}' / 'dialog' / 'EmoEvaluation'
    if not folder.is_dir():
      raise found.lacks(folder, 'the labels of a session')
    rows += [(session, *row) for row in _labelled(found, session, folder)]
  # Clips without audio have no place in the list that is divided.
  there = [row for row in rows if on_disk(row[2]) is not None]
  if len(there) != CLIPS:
    logging.warning(
      'superb_er in %s: %d clips, IEMOCAP has %d: the division into training and validation is not '
      'the published one.', found.base, len(there), CLIPS,
    )  # fmt: skip
  rest = [name for session, name, *_ in there if session != fold]
  training = {rest[i] for i in targets.random_split(len(rest), TRAINING)[0]}
  for session, name, path, columns in rows:
    split = 'test' if session == fold else 'train' if name in training else 'valid'
    found.add(name, path, {'split': split, **columns})
  return found.source(label_sets={'label': LABELS})


def _labelled(
  found: Found, session: int, folder: pathlib.Path
) -> Iterator[tuple[str, pathlib.Path, dict[str, Value]]]:
  """(utterance, path, columns) of a session, in the published order."""
  place = {f'Ses0{session}{d}': i for i, d in enumerate(_ORDER[session].split())}
  files = [p for p in folder.glob('*.txt') if not p.name.startswith('.')]
  for file in sorted(files, key=lambda p: (place.get(p.stem, len(place)), p.stem)):
    for number, line in tables.lines(file):
      if not line.startswith('['):
        continue
      fields = [f for f in re.split(r'[\t\n]', line) if f]
      if len(fields) < 3:
        raise InputError(
          f'{file}, line {number}: expected "[start - end]<TAB>utterance<TAB>label", found '
          f'{line[:200]!r}.'
        )
      name, label = fields[1].strip(), _MERGED.get(fields[2].strip(), fields[2].strip())
      if label not in LABELS:
        continue
      dialog = name.rsplit('_', 1)[0]
      if os.sep in name or name.startswith('.'):
        raise InputError(f'{file}, line {number}: {name!r} is no name of an utterance.')
      path = found.base / f'Session{session}' / 'sentences' / 'wav' / dialog / f'{name}.wav'
      # The voice that speaks is the last letter before the number.
      speaker = f'Ses0{session}{name.rsplit("_", 1)[-1][:1]}'
      yield name, path, {
        'label': label, 'speaker': speaker, 'session': str(session), 'dialog': dialog
      }  # fmt: skip

"""Tasks of HEAR 2021, as hear-preprocess writes them (github.com/hearbenchmark/hear-preprocess).

A task is a folder: task_metadata.json says what it is, labelvocabulary.csv (idx, label) its
classes, SPLIT.json (train, valid and test, or fold00, fold01, …) the labels of each file, and the
audio is RATE/SPLIT/FILE with the rate in Hz.
"""

import json
import pathlib
from typing import Any

from research.audio.clips import Source
from research.audio.datasets.tables import need, read_rows, source
from research.audio.example import Value
from research.errors import InputError

METADATA = 'task_metadata.json'
# The rate that is read if the folder has it, Hz: what models here listen at.
_RATE = 16000


def metadata(root: str | pathlib.Path) -> dict[str, Any]:
  """What task_metadata.json says, checked to be a task that whole clips are classified in.

  Raises:
    InputError: not such a file, or a task about timestamps (DCASE 2016, MAESTRO).
  """
  path = pathlib.Path(root) / METADATA
  found = _read_json(path)
  for name in ('task_name', 'embedding_type', 'prediction_type', 'split_mode', 'splits'):
    if not found.get(name):
      raise InputError(f'{path} does not say {name!r}; hear-preprocess writes it.')
  if found['embedding_type'] != 'scene':
    raise InputError(
      f'The HEAR task {found["task_name"]} is about timestamps (embedding_type '
      f'{found["embedding_type"]!r}), which are not scored here; only tasks of type "scene" are.'
    )
  if found['prediction_type'] not in ('multiclass', 'multilabel'):
    raise InputError(
      f'{path}: prediction_type {found["prediction_type"]!r} is neither multiclass nor multilabel.'
    )
  return found


def hear(root: str, rate: int | None = None) -> Source:
  """The clips of a HEAR task's folder.

  Columns: label (a list if the task is multi-label) and split, or fold where it has folds. Classes
  are in the order of labelvocabulary.csv.

  Args:
    root: the folder with task_metadata.json.
    rate: which copy of the audio, Hz; by default 16000 if there is one, else the next above it.

  Raises:
    InputError: the folder is not as described above, or the task is about timestamps.
  """
  base = pathlib.Path(root)
  about = metadata(base)
  vocabulary = base / 'labelvocabulary.csv'
  listed = read_rows(vocabulary)
  need(vocabulary, listed[0] if listed else {}, 'idx', 'label')
  classes = tuple(r['label'] for r in sorted(listed, key=lambda r: int(r['idx'])))
  known, several = set(classes), about['prediction_type'] == 'multilabel'
  column = 'split' if about['split_mode'] == 'trainvaltest' else 'fold'
  audio, rows = _rate(base, rate), []
  for part in map(str, about['splits']):
    file = base / f'{part}.json'
    for name, labels in _read_json(file).items():
      labels = [str(v) for v in labels] if isinstance(labels, list) else [str(labels)]
      strange = next((v for v in labels if v not in known), None)
      if strange is not None:
        raise InputError(f'{file}: {name} is labelled {strange!r}, unknown to {vocabulary.name}.')
      if not several and len(labels) != 1:
        raise InputError(f'{file}: {name} has {len(labels)} labels in a task with one a clip.')
      columns: dict[str, Value] = {'label': labels if several else labels[0], column: part}
      rows.append((f'{part}/{name}', f'{audio}/{part}/{name}', columns))
  return source(str(about['task_name']), root, rows, label_sets={'label': classes})


def _rate(base: pathlib.Path, rate: int | None) -> int:
  found = sorted(int(f.name) for f in base.iterdir() if f.name.isdecimal() and f.is_dir())
  if not found or rate not in (None, *found):
    wanted = 'named by a sample rate' if rate is None else f'{rate}'
    raise InputError(f'{base} has no folder of audio {wanted} (it has: {found or "none"}).')
  return rate or next((r for r in found if r >= _RATE), found[-1])


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise InputError(f'{path} cannot be read: {error.strerror}.') from None
  except ValueError as error:
    raise InputError(f'{path} is not JSON ({error}); copy it again.') from None
  if not isinstance(found, dict):
    raise InputError(f'{path} holds no JSON object.')
  return found

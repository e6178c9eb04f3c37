"""HEAR 2021 tasks, as written by hear-preprocess (github.com/hearbenchmark/hear-preprocess).

A task is a folder with task_metadata.json, the classes in labelvocabulary.csv (idx, label), the
labels of each file in SPLIT.json (train, valid and test, or fold00, fold01, …), and the audio in
RATE/SPLIT/FILE with the rate in Hz.
"""

import pathlib
from typing import Any

from research.audio.clips import Source
from research.audio.datasets.tables import check_columns, read_rows, source
from research.audio.example import Value
from research.errors import InputError
from research.jobs import paths

METADATA = 'task_metadata.json'
_COPY = 'is not JSON with an object in it; copy it again.'
# Preferred sample rate, Hz: that of the models here.
_RATE = 16000


def metadata(root: str | pathlib.Path) -> dict[str, Any]:
  """The contents of task_metadata.json, checked to be a task of classifying whole clips.

  Raises:
    InputError: no valid file, or a timestamp task (DCASE 2016, MAESTRO).
  """
  path = pathlib.Path(root) / METADATA
  found = paths.read_object(path, _COPY)
  for name in ('task_name', 'embedding_type', 'prediction_type', 'split_mode', 'splits'):
    if not found.get(name):
      raise InputError(f'{path} lacks {name!r}, which hear-preprocess writes.')
  if found['embedding_type'] != 'scene':
    raise InputError(
      f'The HEAR task {found["task_name"]} is a timestamp task (embedding_type '
      f'{found["embedding_type"]!r}); only tasks of type "scene" are supported.'
    )
  if found['prediction_type'] not in ('multiclass', 'multilabel'):
    raise InputError(
      f'{path}: prediction_type {found["prediction_type"]!r} is neither multiclass nor multilabel.'
    )
  return found


def hear(root: str, rate: int | None = None) -> Source:
  """The clips of a HEAR task.

  Columns: label (a list for multi-label tasks), and split, or fold if the task has folds. Classes
  are in the order of labelvocabulary.csv.

  Args:
    root: the folder with task_metadata.json.
    rate: sample rate of the copy to read, Hz; by default 16000 if it exists, else the next higher.

  Raises:
    InputError: another layout, or a timestamp task.
  """
  base = pathlib.Path(root)
  about = metadata(base)
  vocabulary = base / 'labelvocabulary.csv'
  listed = read_rows(vocabulary)
  check_columns(vocabulary, listed[0] if listed else {}, 'idx', 'label')
  classes = tuple(r['label'] for r in sorted(listed, key=lambda r: int(r['idx'])))
  known, several = set(classes), about['prediction_type'] == 'multilabel'
  column = 'split' if about['split_mode'] == 'trainvaltest' else 'fold'
  audio, rows = _rate(base, rate), []
  for part in map(str, about['splits']):
    file = base / f'{part}.json'
    for name, labels in paths.read_object(file, _COPY).items():
      labels = [str(v) for v in labels] if isinstance(labels, list) else [str(labels)]
      strange = next((v for v in labels if v not in known), None)
      if strange is not None:
        raise InputError(
          f'{file}: {name} has label {strange!r}, which is not in {vocabulary.name}.'
        )
      if not several and len(labels) != 1:
        raise InputError(f'{file}: {name} has {len(labels)} labels in a single-label task.')
      columns: dict[str, Value] = {'label': labels if several else labels[0], column: part}
      rows.append((f'{part}/{name}', f'{audio}/{part}/{name}', columns))
  return source(str(about['task_name']), root, rows, label_sets={'label': classes})


def _rate(base: pathlib.Path, rate: int | None) -> int:
  found = sorted(int(f.name) for f in base.iterdir() if f.name.isdecimal() and f.is_dir())
  if not found or rate not in (None, *found):
    wanted = 'named by a sample rate' if rate is None else f'{rate}'
    raise InputError(f'{base} has no folder of audio {wanted} (it has: {found or "none"}).')
  return rate or next((r for r in found if r >= _RATE), found[-1])

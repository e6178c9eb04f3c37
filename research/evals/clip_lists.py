"""Lists of clips that pin a score down: the same clips in the same parts in every run, whatever
else was downloaded.

A list is JSON: task -> ids, parts (for each fold one of 0 train, 1 validation, 2 test, -1 none for
each id), origin of the split, published_validation.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from research.errors import InputError
from research.evals.tasks import Prepared
from research.jobs import folders

Pins = dict[str, dict[str, Any]]


def read(path: str | os.PathLike) -> Pins | None:
  """The lists of a file; None where there is no such file yet.

  Raises:
    InputError: it is not such a file.
  """
  try:
    found = json.loads(Path(path).read_text(encoding='utf-8'))
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    raise InputError(f'--pin={path} cannot be read as a list of clips: {error}.') from None
  if not isinstance(found, dict) or not all(_sound(task) for task in found.values()):
    raise InputError(
      f'--pin={path} is no list of clips: it takes an object of tasks, each with ids and parts, as '
      'a run with --pin writes it where there is no file.'
    )
  return found


def _sound(task: Any) -> bool:
  if not isinstance(task, dict) or not {'ids', 'parts', 'origin'} <= set(task):
    return False
  ids, parts = task['ids'], task['parts']
  return (
    isinstance(ids, list)
    and isinstance(parts, list)
    and all(isinstance(i, str) for i in ids)
    and all(isinstance(p, list) and len(p) == len(ids) for p in parts)
    and all(n in (-1, 0, 1, 2) for p in parts for n in p)
  )


def of(pins: Pins | None, path: str | os.PathLike, task: str) -> dict[str, Any] | None:
  """The list of a task, with its 'hash'; None without lists.

  Raises:
    InputError: no list is of this task.
  """
  if pins is None:
    return None
  if task not in pins:
    raise InputError(
      f'--pin={path} pins no clips of the task {task!r}, only of {", ".join(pins)}: give another '
      'file for it.'
    )
  found = pins[task]
  text = json.dumps(sorted(zip(found['ids'], *found['parts'])))
  about = dict(hash=hashlib.sha256(text.encode()).hexdigest()[:16])
  return {'published_validation': False, **found, **about}


def write(path: str | os.PathLike, tasks: Iterable[Prepared]) -> None:
  """Pins the clips that the tasks use, and the part of each in every fold."""
  Path(path).parent.mkdir(parents=True, exist_ok=True)
  pins = {task.task.name: _pin(task) for task in tasks}
  folders.replace_text(Path(path), json.dumps(pins))  # ASCII: names of files may be no UTF-8


def _pin(task: Prepared) -> Mapping[str, Any]:
  parts = []
  for fold in task.splits.folds:
    codes = [-1] * len(task.source)
    for part, rows in enumerate(fold.rows()):
      for row in rows.tolist():
        codes[row] = part
    parts.append(codes)
  return dict(
    ids=[task.source.id(i) for i in range(len(task.source))],
    parts=parts,
    origin=task.splits.origin,
    published_validation=task.splits.published_validation,
  )

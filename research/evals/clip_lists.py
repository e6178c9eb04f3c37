"""Clip lists: fix the clips of a task and their splits, so that scores on different copies of a
data set are comparable.

A clip list is a JSON file: task -> ids, parts (for each fold, the part of each id: 0 train,
1 validation, 2 test, -1 unused), origin of the split, published_validation.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from research.errors import InputError, listed
from research.evals.tasks import Prepared
from research.jobs import folders

ClipLists = dict[str, dict[str, Any]]


def read(path: str | os.PathLike) -> ClipLists | None:
  """Clip lists by task; None if the file does not exist.

  Raises:
    InputError: the file is not a clip list.
  """
  try:
    found = json.loads(Path(path).read_text(encoding='utf-8'))
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    raise InputError(f'--clip_list={path} cannot be read as a clip list: {error}.') from None
  if not isinstance(found, dict) or not all(_is_valid(task) for task in found.values()):
    raise InputError(
      f'--clip_list={path} is not a clip list. Expected a JSON object of tasks, each with ids, '
      'parts and origin; name a file that does not exist and the run writes one.'
    )
  return found


def _is_valid(task: Any) -> bool:
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


def of_task(lists: ClipLists | None, path: str | os.PathLike, task: str) -> dict[str, Any] | None:
  """The clip list of a task, with its 'hash'; None if `lists` is None.

  Raises:
    InputError: the file has no list for this task.
  """
  if lists is None:
    return None
  if task not in lists:
    raise InputError(
      f'--clip_list={path} has no clips for task {task!r}, only for {listed(lists)}. Give '
      'another file for this task.'
    )
  found = lists[task]
  text = json.dumps(sorted(zip(found['ids'], *found['parts'])))
  about = dict(hash=hashlib.sha256(text.encode()).hexdigest()[:16])
  return {'published_validation': False, **found, **about}


def write(path: str | os.PathLike, tasks: Iterable[Prepared]) -> None:
  """Writes the clips of the tasks and their parts in every fold."""
  Path(path).parent.mkdir(parents=True, exist_ok=True)
  lists = {task.task.name: _clip_list(task) for task in tasks}
  folders.replace_text(Path(path), json.dumps(lists))  # ASCII: file names need not be UTF-8


def _clip_list(task: Prepared) -> Mapping[str, Any]:
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

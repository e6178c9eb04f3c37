"""Lists of clips that pin a score down: the same ids in every run, whatever else was downloaded."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from research.errors import InputError
from research.evals import jobs
from research.evals.tasks import Prepared


def read(path: str | os.PathLike) -> dict[str, list[str]] | None:
  """task -> ids of its clips; None where there is no such file yet.

  Raises:
    InputError: it is not such a list.
  """
  try:
    found = json.loads(Path(path).read_text(encoding='utf-8'))
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    raise InputError(f'--pin={path} cannot be read as a list of clips: {error}.') from None
  sound = isinstance(found, dict) and all(
    isinstance(ids, list) and all(isinstance(i, str) for i in ids) for ids in found.values()
  )
  if not sound:
    raise InputError(f'--pin={path} is no JSON object of task names and lists of ids.')
  return found


def of(pins: dict[str, list[str]] | None, path: str | os.PathLike, task: str) -> list[str] | None:
  """The ids of a task; None without a list.

  Raises:
    InputError: the list is not of this task.
  """
  if pins is None:
    return None
  if task not in pins:
    raise InputError(
      f'--pin={path} pins no clips of the task {task!r}, only of {", ".join(pins)}: give another '
      'file for it.'
    )
  return pins[task]


def write(path: str | os.PathLike, tasks: Iterable[Prepared]) -> None:
  """Pins the clips that the tasks use."""
  pins = {t.task.name: [t.source.id(i) for i in range(len(t.source))] for t in tasks}
  Path(path).parent.mkdir(parents=True, exist_ok=True)
  jobs.replace_text(Path(path), json.dumps(pins, ensure_ascii=False, indent=0))

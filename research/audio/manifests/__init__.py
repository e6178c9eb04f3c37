"""Data sets in the forms of other tools. One file a tool; no other code names it.

A module `manifests/<name>.py` defines `recognise(path)`, which says by what a file or folder is of
this form (a name for messages), or None; and the reader `<name>(path, …)`, which gives a `Source`.
"""

import importlib
import os
import pathlib
import pkgutil
from collections.abc import Callable
from typing import Any

from research.audio.clips import Source
from research.audio.folder import EXTENSIONS, Inside
from research.errors import InputError


class Written(Inside):
  """Paths of a manifest that a person wrote for files of this machine: they may be absolute. No
  path goes up by `..`; relative ones stay below the folder of the manifest."""

  def __call__(self, path: str, where: str) -> str:
    """The path without `.` parts; `where` names its origin in the error message."""
    if not path.startswith(os.sep):
      return super().__call__(path, where)
    parts = path.split('/')
    if '..' in parts:
      self._refuse(path, where, 'goes up by ".."')
    if '\0' in path:
      self._refuse(path, where, 'holds a zero byte')
    return '/' + '/'.join(p for p in parts if p not in ('', '.'))

  def _refuse(self, path: str, where: str, why: str) -> None:
    raise InputError(
      f'{where}: the path {path!r} {why}; expected an absolute path or one below {self._root}.'
    )


def names() -> list[str]:
  """All forms."""
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


def reader(name: str) -> Callable[..., Source]:
  """The reader of a form."""
  return getattr(_module(name), name)


def recognise(path: str | os.PathLike) -> str | None:
  """The form of a file or folder; None if it has none of these.

  Raises:
    InputError: it has several.
  """
  given = pathlib.Path(path)
  if given.is_dir() and _audio_alone(given):
    return None
  found = {name: sign for name in names() if (sign := _module(name).recognise(given))}
  if len(found) > 1:
    signs = ' and '.join(f'{name} ({sign})' for name, sign in found.items())
    first = next(iter(found))
    raise InputError(
      f'{given} looks like data of {signs}: name one of them, as in --source={first}:{given} or '
      f'{{"name": "{first}", "args": {{"path": "{given}"}}}}.'
    )
  return next(iter(found), None)


def _audio_alone(folder: pathlib.Path) -> bool:
  """Whether there are only audio files and notes in a folder. One pass, for there may be millions;
  each form would look for itself."""
  with os.scandir(folder) as entries:
    return all(
      os.path.splitext(e.name)[1].lower() in (*EXTENSIONS, '.txt', '.md') and not e.is_dir()
      for e in entries
    )


def _module(name: str) -> Any:
  return importlib.import_module(f'{__name__}.{name}')

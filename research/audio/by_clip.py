"""Arrays of clips in a folder on disk, read on demand: what units and frames have in common.

The folder holds one large array `<name>.npy` (all clips concatenated along its first axis),
`offsets.npy` (int64 [n + 1]), `ids.txt` (one id per line) and `about.json`.
"""

import abc
import dataclasses
import functools
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from research.errors import InputError

# Ids come from file names, which may not be UTF-8.
ESCAPED = 'surrogateescape'


@dataclasses.dataclass(frozen=True, eq=False)
class ByClip(abc.ABC):
  """The arrays of many clips.

  Attributes:
    values: those of all clips, concatenated.
    offsets: start of each clip in `values`, and the end of the last.
    ids: clip ids.
    about: metadata.
    path: the folder.
  """

  values: np.ndarray
  offsets: np.ndarray
  ids: Sequence[str]
  about: Mapping[str, Any]
  path: Path

  def __reduce__(self):
    # Large arrays stay on disk: an unpickled copy reopens the folder.
    return reopen, (type(self), self.path.absolute())

  @classmethod
  @abc.abstractmethod
  def open(cls, path: str | os.PathLike) -> Any:
    """Opens a folder; raises InputError where it is none."""

  @functools.cached_property
  def _rows(self) -> dict[str, int]:
    return {name: row for row, name in enumerate(self.ids)}

  def __contains__(self, clip: str) -> bool:
    return clip in self._rows

  def __len__(self) -> int:
    return len(self.ids)

  def rows(self, clips: Sequence[str]) -> Int[np.ndarray, 'clips']:
    """Rows of clips; -1 for clips that are not there."""
    return np.array([self._rows.get(clip, -1) for clip in clips], np.int64)

  def count(self, row: int | np.integer) -> int:
    """Length of the array of the clip in a row."""
    return int(self.offsets[row + 1] - self.offsets[row])


def reopen(cls: type[ByClip], path: Path) -> ByClip:
  """Opens a folder again; a function of a module, since workers are sent methods by value."""
  return cls.open(path)


def read(
  path: Path, name: str, needed: Collection[str], what: str, made_by: str
) -> tuple[np.ndarray, np.ndarray, list[str], dict[str, Any]]:
  """(values, offsets, ids, about) of a folder.

  Args:
    path: the folder.
    name: of the large array.
    needed: keys of about.json; those of FIGURES must be whole numbers above 0.
    what: what the folder holds, for messages.
    made_by: the command that makes one.

  Raises:
    InputError: a file is missing, damaged or does not match the others.
  """
  names = ('about.json', f'{name}.npy', 'offsets.npy', 'ids.txt')
  absent = [name for name in names if not (path / name).is_file()]
  if absent:
    raise InputError(
      f'{path} is not a folder of {what}: {", ".join(absent)} is missing. Make one with {made_by}.'
    )
  try:
    about = json.loads((path / 'about.json').read_text(encoding='utf-8'))
    values = np.load(path / f'{name}.npy', mmap_mode='r', allow_pickle=False)
    offsets = np.load(path / 'offsets.npy', allow_pickle=False)
    # Read as bytes: ids may contain other line separators, and bytes that are not UTF-8.
    ids = (path / 'ids.txt').read_bytes().decode('utf-8', ESCAPED).split('\n')[:-1]
  except (ValueError, OSError, EOFError, MemoryError) as error:
    raise InputError(f'The {what} in {path} cannot be read: {error}') from error
  missing = [n for n in needed if not isinstance(about, dict) or n not in about]
  if missing:
    raise InputError(f'{path / "about.json"} lacks {", ".join(missing)}.')
  for figure in set(needed) - {'fingerprint'}:
    if type(about[figure]) is not int or about[figure] < 1:
      raise InputError(
        f'{path / "about.json"} has {figure} {about[figure]!r}: expected a whole number above 0.'
      )
  if offsets.ndim != 1 or offsets.dtype.kind not in 'iu':
    raise InputError(
      f'{path / "offsets.npy"} has dtype {offsets.dtype} and shape {offsets.shape}: expected '
      'integers in one dimension.'
    )
  if len(offsets) != len(ids) + 1 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
    raise InputError(
      f'{path} has {len(ids)} ids, {len(offsets)} offsets up to {offsets[-1:]} and {len(values)} '
      f'{name}, which do not match: make the {what} again.'
    )
  return values, offsets, ids, about


def write_ids(path: Path, ids: Sequence[str]) -> None:
  """ids.txt of a folder.

  Raises:
    InputError: ids are not unique or contain a newline.
  """
  check_ids(ids)
  with open(path / 'ids.txt', 'wb') as file:
    file.writelines(f'{name}\n'.encode('utf-8', ESCAPED) for name in ids)


def check_ids(ids: Sequence[str]) -> None:
  """Raises InputError if ids are not unique or contain a newline."""
  if len(set(ids)) != len(ids) or any('\n' in name for name in ids):
    raise InputError('A folder needs unique clip ids without newlines.')

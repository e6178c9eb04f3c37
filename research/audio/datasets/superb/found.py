"""Clips that lists name, as far as their audio is on disk."""

import collections
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
from absl import logging

from research.audio.clips import Files, Source, Table
from research.audio.datasets.superb.table import SUPERB
from research.audio.example import Value
from research.audio.folder import EXTENSIONS, find_audio
from research.audio.manifests import kaldi
from research.errors import InputError, listed

# `gain -3` of SoX.
GAIN = 10 ** (-3 / 20)
# Folders of splits, by the names that the tasks give them.
SPLITS = {'train': ('train', 'train-100'), 'valid': ('valid', 'dev'), 'test': ('test',)}


@dataclasses.dataclass
class Found:
  """Rows of a data set. Audio may lie outside of its folder where a person's lists say so.

  Attributes:
    name: of the data set.
    base: its folder.
    absent: split -> clips that are listed without an audio file.
  """

  name: str
  base: pathlib.Path
  absent: collections.Counter = dataclasses.field(default_factory=collections.Counter)

  def __post_init__(self):
    self.base = pathlib.Path(os.path.abspath(self.base))
    self._rows: list[tuple[str, str, dict[str, Value], float, float, float]] = []
    self._first = ''

  def add(
    self,
    id: str,
    path: str | os.PathLike,
    columns: dict[str, Value],
    *,
    others: dict[str, str] | None = None,
    start: float = 0.0,
    length: float = np.nan,
    seconds: float = np.nan,
  ) -> bool:
    """Adds a clip if its audio is there; returns whether it is.

    Args:
      id: of the clip.
      path: its file; also found with the ending of another format.
      columns: values; `split` among them.
      others: column -> path of another recording, which has to be there too.
      start: of a part of the file, seconds.
      length: of the part; NaN for the whole file.
      seconds: duration of the clip if it is known.
    """
    paths = {name: on_disk(other) for name, other in (others or {}).items()}
    place = on_disk(path)
    if place is None or None in paths.values():
      self.absent[str(columns.get('split', ''))] += 1
      self._first = self._first or str(
        path if place is None else next(iter((others or {}).values()))
      )
      return False
    known = {name: other or '' for name, other in paths.items()}
    self._rows.append((id, place, {**columns, **known}, start, length, seconds))
    return True

  def lacks(self, path: str | os.PathLike, what: str) -> InputError:
    """The error for a missing list or folder."""
    layout = SUPERB[self.name].layout
    return InputError(f'{self.name}: {path} is missing, {what}. Expected in {self.base}: {layout}.')

  def source(self, *, paths: tuple[str, ...] = (), gain: float = 1.0, **fields: Any) -> Source:
    """All rows.

    Args:
      paths: columns of paths, which become relative to the folder of the source.
      gain: factor of the samples.
      fields: further ones of `Table`.

    Raises:
      InputError: no clip has audio, or an id occurs twice.
    """
    total = sum(self.absent.values())
    if not self._rows:
      given = f'{total} clips are listed, and the audio of none is here' if total else 'no clips'
      first = f' (the first is {self._first})' if self._first else ''
      raise InputError(
        f'{self.name} in {self.base}: {given}{first}; expected {SUPERB[self.name].layout}.'
      )
    if total:
      parts = listed(f'{n} of {split}' for split, n in self.absent.items() if split)
      logging.warning(
        '%s in %s: %d clips; %d are left out for they have no audio file%s, the first is %s.',
        self.name, self.base, len(self._rows), total, f' ({parts})' if parts else '', self._first,
      )  # fmt: skip
    ids, places, columns, starts, lengths, seconds = map(list, zip(*self._rows))
    every = [*places, *(c[name] for c in columns for name in paths)]
    root = os.path.commonpath([str(self.base), *{os.path.dirname(p) for p in every}])
    names = list(dict.fromkeys(n for c in columns for n in c))
    values: dict[str, list[Value]] = {n: [c.get(n, '') for c in columns] for n in names}
    for name in paths:
      values[name] = [os.path.relpath(str(p), root) for p in values[name]]
    parts_of_files = bool(np.any(starts) or not np.isnan(lengths).all())
    table = Table(
      name=self.name,
      ids=ids,
      columns=values,
      locate=Files(
        root,
        [os.path.relpath(p, root) for p in places],
        starts if parts_of_files else None,
        lengths if parts_of_files else None,
        gain,
      ),
      seconds=np.where(np.isnan(lengths), seconds, lengths),
      absent=dict(self.absent),
      **fields,
    )
    return Source(table)


def on_disk(path: str | os.PathLike) -> str | None:
  """The path, or that of the same name with the ending of another format; None if there is none."""
  text = os.path.abspath(path)
  if os.path.exists(text):
    return text
  stem, ending = os.path.splitext(text)
  every = (f'{stem}{kind}' for kind in EXTENSIONS if ending.lower() in EXTENSIONS)
  return next((other for other in every if os.path.exists(other)), None)


def folder_of(base: pathlib.Path, split: str) -> pathlib.Path | None:
  """The folder of a split."""
  return next((base / n for n in SPLITS[split] if (base / n).is_dir()), None)


def utterances(folder: pathlib.Path, audio: str | None = None) -> dict[str, str]:
  """{utterance: path} of a folder: of its wav.scp, or of the audio files in it.

  Args:
    folder: the folder.
    audio: folder that relative paths of wav.scp start at; by default that of the list.
  """
  if (folder / kaldi.SCP).is_file():
    return kaldi.recordings(folder / kaldi.SCP, pathlib.Path(audio or folder))
  return {os.path.splitext(p)[0]: str(folder / p) for p in find_audio(folder) if '/' not in p}

"""A folder of audio files, with or without a manifest of labels."""

import collections
import contextlib
import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from absl import logging

from research.audio import segments, tables
from research.audio.clips import Files, Source, Table
from research.audio.example import Value
from research.audio.formats import media
from research.audio.rows import Clips
from research.audio.spelling import Spelling
from research.errors import InputError, listed

EXTENSIONS = (
  '.wav', '.wave', '.bwf', '.flac', '.ogg', '.oga', '.opus', '.mp3', '.mp2', '.mpga', '.aif',
  '.aiff', '.aifc', '.au', '.snd', '.caf', '.w64', '.rf64', '.sph', '.m4a',
)  # fmt: skip
# Read where PyAV is installed, else counted and named.
MEDIA = (
  '.3gp', '.aac', '.ac3', '.adts', '.amr', '.ape', '.asf', '.avi', '.awb', '.dsf', '.dts', '.eac3',
  '.m4b', '.mka', '.mkv', '.mov', '.mp4', '.mpc', '.ra', '.rm', '.spx', '.tta', '.weba', '.webm',
  '.wma', '.wv',
)  # fmt: skip
TABLES = ('.csv', '.tsv', '.jsonl', '.scp', '.parquet')
MANIFESTS = ('labels.csv', 'labels.jsonl')
# Columns of durations in seconds; the first of them that a manifest has is used.
SECONDS = ('seconds', 'duration')
# Multi-label column of a csv: labels separated by `;`.
SEVERAL = 'labels'


def folder(path: str, manifest: str | None = None, name: str | None = None) -> Source:
  """The audio files of a folder.

  With a manifest (`labels.csv` or `labels.jsonl` in the folder, or `manifest`), its rows are the
  clips. The column `path` is relative to the folder. Rows with `start` or `offset` are segments of
  their files (`audio/segments.py`). A column `seconds` or `duration` of numbers
  gives the durations of the clips, so that no audio file has to be opened for them (an empty value
  is measured); they are trusted. A column `id` names segments, and clips of files that are listed
  more than once. All other columns are labels. Multi-label values are
  `;`-separated in the csv column `labels`, and lists in jsonl. Without a manifest, all audio files
  below the folder are the clips, sorted by path; the column `folder` is their parent folder. Links
  are followed there, but those in a manifest may not lead out of the folder. Files that hold audio
  by their names and cannot be read, and tables that are not, are named in a warning.

  Raises:
    InputError: no such folder, no audio in it, an invalid manifest, or a path in the manifest that
      leads out of the folder.
  """
  root = pathlib.Path(os.path.expanduser(path))
  if not root.is_dir():
    what = 'is a file' if root.exists() else 'does not exist'
    raise InputError(f'{root} {what}; expected a folder of audio files.')
  name = name or root.resolve().name
  table = _manifest(root, manifest)
  if table is None:
    others: collections.Counter = collections.Counter()
    paths, left = find_audio(root, others), _left_out(others)
    if not paths:
      known = ' '.join(EXTENSIONS)
      raise InputError(
        f'{root} holds no audio files ({known}), nor do its subfolders. {left}'.strip()
      )
    if left:
      logging.warning('%s: %s', root, left)
    columns: dict[str, list[Value]] = {'folder': [os.path.dirname(p) for p in paths]}
    return Source(Table(name, paths, columns, Files(str(root), paths)))
  clips = Clips(name, root, Inside(root))
  for line, row in _rows(table):
    where = f'{table}, line {line}'
    file = row.pop('path', '')
    if not isinstance(file, str) or not file:
      raise InputError(
        f'{where}: no "path"; every row needs one, relative to {root} (columns here: '
        f'{listed(row)}).'
      )
    place = segments.take(row, where)
    clips.add(where, file, row, place=place)
  if not len(clips):
    raise InputError(f'{table} has no rows.')
  clips.tell_seconds(durations(clips.columns))
  clips.identify()
  return clips.source()


def durations(columns: dict[str, list[Value]]) -> np.ndarray:
  """Takes the column of durations out of `columns`; empty if there is none."""
  for name in SECONDS:
    # Texts in such a column are labels.
    with contextlib.suppress(KeyError, TypeError, ValueError):
      found = np.array([float(v) if v else np.nan for v in columns[name]])  # type: ignore[arg-type]
      if not np.isnan(found).all() and not (found < 0).any() and not np.isinf(found).any():
        del columns[name]
        return found
  return np.zeros(0)


def find_audio(root: pathlib.Path, others: collections.Counter | None = None) -> list[str]:
  """Relative, sorted paths of audio files (by extension) below `root`; follows links to folders.

  Args:
    root: the folder.
    others: is given the extensions of files that hold audio by their names and cannot be read, and
      the paths of tables.
  """
  found, visited = [], set()
  for here, folders, files in os.walk(root, followlinks=True):
    real = os.path.realpath(here)
    if real in visited:  # A link to a parent folder.
      folders.clear()
      continue
    visited.add(real)
    folders[:] = sorted(f for f in folders if not f.startswith('.'))
    for name in files:
      kind = os.path.splitext(name)[1].lower()
      path = os.path.relpath(os.path.join(here, name), root)
      if name.startswith('.'):
        continue
      if kind in EXTENSIONS or (kind in MEDIA and media.available()):
        found.append(path)
      elif others is not None and kind in MEDIA:
        others[kind] += 1
      elif others is not None and kind in TABLES:
        others[path] += 1
  return sorted(p.replace(os.sep, '/') for p in found)


def _left_out(others: collections.Counter) -> str:
  """A sentence about what lies in a folder and is not read; '' if there is nothing."""
  kinds = [f'{count} {kind}' for kind, count in sorted(others.items()) if kind in MEDIA]
  unread = sorted(path for path in others if path not in MEDIA)
  said = []
  if kinds:
    said.append(f'{listed(kinds)} files (install PyAV, {media.INSTALL}, or convert them)')
  if unread:
    known = ' or '.join(MANIFESTS)
    said.append(f'the tables {listed(unread)} (a table of clips is {known}, or is named)')
  return f'Not read: {" and ".join(said)}.' if said else ''


class Inside:
  """Rejects paths of a manifest that leave its folder: absolute, by `..`, or through a link."""

  def __init__(self, root: pathlib.Path):
    self._root = root
    self._real = os.path.realpath(root)
    self._checked: dict[str, bool] = {}
    self._spelling = Spelling(root)

  def __call__(self, path: str, where: str) -> str:
    """`path` as it is on disk, without `.` parts; `where` names its origin in error messages."""
    path = self._spelling(path)
    parts = path.split('/')
    full = os.path.join(self._root, path)
    if os.path.isabs(path) or path.startswith('~'):
      self._refuse(path, where, 'is absolute')
    if '..' in parts:
      self._refuse(path, where, 'goes up by ".."')
    if '\0' in path:
      self._refuse(path, where, 'holds a zero byte')
    # One check per folder and one per linked file: fast for millions of rows.
    if not self._stays(os.path.dirname(full)) or (os.path.islink(full) and not self._leads(full)):
      self._refuse(path, where, 'is a link that leads out of the folder')
    return '/'.join(p for p in parts if p not in ('', '.'))

  def _stays(self, folder: str) -> bool:
    if folder not in self._checked:
      self._checked[folder] = self._leads(folder)
    return self._checked[folder]

  def _leads(self, path: str) -> bool:
    real = os.path.realpath(path)
    return real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep)

  def _refuse(self, path: str, where: str, why: str) -> None:
    raise InputError(f'{where}: the path {path!r} {why}; paths must stay below {self._root}.')


def _manifest(root: pathlib.Path, name: str | None) -> pathlib.Path | None:
  if name is not None:
    if not (root / name).is_file():
      raise InputError(f'Manifest {root / name} does not exist.')
    return root / name
  for known in MANIFESTS:
    if (root / known).is_file():
      return root / known
  alike = (p for p in sorted(root.iterdir()) if p.name.lower() in MANIFESTS and p.is_file())
  return next(alike, None)


def _rows(manifest: pathlib.Path) -> Iterator[tuple[int, dict[str, Value]]]:
  """(line number, row) of a csv, tsv or jsonl file."""
  json_rows = manifest.suffix.lower() in ('.jsonl', '.json')
  if not json_rows and 'path' not in (names := tables.header(manifest)):
    raise InputError(f'{manifest} has no column "path" (it has: {listed(names)}).')
  for line, row in tables.rows(manifest):
    if json_rows:
      row = {name: _value(value) for name, value in row.items()}
    elif SEVERAL in row:
      row[SEVERAL] = [v.strip() for v in row[SEVERAL].split(';') if v.strip()]
    yield line, row


def _value(value: object) -> Value:
  if isinstance(value, list):
    return [str(v) for v in value]
  if value is None:
    return ''
  return json.dumps(value) if isinstance(value, bool | dict) else str(value)

"""A folder of audio files, with or without a manifest of labels."""

import contextlib
import csv
import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from research.audio import segments
from research.audio.clips import Files, Source, Table
from research.audio.example import Value
from research.audio.rows import Clips
from research.errors import InputError, listed

EXTENSIONS = (
  '.wav', '.flac', '.ogg', '.oga', '.opus', '.mp3', '.aif', '.aiff', '.aifc', '.au', '.caf', '.w64',
  '.rf64', '.sph', '.m4a',
)  # fmt: skip
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
  below the folder are the clips, sorted by path; the column `folder` is their parent folder.

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
    paths = find_audio(root)
    if not paths:
      known = ' '.join(EXTENSIONS)
      raise InputError(f'{root} holds no audio files ({known}), nor do its subfolders.')
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


def find_audio(root: pathlib.Path) -> list[str]:
  """Relative, sorted paths of audio files (by extension) below `root`; follows links to folders."""
  found, visited = [], set()
  for here, folders, files in os.walk(root, followlinks=True):
    real = os.path.realpath(here)
    if real in visited:  # A link to a parent folder.
      folders.clear()
      continue
    visited.add(real)
    folders[:] = sorted(f for f in folders if not f.startswith('.'))
    for name in files:
      if os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith('.'):
        found.append(os.path.relpath(os.path.join(here, name), root))
  return sorted(p.replace(os.sep, '/') for p in found)


class Inside:
  """Rejects paths of a manifest that leave its folder: absolute, by `..`, or through a link."""

  def __init__(self, root: pathlib.Path):
    self._root = root
    self._real = os.path.realpath(root)
    self._checked: dict[str, bool] = {}

  def __call__(self, path: str, where: str) -> str:
    """`path` without `.` parts; `where` names the origin of the path in the error message."""
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
  return next((root / m for m in MANIFESTS if (root / m).is_file()), None)


def _rows(manifest: pathlib.Path) -> Iterator[tuple[int, dict[str, Value]]]:
  """(line number, row) of a csv, tsv or jsonl file."""
  try:
    with open(manifest, newline='', encoding='utf-8-sig') as file:
      if manifest.suffix in ('.jsonl', '.json'):
        yield from _json_rows(manifest, file)
      else:
        yield from _csv_rows(manifest, file)
  except UnicodeDecodeError as error:
    raise InputError(f'{manifest} is not UTF-8 text ({error.reason}).') from None


def _csv_rows(manifest: pathlib.Path, file) -> Iterator[tuple[int, dict[str, Value]]]:
  reader = csv.DictReader(file, delimiter='\t' if manifest.suffix == '.tsv' else ',', strict=True)
  try:
    names = reader.fieldnames or []
    if 'path' not in names:
      raise InputError(f'{manifest} has no column "path" (it has: {listed(names)}).')
    if len(set(names)) != len(names):
      raise InputError(f'{manifest} names a column twice: {listed(names)}.')
    for row in reader:
      extra = row.pop(None, None)
      if extra is not None or None in row.values():
        count = len(names) + len(extra or []) - sum(v is None for v in row.values())
        raise InputError(
          f'{manifest}, line {reader.line_num}: {count} fields, the header names {len(names)}.'
        )
      if SEVERAL in row:
        row[SEVERAL] = [v.strip() for v in row[SEVERAL].split(';') if v.strip()]
      yield reader.line_num, row
  except csv.Error as error:
    raise InputError(f'{manifest}, line {reader.line_num}: not a csv row ({error}).') from None


def _json_rows(manifest: pathlib.Path, file) -> Iterator[tuple[int, dict[str, Value]]]:
  for line, text in enumerate(file, start=1):
    if not text.strip():
      continue
    try:
      row = json.loads(text)
    except (ValueError, RecursionError) as error:
      raise InputError(f'{manifest}, line {line}: not JSON ({error}).') from None
    if not isinstance(row, dict):
      raise InputError(f'{manifest}, line {line}: not a JSON object.')
    yield line, {name: _value(value) for name, value in row.items()}


def _value(value: object) -> Value:
  if isinstance(value, list):
    return [str(v) for v in value]
  if value is None:
    return ''
  return json.dumps(value) if isinstance(value, bool | dict) else str(value)

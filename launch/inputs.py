"""Opens --input: a folder, an audio file, a list of files, or a data set."""

import os
import pathlib


def open_input(spec, *, split=None, root=None):
  """The source of clips that `spec` names.

  Raises:
    InputError: the input does not exist, or a list without paths.
  """
  from research.audio import sources
  from research.errors import InputError

  path = os.path.expanduser(spec)
  if not os.path.isfile(path):
    return sources.open_source(spec, split=split, root=root)
  if split:
    raise InputError(
      f'--split={split} needs a folder or a data set with splits, not the file {path}.'
    )
  if path.endswith(('.txt', '.csv')):
    return _listed(path)
  return _files(os.path.basename(path), os.path.dirname(path), [os.path.basename(path)], {})


def _files(name, root, paths, columns):
  from research.audio import clips

  return clips.Source(clips.Table(name, paths, columns, clips.Files(root, paths)))


def _listed(path):
  """A source of the files of a list. Unlike those of a manifest, they may be in any folder."""
  from research.audio.datasets import tables
  from research.errors import InputError

  columns = {}
  if path.endswith('.csv'):
    rows = tables.read_rows(pathlib.Path(path))
    if rows:
      tables.check_columns(pathlib.Path(path), rows[0], 'path')
    paths = [row['path'] for row in rows]
    names = [n for n in (rows[0] if rows else {}) if n != 'path']
    columns = {n: [row[n] for row in rows] for n in names}
  else:
    with open(path, encoding='utf-8') as file:
      paths = [line.strip() for line in file if line.strip() and not line.startswith('#')]
  if not paths or not all(paths):
    raise InputError(f'The list {path} names no file{" in some row" if paths else ""}.')
  return _files(os.path.basename(path), os.path.dirname(path), paths, columns)

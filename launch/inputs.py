"""Opens --input: a folder, an audio file, a list of files, or a data set."""

import os

LISTS = ('.txt', '.csv', '.tsv', '.jsonl')
OTHER_LISTS = ('.scp', '.lst', '.list', '.json', '.gz', '.parquet', '.tar', '.ltr', '.wrd', '.km')
FORMS = 'lists are a .txt with a path a line, or a .csv, .tsv or .jsonl with a column path.'


def open_input(spec, *, split=None, root=None):
  """The source of clips that `spec` names.

  Raises:
    InputError: the input does not exist, or is a list without paths or of another tool.
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
  kind = os.path.splitext(path)[1].lower()
  if kind in LISTS:
    return _listed(path, kind)
  if kind in OTHER_LISTS:
    raise InputError(f'{path} is a list of another tool; {FORMS}')
  return _files(os.path.basename(path), os.path.dirname(path), [os.path.basename(path)], {})


def _files(name, root, paths, columns):
  from research.audio import clips
  from research.audio.spelling import Spelling

  spelling = Spelling(root)
  paths = [spelling(path) for path in paths]
  return clips.Source(clips.Table(name, paths, columns, clips.Files(root, paths)))


def _listed(path, kind):
  """A source of the files of a list. Unlike those of a manifest, they may be in any folder."""
  from research.audio import tables
  from research.errors import InputError, listed

  if kind == '.txt':
    paths = [line for _, line in tables.lines(path) if not line.startswith('#')]
    columns = {}
  else:
    if kind != '.jsonl' and 'path' not in (names := tables.header(path)):
      raise InputError(f"{path} has no column 'path' (it has: {listed(names)}); {FORMS}")
    rows = []
    for line, row in tables.rows(path):
      if not isinstance(row.get('path'), str) or not row['path']:
        raise InputError(f"{path}, line {line}: no 'path' (it has: {listed(row)}); {FORMS}")
      rows.append({n: v if isinstance(v, str) else str(v) for n, v in row.items()})
    paths = [row['path'] for row in rows]
    others = dict.fromkeys(n for row in rows for n in row if n != 'path')
    columns = {n: [row.get(n, '') for row in rows] for n in others}
  if not paths:
    raise InputError(f'The list {path} names no file.')
  return _files(os.path.basename(path), os.path.dirname(path), paths, columns)

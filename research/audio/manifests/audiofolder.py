"""AudioFolder of Hugging Face datasets (huggingface.co/docs/datasets/audio_dataset): folders of
audio with metadata.csv, metadata.jsonl or metadata.parquet, or with one folder a class; either may
lie in folders of splits."""

import os
import pathlib
from collections.abc import Iterator

from research.audio import lines, tables
from research.audio.clips import Source
from research.audio.example import Value
from research.audio.folder import Inside, durations, find_audio
from research.audio.rows import Clips
from research.errors import InputError

NAME = 'file_name'
METADATA = ('metadata.csv', 'metadata.jsonl', 'metadata.parquet')
# Folders that datasets takes for splits (datasets/data_files.py).
SPLITS = {
  'train': 'train', 'training': 'train', 'validation': 'validation', 'valid': 'validation',
  'val': 'validation', 'dev': 'validation', 'test': 'test', 'testing': 'test', 'eval': 'test',
  'evaluation': 'test',
}  # fmt: skip


def recognise(path: pathlib.Path) -> str | None:
  """A folder with metadata that has file_name, its file, or folders of train and other splits."""
  if not path.is_dir():
    return path.name if path.name in METADATA and path.is_file() and _names_files(path) else None
  found = next((m for m in _metadata(path) if _names_files(m)), None)
  if found:
    return str(found.relative_to(path))
  splits = _split_folders(path)
  # Folders of splits that hold tables or archives are of other tools.
  if {'train'} < {SPLITS[f.name.lower()] for f in splits} and all(map(_classes, splits)):
    return '/, '.join(f.name for f in splits) + '/ with folders of classes'
  return None


def _split_folders(path: pathlib.Path) -> list[pathlib.Path]:
  return sorted(p for p in path.iterdir() if p.is_dir() and p.name.lower() in SPLITS)


def _classes(folder: pathlib.Path) -> bool:
  """Whether there are only folders in it, as classes are."""
  inside = [p for p in folder.iterdir() if not p.name.startswith('.')]
  return bool(inside) and all(p.is_dir() for p in inside)


def _metadata(path: pathlib.Path) -> list[pathlib.Path]:
  """All files of metadata of the folder and of its split folders."""
  return [f / m for f in (path, *_split_folders(path)) for m in METADATA if (f / m).is_file()]


def _names_files(file: pathlib.Path) -> bool:
  if file.suffix == '.csv':
    return NAME in [n.strip('"') for n in lines.first_line(file).split(',')]
  if file.suffix == '.jsonl':
    return NAME in lines.first_record(file)
  return True


def audiofolder(path: str) -> Source:
  """The clips of an AudioFolder.

  With metadata its rows are the clips; `file_name` is relative to the file of metadata. Without,
  all audio files are, and `label` is the folder of a file. Columns: split (train, validation, test;
  from the folders), transcript (transcription, text or sentence), speaker, and all others by their
  names; a column duration or seconds gives the durations. Ids are paths.

  Raises:
    InputError: rows without file_name, a path that leaves the folder, or no audio.
  """
  root = pathlib.Path(path)
  root = root.parent if root.is_file() else root
  found = [m for m in _metadata(root) if _names_files(m)]
  folders = [m.parent for m in found]
  twice = next((f for f in folders if folders.count(f) > 1), None)
  if twice:
    raise InputError(f'{twice} holds several of {", ".join(METADATA)}; leave one of them.')
  clips = Clips(root.resolve().name, root, Inside(root))
  for file in found:
    before = file.parent.relative_to(root).as_posix()
    for where, row in _rows(file):
      name = row.pop(NAME, '')
      if not isinstance(name, str) or not name:
        raise InputError(f'{where}: no {NAME!r}; every row needs one.')
      name = name if before == '.' else f'{before}/{name}'
      clips.add(where, name, _split(name) | row)
  if not found:
    for name in find_audio(root):
      folder = os.path.dirname(name)
      label: dict[str, Value] = {'label': os.path.basename(folder), 'folder': folder}
      clips.add(name, name, _split(name) | label)
  if not len(clips):
    raise InputError(f'{root} holds neither metadata with {NAME!r} nor audio files.')
  clips.rename()
  clips.tell_seconds(durations(clips.columns))
  clips.identify()
  return clips.source()


def _split(name: str) -> dict[str, Value]:
  first = name.split('/')[0].lower() if '/' in name else ''
  return {'split': SPLITS[first]} if first in SPLITS else {}


def _rows(file: pathlib.Path) -> Iterator[tuple[str, dict[str, Value]]]:
  """(place in messages, row) of a file of metadata."""
  if file.suffix == '.parquet':
    from research.audio import arrow

    for number, found in enumerate(arrow.plain_rows(file), start=1):
      yield f'{file}, row {number}', found
  else:
    rows = tables.rows(file) if file.suffix == '.csv' else lines.records(file)
    for line, row in rows:
      yield f'{file}, line {line}', {n: lines.value(v) for n, v in row.items()}

"""Audio data sets of Hugging Face (huggingface.co/docs/datasets): Parquet, as on the hub, and
`save_to_disk`, Arrow. Audio is a struct of bytes and path; classes are named in the schema."""

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from research.audio import arrow, columns
from research.audio.clips import Source, Table
from research.audio.example import Value
from research.audio.folder import SECONDS
from research.audio.manifests.audiofolder import METADATA, SPLITS
from research.audio.rows import Clips
from research.errors import InputError, listed
from research.jobs import paths

STATE, DICT = 'state.json', 'dataset_dict.json'
_COPY = 'is not what `save_to_disk` writes; copy it again.'
# `train-00000-of-00002.parquet`, `train.parquet`, `0000.parquet` in a folder `train`.
_SHARD = re.compile(r'^(.*?)[-_.]?(\d+(-of-\d+)?(-[0-9a-f]{8,})?)?$')


def recognise(path: pathlib.Path) -> str | None:
  """A folder that `save_to_disk` made, a .parquet, or a folder of such, also in data/ or splits."""
  for name in (STATE, DICT):
    if (path / name).is_file():
      return name
  found = _parquets(path)
  # In a folder of audio there may be other tables, such as embeddings.
  return found[0].name if found and (path.is_file() or _may_hold_audio(found[0])) else None


def _may_hold_audio(file: pathlib.Path) -> bool:
  """Whether a table has a column of audio, or cannot be read, which its reader says."""
  try:
    features = _features(file)
  except InputError:
    return True
  return any(f['type'] == 'Audio' or (f['bytes'] and f['struct']) for f in features.values())


def _parquets(path: pathlib.Path) -> list[pathlib.Path]:
  if path.is_file():
    return [path] if path.suffix == '.parquet' else []
  found = [p for pattern in ('*.parquet', '*/*.parquet') for p in path.glob(pattern)]
  return sorted(p for p in found if p.name not in METADATA and not p.name.startswith('.'))


def first_file(path: pathlib.Path) -> pathlib.Path:
  """A file of a data set, which has its schema.

  Raises:
    InputError: there is none.
  """
  saved = any((path / name).is_file() for name in (STATE, DICT))
  files = [file for _, file in _saved(path)] if saved else _parquets(path)
  if not files:
    raise InputError(f'{path} holds no .parquet, and no {STATE} or {DICT} of `save_to_disk`.')
  return files[0]


def huggingface(path: str, audio: str | None = None) -> Source:
  """The rows of a data set, all splits, with the split in the column `split`.

  Ids are the paths of the audio below their split if all have one and none occurs twice, else
  SPLIT/NUMBER. Columns: transcript (transcription, text or sentence), speaker, and all others of
  texts, numbers, classes (by name) and lists of these, by their names. A column duration or seconds
  gives the durations. In shuffled order Parquet is slow, for a clip costs its row group: make
  shards with `launch.prepare_data`.

  Args:
    path: the folder, or a .parquet.
    audio: the column of audio, if there are several.

  Raises:
    InputError: pyarrow is not installed, damaged files, no column of audio, files of other columns.
  """
  root = pathlib.Path(path)
  saved = (root / STATE).is_file() or (root / DICT).is_file()
  found = _parquets(root)
  files = _saved(root) if saved else [(_split(root, file), file) for file in found]
  if not files:
    raise InputError(f'{root} holds no .parquet, and no {STATE} or {DICT} of `save_to_disk`.')
  arrow.need(root)
  features = _features(files[0][1])
  column = _audio(files[0][1], features, audio)
  several = len({split for split, _ in files}) > 1 or saved
  clips = Clips(root.resolve().name.removesuffix('.parquet'), root, lambda path, where: path)
  groups: list[tuple[int, int, int]] = []
  for number, (split, file) in enumerate(files):
    if _features(file).keys() != features.keys():
      raise InputError(f'{file} has other columns than {files[0][1]}; name one of them alone.')
    groups += [(number, g, rows) for g, rows in enumerate(arrow.count(file))]
    known: dict[str, Value] = {'split': split} if split and several else {}
    named = f'{column}.path' if features[column]['struct'] else None
    kept = [n for n, f in features.items() if n != column and f['kept']]
    for row in arrow.plain_rows(file, [*kept, *([named] if named else [])]):
      path_ = str(row.pop(named, '')) if named else ''
      labelled = {n: _classes(v, features[n]['names']) for n, v in row.items()}
      clips.add('', path_, known | labelled, seconds=_seconds(row), prefix=f'{split}/')
  clips.rename()
  left = [n for n, f in features.items() if n != column and not f['kept']]
  if left:
    logging.info('%s: columns that are no texts, numbers or lists: %s.', root, listed(left))
  home = str(root.parent if root.is_file() else root)
  return Source(_table(clips, files, features, column, np.array(groups, np.int64), home))


def _table(
  clips: Clips, files: Any, features: Any, column: str, groups: np.ndarray, home: str
) -> Table:
  ids, values, seconds = clips.values()
  if len(set(ids)) < len(ids) or any(i.endswith('/') for i in ids):
    splits = values.get('split', [''] * len(ids))
    counts: dict[Any, int] = {}
    for i, split in enumerate(splits):
      counts[split] = number = counts.get(split, -1) + 1  # type: ignore[index]
      ids[i] = f'{split}/{number:08d}' if split else f'{number:08d}'
  else:
    ids = [i.removeprefix('/') for i in ids]
  names = {n: tuple(f['names']) for n, f in features.items() if f['names'] and n in values}
  return Table(
    name=clips.name,
    ids=columns.pack_texts(ids),
    columns={n: columns.pack(v) for n, v in values.items()},
    locate=arrow.Cells([str(f.absolute()) for _, f in files], groups, column, home),
    label_sets=names,
    splits=clips.splits(),
    seconds=seconds,
  )


def _saved(root: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
  """(split, file) of a Dataset or a DatasetDict on disk."""
  if not (root / DICT).is_file():
    return [(_state(root).get('_split') or '', f) for f in _data_files(root)]
  splits = paths.read_object(root / DICT, _COPY).get('splits')
  if not isinstance(splits, list) or not all(map(_is_name, splits)):
    raise InputError(f'{root / DICT} names no splits.')
  return [(split, file) for split in splits for file in _data_files(root / split)]


def _data_files(root: pathlib.Path) -> list[pathlib.Path]:
  state = _state(root)
  if state.get('_indices_files') or state.get('_indices_data_files'):
    raise InputError(f'{root} has a table of indices; call flatten_indices() before save_to_disk.')
  names = [f.get('filename') for f in state.get('_data_files', []) if isinstance(f, dict)]
  if not names or not all(map(_is_name, names)):
    raise InputError(f'{root / STATE} names no data files that lie beside it.')
  return [root / str(name) for name in names]


def _is_name(name: Any) -> bool:
  return isinstance(name, str) and name not in ('', '.', '..') and not set(name) & set('/\0')


def _state(root: pathlib.Path) -> dict[str, Any]:
  return paths.read_object(root / STATE, _COPY)


def _split(root: pathlib.Path, file: pathlib.Path) -> str:
  """The split of a Parquet file: of its name, else of its folder; '' if neither tells it."""
  found = _SHARD.fullmatch(file.stem)
  own = found[1] if found else ''
  folder = file.parent.name if file.parent != root and root.is_dir() else ''
  if folder.lower() in SPLITS:
    return folder
  return own if own.split('.')[0].split('-')[0].lower() in SPLITS else ''


def _features(file: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Column -> its `_type`, class names, whether it is a struct, and whether it becomes a column."""
  arrow.need(file)
  import pyarrow

  schema = arrow.schema(file)
  try:
    about = json.loads((schema.metadata or {}).get(b'huggingface', b'{}'))
    described = about.get('info', {}).get('features') or {}
  except (ValueError, AttributeError):
    described = {}
  found = {}
  for field in schema:
    said = described.get(field.name)
    said = said if isinstance(said, Mapping) else {}
    inner: Any = said.get('feature')
    item = inner if isinstance(inner, Mapping) else said
    kinds = pyarrow.types
    lists = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)
    kind = field.type.value_type if any(f(field.type) for f in lists) else field.type
    struct = kinds.is_struct(field.type)
    names = item.get('names') if item.get('_type') == 'ClassLabel' else None
    found[field.name] = {
      'type': said.get('_type', ''),
      'names': [str(n) for n in names] if isinstance(names, list) else None,
      'struct': struct and 'path' in [f.name for f in field.type],
      'bytes': struct and 'bytes' in [f.name for f in field.type],
      'kept': not any(f(kind) for f in (kinds.is_nested, kinds.is_binary, kinds.is_large_binary)),
    }
  return found


def _audio(file: pathlib.Path, features: Mapping[str, Any], audio: str | None) -> str:
  """The column of audio: by its feature, else a struct of bytes and path."""
  typed = [n for n, f in features.items() if f['type'] == 'Audio']
  found = typed or [n for n, f in features.items() if f['bytes'] and f['struct']]
  if audio is not None:
    found = [n for n in features if n == audio]
  if len(found) != 1:
    raise InputError(
      f'{file} has {len(found)} columns of audio ({listed(found)}; all columns: '
      f'{listed(features)}); name one with audio=.'
    )
  return found[0]


def _classes(value: Value, names: list[str] | None) -> Value:
  """The names of classes for their numbers; -1 and null are no class."""
  if names is None:
    return value
  if isinstance(value, list):
    return [n for v in value if (n := str(_classes(v, names)))]
  number = int(value) if value.lstrip('-').isdecimal() else -1
  if number >= len(names):
    raise InputError(
      f'A row has class {number}, but the schema names {len(names)}: {listed(names)}.'
    )
  return names[number] if number >= 0 else ''


def _seconds(row: dict[str, Value]) -> float:
  for name in SECONDS:
    try:
      return float(row[name])  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
      continue
  return math.nan

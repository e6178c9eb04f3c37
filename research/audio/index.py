"""An index of a large data set: the table of its clips as one memory-mapped file.

Opening it reads a header; ids, durations and columns stay on disk and are shared by all processes
of a machine. The file is `MAGIC`, the length of the header (u64, little-endian), the sha256 of the
header, the header (JSON) and the arrays, each at a multiple of 64 bytes. The header names every
array with its dtype, shape and place, and holds the sha256 of all of them together.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from research.audio import columns
from research.audio.clips import Files, Source, Table, fingerprint, recording_hash
from research.audio.example import Value
from research.errors import InputError

MAGIC = b'oidoidx1'
FILE = 'clips.index'
_PRELUDE = struct.Struct('<8sQ32s')
_ALIGNED = 64
_DTYPES = ('bool', 'uint8', 'uint16', 'uint32', 'uint64', 'int64', 'float64')


@dataclasses.dataclass
class Index:
  """An open index.

  Attributes:
    path: the file.
    header: what it says of itself.
  """

  path: pathlib.Path
  header: dict[str, Any]

  def __post_init__(self):
    self._data = np.memmap(self.path, np.uint8, 'r')

  def __reduce__(self):
    return read, (self.path.absolute(),)

  def __len__(self) -> int:
    return self.header['count']

  def array(self, name: str) -> np.ndarray:
    """An array of the file, read-only."""
    where = self.header['arrays'][name]
    found = self._data[where['at'] : where['at'] + _bytes(where)].view(where['dtype'])
    return np.asarray(found).reshape(where['shape'])

  def column(self, name: str) -> Any:
    """A column of the table, a `columns.Column`."""
    position = list(self.header['columns']).index(name)
    return columns.KINDS[self.header['columns'][name]](self, f'column{position}')

  def texts(self, name: str) -> columns.Texts:
    """Ids or paths."""
    return columns.Texts(self, name)

  def table(self, locate: Any, reopen: tuple[Any, ...]) -> Table:
    """The table of the clips. `reopen` is (function, argument …) that makes it again."""
    header = self.header
    return Table(
      name=header['name'],
      ids=self.texts('ids'),
      columns={name: self.column(name) for name in header['columns']},
      locate=locate,
      label_sets={k: tuple(v) for k, v in header['label_sets'].items()},
      splits={k: tuple(v) for k, v in header['splits'].items()},
      # Copy on write: durations that are unknown are measured when they are asked for.
      seconds=_private(self, 'seconds'),
      absent=header['absent'],
      stored=Stored(header['fingerprint'], self.array('recordings'), reopen),
    )

  def verify(self) -> None:
    """Raises InputError if the arrays are not those that were written."""
    if _checksum(self._data[self.header['first'] :]) != self.header['sha256']:
      raise InputError(f'{self.path} does not match its checksum; {_AGAIN}')


@dataclasses.dataclass(frozen=True)
class Stored:
  """What an index knows of all its rows; see `Table.stored`."""

  fingerprint: str
  recordings: np.ndarray
  reopen: tuple[Any, ...]


_AGAIN = 'make it again with `python -m launch.prepare_data`, or copy it again.'


def read(path: str | os.PathLike) -> Index:
  """Opens an index.

  Raises:
    InputError: it is missing, of another format, damaged or truncated.
  """
  path = pathlib.Path(path)
  try:
    size = path.stat().st_size
    with open(path, 'rb') as file:
      start = file.read(_PRELUDE.size)
      magic, length, digest = _PRELUDE.unpack(start.ljust(_PRELUDE.size, b'\0'))
      if magic[:7] != MAGIC[:7]:
        raise InputError(f'{path} is not an index of clips; {_AGAIN}')
      if magic != MAGIC:
        raise InputError(
          f'{path} has format {magic.decode(errors="replace")!r}, but {MAGIC.decode()!r} is '
          f'expected; {_AGAIN}'
        )
      text = file.read(length) if length <= size else b''
  except OSError as error:
    raise InputError(f'The index {path} cannot be read: {error.strerror or error}.') from None
  if hashlib.sha256(text).digest() != digest:
    raise InputError(f'{path} is damaged or truncated in its header; {_AGAIN}')
  header = _header(path, text)
  if size != header['size']:
    raise InputError(
      f'{path} has {size} bytes, but its header says {header["size"]}: it is truncated; {_AGAIN}'
    )
  for name, where in header['arrays'].items():
    if not _inside(where, size):
      raise InputError(f'{path} describes its array {name!r} as {str(where)[:200]}; {_AGAIN}')
  return Index(path, header)


_KEYS: dict[str, type] = {
  'name': str, 'count': int, 'columns': dict, 'about': dict, 'label_sets': dict, 'splits': dict,
  'absent': dict, 'fingerprint': str, 'arrays': dict, 'first': int, 'size': int, 'sha256': str,
}  # fmt: skip


def _header(path: pathlib.Path, text: bytes) -> dict[str, Any]:
  """The header of an index, checked field by field: a right checksum does not make it valid."""
  try:
    header = json.loads(text.decode(errors=columns.ESCAPED))
  except (ValueError, RecursionError):
    header = None
  known = isinstance(header, dict) and all(
    isinstance(header.get(key), kind) for key, kind in _KEYS.items()
  )
  if not known or any(kind not in columns.KINDS for kind in header['columns'].values()):
    raise InputError(f'{path} has a header that is not one of an index; {_AGAIN}')
  return header


def _inside(where: Any, size: int) -> bool:
  """Whether an array of the header lies in the file."""
  if not isinstance(where, dict) or where.get('dtype') not in _DTYPES:
    return False
  shape = where.get('shape')
  numbers = [where.get('at'), *shape] if isinstance(shape, list) else [None]
  if not all(type(n) is int and n >= 0 for n in numbers):
    return False
  return where['at'] + _bytes(where) <= size


def write(
  path: str | os.PathLike,
  *,
  name: str,
  ids: Sequence[str],
  seconds: Float[np.ndarray, 'clips'],
  values: Mapping[str, Sequence[Value]],
  label_sets: Mapping[str, Sequence[str]],
  splits: Mapping[str, Sequence[str]],
  absent: Mapping[str, int],
  about: Mapping[str, Any],
  extra: Mapping[str, np.ndarray] | None = None,
  texts: Mapping[str, Sequence[str]] | None = None,
  segments: np.ndarray | None = None,
  recordings: np.ndarray | None = None,
) -> None:
  """Writes an index; after a kill the file is the old one or the new one.

  Args:
    path: the file.
    name: name of the data set.
    ids: unique ids of the clips.
    seconds: their durations, NaN if unknown.
    values: columns.
    label_sets: see `Table`, as are `splits` and `absent`.
    splits: groups of splits.
    absent: clips without audio.
    about: more for the header, JSON-able.
    extra: more arrays.
    texts: more texts, one a clip.
    segments: see `Table`.
    recordings: hashes of the recordings of the clips, if their ids do not name them.

  Raises:
    InputError: an id occurs twice.
  """
  arrays: dict[str, np.ndarray] = {'seconds': np.asarray(seconds, np.float64), **(extra or {})}
  for key, given in {'ids': ids, **(texts or {})}.items():
    columns.store_texts(key, given, arrays)
  kinds = {n: columns.store(f'column{i}', v, arrays) for i, (n, v) in enumerate(values.items())}
  if len(set(ids)) != len(ids):
    raise InputError(f'Data set {name!r} lists a clip twice; every clip needs a unique id.')
  if recordings is None:
    recordings = np.fromiter(map(recording_hash, ids), np.uint64, len(ids))
  arrays['recordings'] = recordings
  places, at = {}, 0
  for key, array in arrays.items():
    places[key] = {'dtype': array.dtype.name, 'shape': list(array.shape), 'at': at}
    at += -(-array.nbytes // _ALIGNED) * _ALIGNED
  header = {
    'name': name, 'count': len(ids), 'columns': kinds, 'about': dict(about),
    'label_sets': {k: list(v) for k, v in label_sets.items()},
    'splits': {k: list(v) for k, v in splits.items()}, 'absent': dict(absent),
    'fingerprint': fingerprint(ids, values, range(len(ids)), segments),
  }  # fmt: skip
  _write_file(pathlib.Path(path), header, places, at, list(arrays.values()))


def _write_file(
  path: pathlib.Path,
  header: dict[str, Any],
  places: dict[str, Any],
  total: int,
  arrays: Sequence[np.ndarray],
) -> None:
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(_padded(array))
  # The header says where the arrays begin, which its own length decides: it gets room to spare.
  shape = json.dumps({**header, 'arrays': places}).encode()
  first = -(-(_PRELUDE.size + len(shape) + 64 * (len(places) + 8)) // _ALIGNED) * _ALIGNED
  moved = {k: {**v, 'at': v['at'] + first} for k, v in places.items()}
  whole = {
    **header, 'arrays': moved, 'first': first, 'size': first + total, 'sha256': digest.hexdigest()
  }  # fmt: skip
  text = json.dumps(whole).encode().ljust(first - _PRELUDE.size)
  temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  with open(temporary, 'wb') as file:
    file.write(_PRELUDE.pack(MAGIC, len(text), hashlib.sha256(text).digest()) + text)
    for array in arrays:
      file.write(_padded(array))
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def _padded(array: np.ndarray) -> bytes:
  size = -(-array.nbytes // _ALIGNED) * _ALIGNED
  return np.ascontiguousarray(array).tobytes().ljust(size, b'\0')


def _checksum(data: np.ndarray) -> str:
  digest = hashlib.sha256()
  for at in range(0, len(data), 2**24):
    digest.update(data[at : at + 2**24].tobytes())
  return digest.hexdigest()


def _bytes(where: Mapping[str, Any]) -> int:
  return math.prod(where['shape']) * np.dtype(where['dtype']).itemsize


def _private(index: Index, name: str) -> np.ndarray:
  where = index.header['arrays'][name]
  if not math.prod(where['shape']):
    return np.zeros(where['shape'], where['dtype'])
  shape = tuple(where['shape'])
  return np.memmap(index.path, where['dtype'], 'c', offset=where['at'], shape=shape)


def write_files(source: Source, path: str | os.PathLike) -> None:
  """Writes the index of a source of audio files, with their durations.

  Raises:
    InputError: the clips are not files, or parts of files, below one folder.
  """
  locate = source.table.locate
  if not isinstance(locate, Files) or locate.gain != 1.0:
    raise InputError(
      f'Data source {source.name!r} is not a folder of audio files as they are, so it cannot be '
      'indexed: write shards of it, without --index_only.'
    )
  rows = source.rows
  extra, texts = {}, {}
  if locate.paths is not source.table.ids:
    texts['paths'] = [locate.paths[r] for r in rows]
  for key, given in (('starts', locate.starts), ('lengths', locate.seconds)):
    if given is not None:
      extra[key] = np.array([np.nan if given[r] is None else given[r] for r in rows], np.float64)
  write(
    path,
    name=source.name,
    ids=[source.id(i) for i in range(len(source))],
    seconds=source.durations(),
    values={n: source.column(n) for n in source.column_names},
    label_sets={n: source.classes(n) for n in kept_label_sets(source)},
    splits=source.table.splits,
    absent=source.table.absent,
    about={'root': os.path.abspath(locate.root)},
    extra=extra,
    texts=texts,
    segments=None if source.table.segments is None else source.table.segments[rows],
    recordings=source.recordings(),
  )


def kept_label_sets(source: Source) -> list[str]:
  """Columns whose classes the rows do not determine: published orders, classes of other splits."""
  found = []
  for name in source.column_names:
    values = [[v] if isinstance(v, str) else v for v in source.column(name)]
    own = {c for v in values for c in v if c}
    if name in source.table.label_sets or set(source.classes(name)) != own:
      found.append(name)
  return found


def index(path: str, audio: str | None = None, verify: bool = False) -> Source:
  """The clips of an index of audio files, written by `launch/prepare_data.py --index_only`.

  Args:
    path: the folder with the index.
    audio: the folder of the audio, if it is elsewhere than when the index was made.
    verify: check the checksum of the index first.

  Raises:
    InputError: see `read`; or the index is that of shards.
  """
  found = read(pathlib.Path(path) / FILE)
  if verify:
    found.verify()
  if 'root' not in found.header['about']:
    raise InputError(f'{found.path} is the index of shards, but {path} lacks their index.json.')
  return Source(files_table(found.path, audio))


def files_table(path: pathlib.Path, audio: str | None) -> Table:
  """The table of an index of audio files."""
  found = read(path)
  arrays = found.header['arrays']
  paths = found.texts('paths' if 'paths.offsets' in arrays else 'ids')
  root = audio or found.header['about']['root']
  starts = found.array('starts') if 'starts' in arrays else None
  lengths = found.array('lengths') if 'lengths' in arrays else None
  return found.table(Indexed(root, paths, starts, lengths), (files_table, path.absolute(), audio))


class Indexed(Files):
  """Files of an index, whose paths are only checked when a clip is read: they are many."""

  def __call__(self, row: int) -> dict[str, Any]:
    path = self.paths[row]
    if os.path.isabs(path) or '..' in path.split('/'):
      raise InputError(
        f'The index of {self.root} has the path {path!r}, which leaves that folder; {_AGAIN}'
      )
    return super().__call__(row)

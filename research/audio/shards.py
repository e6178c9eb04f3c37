"""ArrayRecord shards of audio, written by `launch/prepare_data.py`; the fastest source to read.

A folder holds `audio-00000-of-00008.array_record` …, `index.json`, which describes them, and
`clips.index` (`audio/index.py`), which holds ids, durations and columns. A record is a 4-byte
little-endian length, that many bytes of JSON (id, encoding, sample_rate, columns), and the audio:
`pcm16`, mono little-endian 16-bit samples; or `file`, the bytes of an audio file. The records are
self-contained; the index repeats their headers, so that opening a data set reads no audio.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.audio import index as clips_index
from research.audio import trouble
from research.audio.clips import Source, Table
from research.audio.decode import AudioError
from research.audio.example import Example, Value
from research.audio.readers import Readers
from research.audio.remote_shards import RemoteReaders
from research.errors import InputError
from research.jobs import paths

FORMAT = 'oido-audio-2'
INDEX = 'index.json'
ESCAPED = 'surrogateescape'
# One record per group: random access reads one clip. zstd does not shrink PCM or audio files.
OPTIONS = 'group_size:1,uncompressed'


def shard_name(k: int, count: int) -> str:
  """The file name of shard `k` of `count`."""
  return f'audio-{k:05d}-of-{count:05d}.array_record'


def pack(example: Example, encoding: str, sample_rate: int | None, audio: bytes) -> bytes:
  """A record: header and audio."""
  header = {
    'id': example.id,
    'encoding': encoding,
    'sample_rate': sample_rate,
    'columns': dict(example.columns),
  }
  # File names may contain arbitrary bytes.
  text = json.dumps(header, ensure_ascii=False, separators=(',', ':')).encode(errors=ESCAPED)
  return struct.pack('<I', len(text)) + text + audio


def unpack(record: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
  """A record's header, and the fields of `Example` that hold its audio."""
  (size,) = struct.unpack_from('<I', record)
  header = json.loads(record[4 : 4 + size].decode(errors=ESCAPED))
  if header['encoding'] == 'pcm16':
    array = np.frombuffer(record, '<i2', offset=4 + size)
    return header, {'array': array, 'sample_rate': header['sample_rate']}
  return header, {'data': record[4 + size :]}


@dataclasses.dataclass
class Records:
  """Locates and reads row i in its shard. Thread-safe; reopened in every process."""

  paths: Sequence[str]
  counts: Sequence[int]

  def __post_init__(self):
    self._starts = np.concatenate([[0], np.cumsum(self.counts)])
    remote = bool(self.paths) and paths.is_remote(self.paths[0])
    self._readers: Any = RemoteReaders() if remote else Readers()

  def __getstate__(self):
    return {'paths': self.paths, 'counts': self.counts}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self.__post_init__()

  def record(self, row: int) -> bytes:
    """The bytes of record `row`.

    Raises:
      AudioError: the record is damaged.
      InputError: the machine cannot read the shard, though it was tried again.
    """
    shard = int(np.searchsorted(self._starts, row, side='right')) - 1
    path, number = self.paths[shard], row - int(self._starts[shard])
    return trouble.patiently(lambda: self._readers.read(path, number))

  def __call__(self, row: int) -> dict[str, Any]:
    try:
      return unpack(self.record(row))[1]
    except (struct.error, KeyError, TypeError, ValueError, RecursionError) as error:
      if isinstance(error, InputError):
        raise
      reason = f'Its header is damaged ({type(error).__name__}).'
      raise AudioError(f'record {row}', reason) from None


def array_record(path: str, verify: bool = False) -> Source:
  """The clips of a folder of shards.

  Args:
    path: the folder with index.json, of a disk or gs:// or s3://.
    verify: check the checksums of the index and of every shard first.

  Raises:
    InputError: no index, or a shard is missing, truncated or (with `verify`) changed.
  """
  folder = paths.path(path)
  index = read_index(folder)
  sizes = _remote_sizes(folder) if paths.is_remote(folder) else None
  for shard in index['shards']:
    check_shard(folder, shard, verify, sizes)
  if verify:
    clips_index.read(folder / clips_index.FILE).verify()
  return Source(_table(folder, index))


def array_record_rows(folder: pathlib.Path) -> Source:
  """As `array_record`, without a look at the shards."""
  return Source(_table(folder))


def _remote_sizes(folder: paths.AnyPath) -> dict[str, int]:
  """{name: bytes} of the objects of a folder, by one request for a thousand of them."""
  with paths.sentences(folder, 'read'):
    found = paths.patiently(lambda: paths.store(folder).ls(str(folder), detail=True))
  return {entry['name'].rsplit('/', 1)[-1]: entry.get('size') for entry in found}


def _table(folder: paths.AnyPath, index: Mapping[str, Any] | None = None) -> Table:
  """The table of a folder of shards."""
  index = index or read_index(folder)
  records = Records(
    [str(folder / s['file']) for s in index['shards']], [s['count'] for s in index['shards']]
  )
  remote = paths.is_remote(folder)
  rows = clips_index.read(paths.local_copy(folder / clips_index.FILE))
  if remote:
    rows.verify()  # what came over the network is what was written
  if rows.header['about'].get('plan') != index['plan'] or len(rows) != index['count']:
    raise InputError(
      f'{rows.path} is not the index of the shards beside it: prepare the data again, or copy the '
      'whole folder again.'
    )
  return rows.table(records, (_table, folder if remote else folder.absolute()))


def read_index(folder: paths.AnyPath) -> dict[str, Any]:
  """The parsed index.json of a folder of shards."""
  path = folder / INDEX
  try:
    with paths.sentences(path, 'read') if paths.is_remote(path) else contextlib.nullcontext():
      there = not paths.is_remote(path) or paths.info(path) is not None
      data = paths.read_bytes(path) if there else b''
    if not there:
      raise InputError(
        f'{folder} holds no {INDEX}, so it is not a finished folder of shards. Audio files that '
        'lie loose are read from a disk alone: make shards of them with `python -m '
        'launch.prepare_data`, and copy that folder to the store.'
      )
    index = json.loads(data.decode(errors=ESCAPED))
  except InputError:
    raise
  except OSError:
    raise InputError(
      f'{folder} holds no {INDEX}, so it is not a finished folder of shards; make one with '
      '`python -m launch.prepare_data --source=… --out=…` (run it again if it was interrupted).'
    ) from None
  except ValueError:
    index = None
  if not isinstance(index, dict) or index.get('format') != FORMAT:
    raise InputError(f'{path} is not an index of audio shards of format {FORMAT!r}.')
  found: Any = index.get('shards')
  known = isinstance(found, list) and all(map(_described, found)) and 'plan' in index
  if not known or sum(shard['count'] for shard in found) != index.get('count'):
    raise InputError(
      f'{path} is damaged: every shard needs a file (the name of one beside the index), count, '
      'bytes and sha256; prepare the data again or copy that file again.'
    )
  return index


def _described(shard: Any) -> bool:
  """Whether an entry of the index is one of a shard. Its file lies in the folder: an index that
  came with data may not lead out of it."""
  if not isinstance(shard, dict) or not all(type(shard.get(k)) is int for k in ('count', 'bytes')):
    return False
  file = shard.get('file')
  plain = (
    isinstance(file, str) and file.endswith('.array_record') and os.path.basename(file) == file
  )
  return plain and isinstance(shard.get('sha256'), str)


def check_shard(
  folder: paths.AnyPath,
  shard: Mapping[str, Any],
  verify: bool,
  sizes: Mapping[str, int] | None = None,
) -> None:
  """Checks the size of a shard against the index, and with `verify` its checksum.

  Raises:
    InputError: the shard is missing or differs from the index.
  """
  path = folder / shard['file']
  if sizes is not None:
    size = sizes.get(shard['file'])
  else:
    size = path.stat().st_size if path.is_file() else None
  if size is None:
    problem = 'is missing'
  elif size != shard['bytes']:
    problem = f'has {size} bytes, but the index says {shard["bytes"]}'
  elif verify and checksum(path) != shard['sha256']:
    problem = 'does not match its checksum in the index'
  else:
    return
  raise InputError(f'Shard {path} {problem}; prepare the data again or copy that file again.')


def checksum(path: str | os.PathLike) -> str:
  """The sha256 of a file, also of a remote one."""
  if paths.is_remote(path):
    found = hashlib.sha256()
    with paths.sentences(path, 'read'):
      size = (paths.info(path) or {'size': 0})['size']
      for at in range(0, size, 2**24):
        found.update(paths.read_bytes(path, at, min(at + 2**24, size)))
    return found.hexdigest()
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON atomically: after a kill, the file is either the old one or the new one."""
  temporary = path.with_name(path.name + '.tmp')
  with open(temporary, 'w', encoding='utf-8', errors=ESCAPED) as file:
    json.dump(value, file, ensure_ascii=False, separators=(',', ':'))
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def rows_of(examples: Sequence[tuple[str, float, Mapping[str, Value]]]) -> dict[str, Any]:
  """Ids, durations and columns of clips in the column-wise layout of the index."""
  names = list(dict.fromkeys(name for _, _, columns in examples for name in columns))
  return {
    'ids': [id for id, _, _ in examples],
    'durations': [seconds for _, seconds, _ in examples],
    'columns': {n: [columns.get(n, '') for _, _, columns in examples] for n in names},
  }

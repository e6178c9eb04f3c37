"""Any source to ArrayRecord shards: in order, deterministic, and resumable after a kill.

A shard is written beside its final name and renamed when it is complete, then described by a small
JSON file; a second run keeps what is described so, if the checksum is right. When all shards are
there, the descriptions become one index: index.json and clips.index.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import soundfile
from array_record.python import array_record_module

from research.audio import decode, shards, trouble
from research.audio import index as clips_index
from research.audio.bad_files import BadFiles
from research.audio.clips import Source
from research.audio.example import Example
from research.errors import InputError, unknown
from research.jobs import folders, locks
from research.jobs.parts import Job

ENCODINGS = ('pcm16', 'flac', 'copy')
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to write shards.

  Attributes:
    encoding: 'pcm16', 'flac', or 'copy', the bytes of the files.
    sample_rate: Hz; None for 'copy'.
    num_workers: threads that decode; 0 decodes in the calling thread.
  """

  encoding: str = 'pcm16'
  sample_rate: int | None = 16000
  num_workers: int = 2

  def __post_init__(self):
    if self.encoding not in ENCODINGS:
      raise unknown('encoding', self.encoding, ENCODINGS)
    if self.encoding == 'copy' and self.sample_rate is not None:
      raise InputError('encoding=copy keeps the files as they are: give no sample_rate with it.')
    if self.encoding != 'copy' and not self.sample_rate:
      raise InputError(f'encoding={self.encoding} needs a sample_rate above 0.')


def shard_count(source: Source, settings: Settings, shard_mib: float) -> int:
  """How many shards of about `shard_mib` MiB the source makes."""
  if settings.encoding == 'copy':
    sizes = [len(e.data) if e.data is not None else _size(e.path) for e in source]
    total = float(sum(sizes))
  else:
    rate = settings.sample_rate or 0
    # FLAC is about 55 % of PCM.
    factor = 1.0 if settings.encoding == 'pcm16' else 0.55
    total = float(source.durations().sum()) * rate * 2 * factor
  return max(1, min(len(source), math.ceil(total / (shard_mib * MIB))))


def prepare(
  source: Source,
  out: str | os.PathLike,
  *,
  count: int,
  settings: Settings,
  max_bad_fraction: float = 0.01,
  progress: Callable[[int], None] = lambda n: None,
  process: tuple[int, int] = (0, 1),
  part: tuple[int, int] = (0, 1),
) -> dict[str, Any]:
  """Writes `count` shards and their index into `out`; returns index.json, {} on later processes.

  With `part` (i, n) only every n-th shard is written, from shard i. The parts need not run at the
  same time or know of each other; the one that ends last makes the index, the others return {}.

  Args:
    source: the clips; those that cannot be decoded are left out and listed in bad_files.jsonl.
    out: a new folder, or one that an interrupted run of the same preparation left.
    count: how many shards.
    settings: encoding and sample rate.
    max_bad_fraction: of the clips; more stop the preparation.
    progress: called with the number of clips done since the last call.
    process: (index, count) of the processes that share the shards and run together.
    part: (index, count) of the independent runs that share the shards.

  Raises:
    InputError: `out` holds something else or is in use by another process, too many bad files, or a
      full disk.
  """
  folder = pathlib.Path(out)
  count = min(count, len(source))
  names = [shards.shard_name(k, count) for k in range(count)]
  own = range(part[0], count, part[1])
  claimed = folder / f'.part-{part[0]}-of-{part[1]}' if part[1] > 1 else folder
  store = _Shards(folder, names, _plan(source, count, settings), claimed)
  listed = folder / 'bad_files.jsonl'
  bad = BadFiles(listed, max_bad_fraction, total=len(source), process=process[0] or part[0])
  edges = np.linspace(0, len(source), count + 1).round().astype(int)
  sizes = np.diff(edges)[list(own)].tolist()
  job = Job(store, [names[k] for k in own], sizes, out=out, process=process, part_seconds=0.0)

  def work(numbers: list[int]) -> Iterator[dict[str, Any]]:
    if not job.index:
      progress(job.resumed)
    for k in (own[number] for number in numbers):
      rows = range(int(edges[k]), int(edges[k + 1]))
      yield _write_shard(source, rows, folder / names[k], settings, bad, progress)

  def finish() -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
      if part[1] > 1:
        stack.enter_context(folders.lock(folder))
        if not store.complete():
          store.release()
          return {}
      index = _merge(source, store, settings)
      bad.merge(remove=True)
      if part[1] > 1:
        (folder / locks.LOCK).unlink(missing_ok=True)
    store.release()
    return index

  return job.run(work, finish) or {}


def _plan(source: Source, count: int, settings: Settings) -> str:
  """A hash of what decides the content of the shards."""
  parts = (source.fingerprint(), count, settings.encoding, settings.sample_rate, shards.FORMAT)
  return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class _Shards:
  """Shards as a job finds and adds them: each is described beside it, or by the index of all."""

  def __init__(self, folder: pathlib.Path, names: Sequence[str], plan: str, claimed: pathlib.Path):
    """`claimed` is the folder that this run holds while it works."""
    self.folder, self.names, self.plan, self.claimed = folder, names, plan, claimed

  def open(self) -> None:
    """Refuses a folder that another preparation wrote into."""
    locks.claim(self.claimed)
    described = [*self.folder.glob('*.array_record.json'), *self.folder.glob(shards.INDEX)]
    for path in described:
      try:
        other = json.loads(path.read_text(encoding='utf-8', errors=shards.ESCAPED)).get('plan')
      except FileNotFoundError:  # Another part has just made the index.
        continue
      except ValueError:
        other = None
      if other != self.plan:
        raise InputError(
          f'{self.folder} holds shards of other data or settings ({path.name}); give another '
          '--out, or remove that folder.'
        )
    if not described and any(self.folder.glob('*.array_record')):
      raise InputError(
        f'{self.folder} holds ArrayRecord files that are not from here; give another --out.'
      )

  def done(self, keys: Collection[str]) -> set[str]:
    """Shards that are complete; one that was damaged since is written again."""
    found = set()
    for name in keys:
      with contextlib.suppress(InputError, FileNotFoundError):
        shards.check_shard(self.folder, self.shard(name), verify=True)
        found.add(name)
    return found

  def write(self, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Describes shards, and gives them their names."""
    for name, part in results.items():
      # In this order, for other parts look at the folder meanwhile.
      shards.write_json(self.path(name), {**part, 'plan': self.plan})
      os.replace(_temporary(self.folder / name), self.folder / name)

  def complete(self) -> bool:
    """Whether all shards are there, those of other parts too."""
    try:
      for name in self.names:
        shards.check_shard(self.folder, self.shard(name), verify=False)
    except InputError:
      return False
    return True

  def release(self) -> None:
    """Gives the folder back and leaves no trace in it."""
    locks.release(self.claimed)
    if self.claimed != self.folder:
      with contextlib.suppress(OSError):
        self.claimed.rmdir()

  def shard(self, name: str) -> dict[str, Any]:
    """Size and checksum of a shard; raises InputError if they are not known."""
    path = self.path(name)
    if path.is_file():
      return self.described(name)['shard']
    return next(s for s in shards.read_index(self.folder)['shards'] if s['file'] == name)

  def path(self, name: str) -> pathlib.Path:
    """Where a shard is described."""
    return self.folder / f'{name}.json'

  def described(self, name: str) -> dict[str, Any]:
    """What is known about a shard; raises InputError if nothing is."""
    path = self.path(name)
    if path.is_file():
      return json.loads(path.read_text(encoding='utf-8', errors=shards.ESCAPED))
    return _part_of_index(self.folder, name)


def _temporary(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(path.name + '.tmp')


def _part_of_index(folder: pathlib.Path, name: str) -> dict[str, Any]:
  index = shards.read_index(folder)
  k = [shard['file'] for shard in index['shards']].index(name)
  start = sum(s['count'] for s in index['shards'][:k])
  source = shards.array_record_rows(folder)
  rows = source.select(range(start, start + index['shards'][k]['count']))
  return {
    'shard': index['shards'][k],
    'ids': [rows.id(i) for i in range(len(rows))],
    'durations': rows.durations().tolist(),
    'columns': {n: rows.column(n) for n in rows.column_names},
    'plan': index['plan'],
  }


def _merge(source: Source, store: _Shards, settings: Settings) -> dict[str, Any]:
  """Writes the index of all shards, in the place of their descriptions."""
  parts = [store.described(name) for name in store.names]
  names = source.column_names
  durations = [d for p in parts for d in p['durations']]
  clips_index.write(
    store.folder / clips_index.FILE,
    name=source.name,
    ids=(ids := [i for p in parts for i in p['ids']]),
    recordings=_recordings(source, ids),
    seconds=np.array(durations, np.float64),
    values={n: [v for p in parts for v in p['columns'].get(n, [])] for n in names},
    label_sets={n: source.classes(n) for n in clips_index.kept_label_sets(source)},
    splits=source.table.splits,
    absent=source.table.absent,
    about={'plan': store.plan},
  )
  index = {
    'format': shards.FORMAT,
    'plan': store.plan,
    'name': source.name,
    'encoding': settings.encoding,
    'sample_rate': settings.sample_rate,
    'count': len(durations),
    'seconds': sum(durations),
    'shards': [p['shard'] for p in parts],
  }
  shards.write_json(store.folder / shards.INDEX, index)
  for name in store.names:
    store.path(name).unlink(missing_ok=True)
  return index


def _recordings(source: Source, ids: Sequence[str]) -> np.ndarray | None:
  """Hashes of the recordings of clips, where ids do not tell them."""
  if source.table.segments is None:
    return None
  known = dict(zip((source.id(i) for i in range(len(source))), source.recordings()))
  return np.array([known[id] for id in ids], np.uint64)


def _write_shard(
  source: Source,
  rows: range,
  path: pathlib.Path,
  settings: Settings,
  bad: BadFiles,
  progress: Callable[[int], None],
) -> dict[str, Any]:
  """Writes a shard beside its name; what is to be said of it."""
  temporary = _temporary(path)
  temporary.unlink(missing_ok=True)
  known = []
  with _records(temporary) as writer:
    for row, encoded in _encoded(source, rows, settings):
      bad.seen(1)
      progress(1)
      if isinstance(encoded, decode.AudioError):
        bad.record(source.id(row), encoded.where, encoded.reason)
        bad.check()
        continue
      record, seconds, columns = encoded
      writer.write(record)
      known.append((source.id(row), seconds, columns))
  shard = {
    'file': path.name,
    'count': len(known),
    'bytes': temporary.stat().st_size,
    'sha256': shards.checksum(temporary),
  }
  with open(temporary, 'rb') as file:
    os.fsync(file.fileno())
  return {'shard': shard, **shards.rows_of(known)}


@contextlib.contextmanager
def _records(path: pathlib.Path) -> Iterator[Any]:
  """A writer of records; a full disk raises OSError, of which ArrayRecord gives only the text."""
  try:
    with contextlib.closing(
      array_record_module.ArrayRecordWriter(str(path), shards.OPTIONS)
    ) as writer:
      yield writer
  except (RuntimeError, ValueError) as error:
    why = None if isinstance(error, InputError) else trouble.reason(error)
    if why is None:
      raise
    raise OSError(why) from error


def _encoded(source: Source, rows: range, settings: Settings) -> Iterator[tuple[int, Any]]:
  """(row, record or error) in order, encoded by threads a little ahead."""

  def encode(row: int):
    try:
      return _encode(source[row], settings)
    except decode.AudioError as error:
      return error

  if settings.num_workers < 1:
    yield from ((row, encode(row)) for row in rows)
    return
  ahead = 4 * settings.num_workers
  with concurrent.futures.ThreadPoolExecutor(settings.num_workers) as pool:
    waiting = [(row, pool.submit(encode, row)) for row in rows[:ahead]]
    for row in [*rows[ahead:], *[None] * len(waiting)]:
      done, future = waiting.pop(0)
      yield done, future.result()
      if row is not None:
        waiting.append((row, pool.submit(encode, row)))


def _encode(example: Example, settings: Settings) -> tuple[bytes, float, dict[str, Any]]:
  """A record, its seconds and its columns."""
  columns = dict(example.columns)
  if settings.encoding == 'copy':
    seconds = decode.duration(example)
    # Decoded for nothing but to know that it can be.
    decode.decode(example, sample_rate=16000)
    record = shards.pack(example, 'file', None, _file_bytes(example))
    return record, seconds, columns
  rate = settings.sample_rate or 0
  audio = decode.decode(example, sample_rate=rate)
  pcm = np.clip(np.round(audio * 32768.0), -32768, 32767).astype('<i2')
  if settings.encoding == 'pcm16':
    return shards.pack(example, 'pcm16', rate, pcm.tobytes()), len(pcm) / rate, columns
  buffer = io.BytesIO()
  soundfile.write(buffer, pcm, rate, format='FLAC', subtype='PCM_16')
  return shards.pack(example, 'file', None, buffer.getvalue()), len(pcm) / rate, columns


def _file_bytes(example: Example) -> bytes:
  if example.array is not None or example.start or example.seconds is not None:
    raise InputError(
      f'encoding=copy cannot copy {example.id!r}, which is no whole file; use pcm16 or flac.'
    )
  if example.gain != 1.0:
    raise InputError(
      f'encoding=copy cannot copy {example.id!r}, which is read at another level ('
      f'{20 * math.log10(example.gain):g} dB); use pcm16 or flac.'
    )
  if example.data is not None:
    return example.data
  return trouble.patiently(lambda: _bytes_at(example.path or ''))


def _bytes_at(path: str) -> bytes:
  try:
    return pathlib.Path(path).read_bytes()
  except (OSError, MemoryError) as error:
    if why := trouble.reason(error):
      raise trouble.Trouble(path, why) from None
    reason = getattr(error, 'strerror', None) or error
    raise decode.AudioError(path, f'It cannot be opened: {reason}.') from None


def _size(path: str | None) -> int:
  try:
    return os.stat(path or '').st_size
  except OSError:
    return 0

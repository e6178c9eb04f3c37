"""Embeddings of a source into one .npz or .parquet file, a part at a time: killed, it goes on.

Finished parts lie in `<file>.parts/`; the file itself appears when all clips are in it, in the
order of the source.
"""

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.audio.bad_files import BadFiles
from research.errors import InputError
from research.inference.embedder import Embedder
from research.inference.stream import Embedded, stream
from research.jobs import folders, locks
from research.jobs.progress import bar

SUFFIXES = ('.npz', '.parquet')
# A part is written when it is this old or this large: little is lost to a kill, few files are made.
PART_SECONDS = 20.0
PART_BYTES = 64 * 2**20
TOO_SHORT = 'shorter than one frame of the front-end'


def export(
  embedder: Embedder,
  source: Any,
  out: str | os.PathLike,
  *,
  layers: Sequence[int],
  pool: str | None = None,
  seconds: float | None = None,
  about: dict[str, Any] | None = None,
  overwrite: bool = False,
  max_bad_fraction: float = 0.5,
  part_seconds: float = PART_SECONDS,
) -> dict[str, Any]:
  """Embeds every clip of a source into a file.

  .npz: `ids` [n]; `embeddings` [n, d] ([n, l, d] for several layers), or with pool 'none' of all
  tokens of all clips [m, d] ([m, l, d]) with `offsets` [n + 1] and `seconds` [m], when each token's
  audio starts in its clip; `layers` [l]; `column/<name>` [n]; `skipped_ids`, `skipped_reasons`;
  `about` (JSON). .parquet: one row a clip: id, the source's columns, `layer_XX` (lists), `seconds`;
  about in the metadata.

  Args:
    embedder: the system.
    source: clips.
    out: the file; its ending says which kind.
    layers: which layers.
    pool: one of `pooling.NAMES`, or 'none'; None for the system's usual one.
    seconds: only so much of each clip, from its start.
    about: what to say about the model in the file.
    overwrite: whether a file that is there may be replaced.
    max_bad_fraction: share of unreadable clips above which it stops.
    part_seconds: age at which a part is written.

  Returns:
    {clips, skipped, resumed}: how many clips are in the file, were left out, were there already.

  Raises:
    InputError: an ending or pooling that is not known, the file exists, the parts of another job
      are in the way, nothing could be embedded, or the disk is full.
  """
  out = check_out(out, overwrite)
  pool = embedder.pooling(pool)
  about = {**(about or {}), 'layers': list(layers), 'pool': pool, 'max_seconds': seconds}
  about |= {'weights': embedder.weights, 'frontend': embedder.frontend.to_dict()}
  job = _Job(out, source, dict(about, source=source.fingerprint()))
  try:
    remaining = job.open()
    bad = BadFiles(job.folder / 'bad_files.jsonl', max_bad_fraction, total=len(source))
    resumed = len(source) - len(remaining)
    if len(remaining):
      chunks = stream(
        embedder, source.select(remaining), layers=layers, pool=pool, seconds=seconds, bad_files=bad
      )
      with bar('embedding', len(remaining), job.active) as progress:
        job.take(_with_times(chunks, embedder, remaining), progress, part_seconds)
    return dict(resumed=resumed, **(job.finish(about) if job.active else {}))
  except OSError as error:
    kept = f' The finished parts are kept in {job.folder}; the same command goes on from them.'
    raise InputError(
      f'Cannot write {out}: {error.strerror or error}.{kept if Path(job.folder).is_dir() else ""}'
    ) from error


def check_out(out: str | os.PathLike, overwrite: bool = False) -> Path:
  """The path of the file to be written.

  Raises:
    InputError: its ending is not known, pyarrow is missing for .parquet, or the file exists.
  """
  out = folders.writable(out, SUFFIXES, overwrite)
  if out.suffix == '.parquet' and importlib.util.find_spec('pyarrow') is None:
    raise InputError(
      f"{out} needs pyarrow, which is not installed: pip install -e '.[parquet]', or write .npz."
    )
  return out


def _with_times(
  chunks: Iterator[Embedded], embedder: Embedder, rows: np.ndarray
) -> Iterator[tuple[Embedded, np.ndarray | None]]:
  """Each chunk with its rows numbered as in the whole source and, for tokens, their times [n]."""
  times: dict[int, np.ndarray] = {}
  for chunk in chunks:
    chunk = chunk._replace(rows=rows[chunk.rows], too_short=rows[chunk.too_short])
    if chunk.mask is None:
      yield chunk, None
      continue
    if chunk.samples not in times:
      times[chunk.samples] = embedder.token_seconds(chunk.samples)
    yield chunk, times[chunk.samples]


class _Job:
  """The unfinished file: its parts on disk."""

  def __init__(self, out: Path, source: Any, settings: dict[str, Any]):
    self.out, self.source = out, source
    self.folder, self.settings = folders.parts_folder(out), settings
    self.active = jax.process_index() == 0

  def open(self) -> np.ndarray:
    """Rows that are still to do, the same on every process."""
    todo = np.ones(len(self.source), bool)
    if self.active:
      folders.begin(self.folder, self.settings)
      for part in self._parts():
        arrays = folders.read_arrays(part)
        todo[arrays['rows']] = False
        todo[arrays['too_short']] = False
      bad = {name for name, _ in BadFiles(self.folder / 'bad_files.jsonl').items()}
      todo &= np.array([self.source.id(i) not in bad for i in range(len(self.source))])
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      todo = multihost_utils.broadcast_one_to_all(todo)
    return np.flatnonzero(todo)

  def _parts(self) -> list[Path]:
    return sorted(self.folder.glob('part_*.npz'))

  def take(self, chunks, progress, part_seconds: float) -> None:
    """Writes parts as they fill up; a part is there whole or not at all."""
    kept: dict[str, list[np.ndarray]] = {}
    number, started, size, done = len(self._parts()), time.monotonic(), 0, 0
    for chunk, times in chunks:
      done += len(chunk.rows) + len(chunk.too_short)
      progress(done)
      if not self.active:
        continue
      for name, value in _arrays(chunk, times).items():
        kept.setdefault(name, []).append(value)
        size += value.nbytes
      if time.monotonic() - started >= part_seconds or size >= PART_BYTES:
        self._write_part(number, kept)
        kept, number, started, size = {}, number + 1, time.monotonic(), 0
    if kept:
      self._write_part(number, kept)

  def _write_part(self, number: int, kept: dict[str, list[np.ndarray]]) -> None:
    partial = self.folder / 'unfinished.npz'
    arrays: dict[str, Any] = {name: np.concatenate(values) for name, values in kept.items()}
    np.savez(partial, **arrays)
    os.replace(partial, self.folder / f'part_{number:05d}.npz')

  def finish(self, about: dict[str, Any]) -> dict[str, int]:
    """Joins the parts in the order of the source and removes them."""
    parts = self._parts()
    counts, skipped = self._counts(parts)
    rows = np.flatnonzero(counts >= 0)
    if not len(rows):
      reason = next(iter(skipped.values()), 'there is none')
      raise InputError(
        f'No clip of {self.source.name!r} could be embedded; the first: {reason.rstrip(".")}.'
      )
    joined = self._join(parts, counts, rows, about['pool'] == 'none')
    joined['about'] = json.dumps(about)
    partial = self.out.with_name(f'{self.out.name}.partial')
    writer = _write_npz if self.out.suffix == '.npz' else _write_parquet
    writer(partial, joined, self.source.select(rows), about, skipped)
    os.replace(partial, self.out)
    locks.release(self.folder)
    shutil.rmtree(self.folder)
    return {'clips': len(rows), 'skipped': len(skipped)}

  def _counts(self, parts: list[Path]) -> tuple[np.ndarray, dict[str, str]]:
    """Tokens of every clip (1 if pooled, -1 where there are none), and why some are missing."""
    counts = np.full(len(self.source), -1, np.int64)
    skipped = dict(BadFiles(self.folder / 'bad_files.jsonl').items())
    for part in parts:
      arrays = folders.read_arrays(part)
      counts[arrays['rows']] = arrays['counts']
      skipped |= {self.source.id(i): TOO_SHORT for i in arrays['too_short']}
    return counts, skipped

  def _join(
    self, parts: list[Path], counts: np.ndarray, rows: np.ndarray, tokens: bool
  ) -> dict[str, Any]:
    """Arrays on disk with every clip in its place: memory holds one part at a time."""
    offsets = np.concatenate([[0], np.cumsum(counts[rows])])
    place = np.full(len(counts), -1, np.int64)
    place[rows] = offsets[:-1]
    values: Any = None
    seconds: Any = None
    for part in parts:
      arrays = folders.read_arrays(part)
      loaded = arrays['values']  # [m, l, d]
      if values is None:
        shape = (int(offsets[-1]), *loaded.shape[1:])
        file = self.folder / 'joined.npy'
        values = np.lib.format.open_memmap(file, 'w+', np.float32, shape)
        seconds = np.zeros(shape[0] if tokens else 0, np.float32)
      # Where each loaded token goes: its clip's place, and its number within the clip.
      start = np.repeat(place[arrays['rows']], arrays['counts'])
      ends = np.cumsum(arrays['counts'])
      within = np.arange(len(loaded)) - np.repeat(ends - arrays['counts'], arrays['counts'])
      values[start + within] = loaded
      if tokens:
        seconds[start + within] = arrays['seconds']
    joined = {'values': values}
    return joined | ({'offsets': offsets, 'seconds': seconds} if tokens else {})


def _arrays(chunk: Embedded, times: np.ndarray | None) -> dict[str, np.ndarray]:
  """A chunk as arrays that can be joined: values [m, l, d] of m tokens, `counts` of each clip."""
  empty = np.zeros(0, np.int64)
  rows, short = chunk.rows.astype(np.int64), chunk.too_short.astype(np.int64)
  if chunk.mask is None:
    values = np.ascontiguousarray(np.moveaxis(chunk.values, 0, 1))
    return dict(rows=rows, counts=np.ones(len(rows), np.int64), too_short=short, values=values)
  assert times is not None  # tokens come with their times
  clips = np.moveaxis(chunk.values, 0, 2)  # [b, n, l, d]
  when = np.concatenate(
    [times[np.flatnonzero(m)] for m in chunk.mask] or [empty.astype(np.float32)]
  )
  return dict(
    rows=rows,
    counts=chunk.mask.sum(axis=1).astype(np.int64),
    too_short=short,
    values=clips[chunk.mask],
    seconds=when.astype(np.float32),
  )


def _write_npz(partial: Path, joined, source, about, skipped) -> None:
  values = joined['values']
  arrays = {
    'ids': np.array([source.id(i) for i in range(len(source))]),
    'embeddings': values[:, 0] if values.shape[1] == 1 else values,
    'layers': np.array(about['layers']),
    'skipped_ids': np.array(list(skipped), dtype=str),
    'skipped_reasons': np.array(list(skipped.values()), dtype=str),
    'about': np.array(joined['about']),
  }
  arrays |= {name: joined[name] for name in ('offsets', 'seconds') if name in joined}
  for name in source.column_names:
    column = [v if isinstance(v, str) else ';'.join(v) for v in source.column(name)]
    arrays[f'column/{name}'] = np.array(column, dtype=str)
  with open(partial, 'wb') as file:
    np.savez(file, **arrays)


def _write_parquet(partial: Path, joined, source, about, skipped) -> None:
  import pyarrow as pa
  import pyarrow.parquet as pq

  values = joined['values']
  width = values.shape[2]
  offsets = joined.get('offsets')
  vector = pa.list_(pa.float32(), width)
  fields = [('id', pa.string())]
  columns = [n for n in source.column_names if n not in ('id', 'seconds')]
  several = {n: any(not isinstance(v, str) for v in source.column(n)) for n in columns}
  fields += [(n, pa.list_(pa.string()) if several[n] else pa.string()) for n in columns]
  names = [f'layer_{i:02d}' for i in about['layers']]
  fields += [(n, vector if offsets is None else pa.list_(vector)) for n in names]
  fields += [] if offsets is None else [('seconds', pa.list_(pa.float32()))]
  metadata = {'oido': joined['about'], 'oido_skipped': json.dumps(skipped)}
  schema = pa.schema(fields, metadata=metadata)
  per_clip = values[0:1].nbytes * (1 if offsets is None else max(1, offsets[-1] // len(source)))
  size = max(1, int(PART_BYTES // per_clip))
  with pq.ParquetWriter(partial, schema) as writer:
    for start in range(0, len(source), size):
      rows = range(start, min(start + size, len(source)))
      part = source.select(np.array(rows))
      table = [pa.array([source.id(i) for i in rows])]
      table += [pa.array(part.column(n), type=schema.field(n).type) for n in columns]
      first, last = (rows[0], rows[-1] + 1) if offsets is None else offsets[[rows[0], rows[-1] + 1]]
      for place in range(len(names)):
        flat = pa.array(np.ascontiguousarray(values[first:last, place]).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, width)
        table.append(vectors if offsets is None else _lists(pa, vectors, offsets, rows))
      if offsets is not None:
        table.append(_lists(pa, pa.array(joined['seconds'][first:last]), offsets, rows))
      writer.write_table(pa.Table.from_arrays(table, schema=schema))


def _lists(pa, values, offsets: np.ndarray, rows: range):
  """A list a clip of a flat array."""
  cuts = offsets[rows[0] : rows[-1] + 2] - offsets[rows[0]]
  return pa.ListArray.from_arrays(pa.array(cuts.astype(np.int32)), values)

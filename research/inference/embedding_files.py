"""Embeddings of a source into one .npz or .parquet file, a part at a time: killed, it goes on.

Finished parts lie in `<file>.parts/`; the file itself appears when all clips are in it, in the
order of the source.
"""

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.errors import InputError
from research.inference.clip_jobs import ClipJob
from research.inference.embedder import Embedder, check_pooling
from research.inference.stream import BATCH_SECONDS, Embedded
from research.jobs import folders
from research.jobs.parts import PART_SECONDS

SUFFIXES = ('.npz', '.parquet')
# Of embeddings in a row group of .parquet.
GROUP_BYTES = 64 * 2**20


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
  batch_seconds: float = BATCH_SECONDS,
  part_seconds: float = PART_SECONDS,
  worker: tuple[int, int] = (0, 1),
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
    seconds: the first N seconds of each clip; None for all of it.
    about: what to say about the model in the file.
    overwrite: whether a file that is there may be replaced.
    max_bad_fraction: fraction of unreadable clips above which it stops.
    batch_seconds: audio that goes through at once.
    part_seconds: age at which a part is written.
    worker: (index, count) of the independent runs that divide the clips; see `parts.Job`.

  Returns:
    {clips, skipped, resumed}: how many clips are in the file, were left out, were there already.

  Raises:
    InputError: an ending or pooling that is not known, the file exists, the parts of another job
      are in the way, nothing could be embedded, or the disk is full.
  """
  out = check_out(out, overwrite)
  pool = embedder.pooling(pool)
  check_pooling(pool)
  about = {**(about or {}), 'layers': list(layers), 'pool': pool, 'max_seconds': seconds}
  about |= {'weights': embedder.weights, 'frontend': embedder.frontend.to_dict()}
  job = ClipJob(
    embedder,
    source,
    out,
    about,
    layers=layers,
    pool=pool,
    seconds=seconds,
    batch_seconds=batch_seconds,
    max_bad_fraction=max_bad_fraction,
    part_seconds=part_seconds,
    worker=worker,
  )
  keep = _Keep(embedder)
  done = job.run(keep, lambda: _finish(job, out, about), 'embedding')
  return dict(resumed=job.resumed, **(done or {}))


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


class _Keep:
  """What is kept of a batch: `values` [m, l, d] of m tokens, `counts` of each clip, and of tokens
  the `seconds` [m] when each starts."""

  def __init__(self, embedder: Embedder):
    self.embedder = embedder
    self.times: dict[int, np.ndarray] = {}  # by the length of a batch

  def __call__(self, chunk: Embedded) -> dict[str, np.ndarray]:
    if chunk.mask is None:
      values = np.ascontiguousarray(np.moveaxis(chunk.values, 0, 1))
      return {'counts': np.ones(len(chunk.rows), np.int64), 'values': values}
    if chunk.samples not in self.times:
      self.times[chunk.samples] = self.embedder.token_seconds(chunk.samples)
    place = np.nonzero(chunk.mask)[1]
    return {
      'counts': chunk.mask.sum(axis=1).astype(np.int64),
      'values': np.moveaxis(chunk.values, 0, 2)[chunk.mask],
      'seconds': self.times[chunk.samples][place].astype(np.float32),
    }


def _finish(job: ClipJob, out: Path, about: dict[str, Any]) -> dict[str, int]:
  """Joins the parts in the order of the source and removes them."""
  rows = np.flatnonzero(job.counts >= 0)
  if not len(rows):
    raise InputError(
      f'No clip of {job.source.name!r} could be embedded; the first: {job.first_reason()}.'
    )
  tokens = about['pool'] == 'none'
  offsets, arrays = job.joined('values', *(['seconds'] if tokens else []))
  joined: dict[str, Any] = {**arrays, 'about': json.dumps(about)}
  joined |= {'offsets': offsets} if tokens else {}
  skipped = job.skipped()
  write(out, joined, job.source.select(rows), about, skipped)
  job.remove()
  return {'clips': len(rows), 'skipped': len(skipped)}


def write(
  out: Path,
  joined: dict[str, Any],
  source: Any,
  about: dict[str, Any],
  skipped: dict[str, str] | None = None,
) -> None:
  """Writes what `export` describes; a reader never sees half a file.

  Args:
    out: the file.
    joined: 'values' [m, l, d], 'about' (JSON), with tokens also 'offsets' [n + 1] and 'seconds'
      [m].
    source: the n clips or texts, by ids and columns.
    about: the settings; 'layers' are named in the file.
    skipped: {id: why it is not there}.
  """
  partial = out.with_name(f'{out.name}.partial')
  writer = _write_npz if out.suffix == '.npz' else _write_parquet
  writer(partial, joined, source, about, skipped or {})
  os.replace(partial, out)


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
  size = max(1, int(GROUP_BYTES // per_clip))
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

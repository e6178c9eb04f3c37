"""Embeddings of a whole source, computed once and kept on disk as memory-mapped arrays."""

import contextlib
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from research import distributed
from research.errors import InputError
from research.inference.clip_jobs import ClipJob
from research.inference.embedder import Embedder, check_pooling, digest
from research.inference.stream import Embedded
from research.jobs import folders


class Features(NamedTuple):
  """Embeddings of a source, row by row."""

  layers: dict[int, np.ndarray]  # layer -> f32 [n, d], memory-mapped
  valid: np.ndarray  # bool [n], False for clips that could not be embedded
  missing: dict[str, str]  # id -> why
  seconds: float  # wall time the embedding took, when it was computed
  cached: bool


def embed_source(
  embedder: Embedder,
  source: Any,
  *,
  cache: str | os.PathLike,
  layers: Sequence[int],
  pool: str | None = None,
  seconds: float | None = None,
  max_bad_fraction: float = 0.5,
  progress: Callable[[int], None] = lambda done: None,
) -> Features:
  """Embeddings of every clip, from the cache where it has them.

  The cache key holds weights, front-end, the clips with their labels, their files' sizes and times,
  pooling and length; each layer is a file of its own, so tasks that share clips share embeddings.

  Args:
    embedder: the system; its own pooling, if it has one, takes the place of `pool`.
    source: clips.
    cache: folder for `<key>/layer_XX.npy`; several processes see the same.
    layers: which layers.
    pool: one of `pooling.NAMES`; None for the system's usual one.
    seconds: the first N seconds of each clip; None for all of it.
    max_bad_fraction: fraction of unreadable clips above which it stops.
    progress: called with the number of clips done.

  Raises:
    InputError: unknown pooling, too many bad files.
  """
  pool = embedder.pooling(pool)
  check_pooling(pool)
  parts = dict(system=embedder.fingerprint(), source=source.fingerprint(), files=files_hash(source))
  parts |= dict(pool=pool, seconds=seconds)
  folder = Path(cache) / digest(parts)
  first = jax.process_index() == 0
  wanted = _wanted(folder, layers, len(source), say=lambda *text: None) if first else list(layers)
  # Another run may be making the same embeddings: it is waited for, and then they are there.
  with folders.lock(folder) if first and wanted else contextlib.nullcontext():
    if first and wanted:
      wanted = _wanted(folder, layers, len(source), say=logging.warning)
    if wanted := json.loads(distributed.broadcast(json.dumps(wanted).encode())):
      _embed(embedder, source, folder, wanted, parts, max_bad_fraction, progress)
    if not first:
      return Features({}, np.zeros(len(source), bool), {}, 0.0, not wanted)
    valid, meta = _description(folder, len(source))
    found = {i: _layer(folder, i, len(source), None) for i in layers}
  return Features(found, valid, meta['missing'], meta['took'], not wanted)


def _embed(
  embedder: Embedder,
  source: Any,
  folder: Path,
  wanted: list[int],
  about: Mapping[str, Any],
  max_bad_fraction: float,
  progress: Callable[[int], None],
) -> None:
  """Embeds the layers that are wanted; a killed run goes on where it was."""
  job = ClipJob(
    embedder,
    source,
    folder / f'layers_{digest(wanted)}',
    about,
    layers=wanted,
    pool=about['pool'],
    seconds=about['seconds'],
    max_bad_fraction=max_bad_fraction,
  )
  started, done = time.perf_counter(), 0

  def keep(chunk: Embedded) -> dict[str, np.ndarray]:
    nonlocal done
    done += len(chunk.rows) + len(chunk.too_short)
    progress(done)
    values = np.ascontiguousarray(np.moveaxis(chunk.values, 0, 1))
    return {'counts': np.ones(len(chunk.rows), np.int64), 'values': values}

  def finish() -> None:
    if not (job.counts >= 0).any():
      raise InputError(
        f'No clip of {source.name!r} could be embedded; the first reason: {job.first_reason()}.'
      )
    took = time.perf_counter() - started
    _finish(job, folder, wanted, dict(about, name=embedder.name, took=took))

  job.run(keep, finish, None)


def _wanted(folder: Path, layers: Sequence[int], clips: int, say: Callable[..., None]) -> list[int]:
  """The layers that have to be computed: those that are not there, or damaged, which is said."""
  try:
    _, meta = _description(folder, clips)
  except FileNotFoundError:
    return list(layers)
  except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
    say('%s is damaged (%s) and computed again.', folder, error)
    return list(layers)
  wanted = []
  for i in layers:
    try:
      _layer(folder, i, clips, meta['checksums'].get(str(i)))
    except FileNotFoundError:
      wanted.append(i)
    except (OSError, ValueError, EOFError) as error:
      say('%s: layer %d is damaged (%s) and computed again.', folder, i, error)
      wanted.append(i)
  return wanted


def _description(folder: Path, clips: int) -> tuple[np.ndarray, dict[str, Any]]:
  """(valid rows, meta.json with 'missing', 'took' and 'checksums'); raises what reading damaged
  files does."""
  meta = json.loads((folder / 'meta.json').read_text())
  dict(meta['missing']), float(meta['took']), dict(meta['checksums'])
  valid = np.load(folder / 'valid.npy', allow_pickle=False)
  if valid.shape != (clips,) or valid.dtype != bool:
    raise ValueError(f'valid.npy holds {valid.dtype} {valid.shape}')
  return valid, meta


def _layer(folder: Path, number: int, clips: int, checksum: int | None) -> np.ndarray:
  """The array of a layer; compared with its checksum where one is given."""
  array = np.load(folder / f'layer_{number:02d}.npy', mmap_mode='r', allow_pickle=False)
  if array.ndim != 2 or len(array) != clips or array.dtype != np.float32:
    raise ValueError(f'it holds {array.dtype} {array.shape}')
  if checksum is not None and zlib.crc32(array.data) != checksum:
    raise ValueError('its numbers are not those that were written')
  return array


def _finish(job: ClipJob, folder: Path, wanted: list[int], meta: Mapping[str, Any]) -> None:
  """Writes the arrays; they get their names at once, the description last: a killed run leaves no
  half cache."""
  arrays: dict[int, np.memmap] = {}
  for part in job.each():
    for place, i in enumerate(wanted):
      values = part['values'][:, place]
      if i not in arrays:
        path = folder / f'layer_{i:02d}.partial.npy'
        shape = (len(job.counts), values.shape[-1])
        arrays[i] = np.lib.format.open_memmap(path, 'w+', np.float32, shape)
      arrays[i][part['rows']] = values
  # Layers that were computed before keep their sums.
  sums = _checksums(folder)
  for i, array in arrays.items():
    array.flush()
    sums[str(i)] = zlib.crc32(array.data)
    os.replace(folder / f'layer_{i:02d}.partial.npy', folder / f'layer_{i:02d}.npy')
  np.save(folder / 'valid.partial.npy', job.counts >= 0)
  os.replace(folder / 'valid.partial.npy', folder / 'valid.npy')
  said = json.dumps({**meta, 'missing': job.skipped(), 'checksums': sums}, indent=1)
  folders.replace_text(folder / 'meta.json', said)
  job.remove()
  # Nobody goes on with what killed runs have left of other layers: these may be among them.
  for left in folder.glob('layers_*.parts'):
    shutil.rmtree(left, ignore_errors=True)


def _checksums(folder: Path) -> dict[str, int]:
  try:
    return dict(json.loads((folder / 'meta.json').read_text())['checksums'])
  except (OSError, ValueError, KeyError, TypeError):
    return {}


def files_hash(source: Any) -> str:
  """Hash of sizes and times of the files: a file that was changed is embedded again."""
  states = hashlib.sha256()
  for example in source:
    if example.path is not None:
      try:
        state = os.stat(example.path)
        states.update(f'{state.st_size} {state.st_mtime_ns}\n'.encode())
      except OSError:
        states.update(b'-\n')
  return states.hexdigest()[:16]

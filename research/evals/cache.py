"""Embeddings of a whole source, computed once and kept on disk as memory-mapped arrays."""

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from research.audio.bad_files import BadFiles
from research.errors import InputError
from research.inference.embedder import Embedder, digest
from research.inference.stream import stream
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
    cache: folder for `<key>/layer_XX.npy`.
    layers: which layers.
    pool: one of `pooling.NAMES`; None for the system's usual one.
    seconds: only so much of each clip, from its start.
    max_bad_fraction: share of unreadable clips above which it stops.
    progress: called with the number of clips done.

  Raises:
    InputError: unknown pooling, too many bad files.
  """
  pool = embedder.pooling(pool)
  parts = dict(system=embedder.fingerprint(), source=source.fingerprint(), files=files_hash(source))
  parts |= dict(pool=pool, seconds=seconds)
  folder = Path(cache) / digest(parts)
  first = jax.process_index() == 0
  wanted = _wanted(folder, layers, len(source), say=lambda *text: None) if first else list(layers)
  # Another run may be making the same embeddings: it is waited for, and then they are there.
  with folders.lock(folder) if first and wanted else contextlib.nullcontext():
    if first and wanted:
      wanted = _wanted(folder, layers, len(source), say=logging.warning)
    if wanted := _agree(wanted):
      started = time.perf_counter()
      chunks = stream(
        embedder, source, layers=wanted, pool=pool, seconds=seconds,
        bad_files=(bad := BadFiles(None, max_bad_fraction)),
      )  # fmt: skip
      arrays, valid, missing = _collect(chunks, source, wanted, folder, progress, bad)
      took = time.perf_counter() - started
      if first:
        _finish(folder, arrays, valid, dict(parts, name=embedder.name, missing=missing, took=took))
      if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f'embedded {folder.name}')
    if not first:
      return Features({}, np.zeros(len(source), bool), {}, 0.0, not wanted)
    valid, meta = _description(folder, len(source))
    found = {i: _layer(folder, i, len(source), None) for i in layers}
  return Features(found, valid, meta['missing'], meta['took'], not wanted)


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


def _agree(wanted: list[int]) -> list[int]:
  """Process 0's list, on every process: their disks may differ."""
  if jax.process_count() == 1:
    return wanted
  from jax.experimental import multihost_utils

  flags = np.zeros(1024, bool)
  flags[wanted] = True
  return [int(i) for i in np.flatnonzero(multihost_utils.broadcast_one_to_all(flags))]


def _collect(chunks, source, layers, folder, progress, bad):
  """Writes chunks into unfinished arrays on disk; (arrays, valid rows, why others are missing)."""
  first = jax.process_index() == 0
  arrays: dict[int, np.ndarray] = {}
  valid = np.zeros(len(source), bool)
  missing: dict[str, str] = {}
  for chunk in chunks:
    if first and not arrays:
      folder.mkdir(parents=True, exist_ok=True)
      shape = (len(source), chunk.values.shape[-1])
      for i in layers:
        path = folder / f'layer_{i:02d}.partial.npy'
        arrays[i] = np.lib.format.open_memmap(path, 'w+', np.float32, shape)
    for place, i in enumerate(layers if first else ()):
      arrays[i][chunk.rows] = chunk.values[place]
    valid[chunk.rows] = True
    for row in chunk.too_short:
      missing[source.id(row)] = 'shorter than one frame of the front-end'
    progress(int(valid.sum()) + len(missing))
  for row in np.flatnonzero(~valid):
    missing.setdefault(source.id(row), 'could not be read')
  missing |= dict(bad.items())
  if not valid.any():
    raise InputError(
      f'No clip of {source.name!r} could be embedded; the first reason: '
      f'{next(iter(missing.values()), "it holds no clip")}.'
    )
  return arrays, valid, missing


def _finish(folder: Path, arrays: dict[int, np.memmap], valid: np.ndarray, meta: dict) -> None:
  """Gives the arrays their names, the description last: a killed run leaves no half cache."""
  # Layers that were computed before keep their sums.
  sums = _checksums(folder)
  for i, array in arrays.items():
    array.flush()
    sums[str(i)] = zlib.crc32(array.data)
    os.replace(folder / f'layer_{i:02d}.partial.npy', folder / f'layer_{i:02d}.npy')
  np.save(folder / 'valid.partial.npy', valid)
  os.replace(folder / 'valid.partial.npy', folder / 'valid.npy')
  (folder / 'meta.partial.json').write_text(json.dumps({**meta, 'checksums': sums}, indent=1))
  os.replace(folder / 'meta.partial.json', folder / 'meta.json')


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

"""All layers of every frame of a source, computed once by a frozen system and kept on disk."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.audio import by_clip
from research.audio.clips import Source, windows
from research.audio.frames import DTYPES, Frames
from research.errors import InputError, unknown
from research.evals.cache import files_hash
from research.inference.clip_jobs import ClipJob
from research.inference.embedder import Embedder, digest
from research.inference.stream import Embedded
from research.jobs import folders

# Seconds of audio from whose tokens the time between frames is read.
LISTENED = 4.0
# The frames are on disk twice while the parts of a job are joined.
COPIES = 2


def frame_hop(embedder: Embedder) -> int:
  """Samples between frames: tokens of one time are one frame.

  Raises:
    InputError: the system does not give tokens at equal distances.
  """
  samples = max(round(LISTENED * embedder.sample_rate), 4 * embedder.frontend.min_samples)
  if embedder.max_seconds is not None:
    samples = min(samples, int(embedder.max_seconds * embedder.sample_rate))
  times = np.unique(embedder.token_seconds(samples))
  if len(times) < 2:
    raise InputError(
      f'{embedder.name} gives one token for {samples / embedder.sample_rate:.1f} s: it has no '
      'frames that a head could learn from.'
    )
  return round(float(np.median(np.diff(times))) * embedder.sample_rate)


def foretell(embedder: Embedder, source: Source, dtype: str = 'float16') -> int:
  """Bytes that the frames of a source take on disk."""
  hop, bands = frame_hop(embedder), embedder.bands()
  shape = jax.eval_shape(
    embedder.apply,
    embedder.variables,
    *(jax.ShapeDtypeStruct((1, _least(embedder)), t) for t in (np.float32, np.bool_)),
  )[0].shape
  frames = np.ceil(source.durations() * embedder.sample_rate / hop).sum()
  return int(frames) * shape[0] * shape[3] * bands * np.dtype(dtype).itemsize


def cache_frames(
  embedder: Embedder,
  source: Source,
  cache: str | os.PathLike,
  *,
  dtype: str = 'float16',
  text: str | None = None,
  log: Callable[[str], None] = lambda text: None,
) -> Path:
  """The folder of the frames of a source (`audio/frames.py`), computed where it is not there yet.

  A killed run goes on. Clips longer than the system takes in one piece are cut into windows of that
  length, whose frames are joined. Clips that cannot be used are left out and listed in about.json.

  Args:
    embedder: the system.
    source: clips.
    cache: folder of `frames-<key>`; the key holds weights, front-end, clips, their files, `dtype`.
    dtype: of the frames on disk.
    text: what a progress bar says; None for none.
    log: prints a line.

  Raises:
    InputError: the disk is too small, or no clip could be used.
  """
  if dtype not in DTYPES:
    raise unknown('dtype of frames', dtype, DTYPES)
  parts = dict(system=embedder.fingerprint(), source=source.fingerprint(), files=files_hash(source))
  fingerprint = digest(dict(parts, dtype=dtype, pool='none'))
  folder = Path(cache) / f'frames-{fingerprint}'
  if (folder / 'about.json').is_file():
    return folder
  Path(cache).mkdir(parents=True, exist_ok=True)
  with folders.lock(folder):
    if (folder / 'about.json').is_file():  # another run has made it
      return folder
    size = foretell(embedder, source, dtype)
    _check_disk(Path(cache), size, source.name)
    log(f'{source.name}: the frames of {len(source)} clips take {size / 2**30:.2f} GiB')
    _make(embedder, source, folder, dtype, fingerprint, text)
  return folder


def _check_disk(cache: Path, size: int, name: str) -> None:
  free = shutil.disk_usage(cache).free
  if COPIES * size > free:
    raise InputError(
      f'The frames of {name!r} take {size / 2**30:.1f} GiB, and twice that while they are made, '
      f'but {cache} has {free / 2**30:.1f} GiB free: give another --cache, or compute them in '
      'every step with --frames=stream.'
    )


def _make(
  embedder: Embedder, source: Source, folder: Path, dtype: str, fingerprint: str, text: str | None
) -> None:
  clips, cut = np.arange(len(source)), source
  longest = embedder.max_seconds
  if longest is not None and (source.durations() > longest).any():
    cut = windows(source, longest, shortest=_least(embedder) / embedder.sample_rate)
    clips = cut.table.locate.clips  # type: ignore[attr-defined]
  layers, bands = tuple(range(embedder.num_layers())), embedder.bands()
  about: dict[str, Any] = dict(dtype=dtype, layers=list(layers))
  job = ClipJob(embedder, cut, folder / 'layers', about, layers=layers, pool='none')

  def keep(chunk: Embedded) -> dict[str, np.ndarray]:
    assert chunk.mask is not None
    counts = chunk.mask.sum(axis=1).astype(np.int64) // bands
    rows = [
      _frames(np.asarray(chunk.values[:, i]), int(count), bands) for i, count in enumerate(counts)
    ]
    return {'counts': counts, 'layers': np.concatenate(rows).astype(dtype)}

  def finish() -> None:
    if not (job.counts >= 0).any():
      raise InputError(
        f'No clip of {source.name!r} gave frames; the first reason: {job.first_reason()}.'
      )
    offsets, arrays = job.joined('layers')
    stored = np.zeros(len(source), np.int64)
    np.add.at(stored, clips, np.maximum(job.counts, 0))
    # A clip of which a window is missing is left out; its frames stay, and nobody reads them.
    whole = np.ones(len(source), bool)
    whole[clips[job.counts < 0]] = False
    _finish(job, folder, source, (offsets, arrays['layers'], stored, whole))
    said = dict(
      sample_rate=embedder.sample_rate, hop=frame_hop(embedder), fingerprint=fingerprint,
      name=embedder.name, weights=embedder.weights, layers=len(layers), bands=bands, dtype=dtype,
      missing=job.skipped(),
    )  # fmt: skip
    folders.replace_text(folder / 'about.json', json.dumps(said, indent=1))
    job.remove()

  folder.mkdir(parents=True, exist_ok=True)
  job.run(keep, finish, text)


def _frames(values: np.ndarray, count: int, bands: int) -> np.ndarray:
  """Tokens [l, n, d] of a clip, real ones first -> frames [count, l, bands * d]: those of one time
  beside each other."""
  layers, _, width = values.shape
  found = values[:, : count * bands].reshape(layers, count, bands * width)
  return np.moveaxis(found, 0, 1)


def _finish(job: ClipJob, folder: Path, source: Source, made: Any) -> None:
  """The array under its name, and where each clip lies in it."""
  _, joined, stored, whole = made
  path = Path(joined.filename)
  joined.flush()
  del joined
  ids = [source.id(i) for i in range(len(source))]
  # Clips that are left out have an empty name that no clip has.
  names = [name if good else f'\t{i}' for i, (name, good) in enumerate(zip(ids, whole))]
  by_clip.write_ids(folder, names)
  np.save(folder / 'offsets.npy', np.concatenate([[0], np.cumsum(stored)]))
  os.replace(path, folder / 'layers.npy')


def _least(embedder: Embedder) -> int:
  return int(embedder.frontend.min_samples)


def opened(embedder: Embedder, source: Source, cache: str | os.PathLike, **how: Any) -> Frames:
  """The frames of a source; see `cache_frames`."""
  return Frames.open(cache_frames(embedder, source, cache, **how))

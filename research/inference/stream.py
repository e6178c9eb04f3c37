"""A source through an embedder, batch by batch; every process runs its own batches by itself."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from research import distributed
from research.audio import pipeline
from research.audio.bad_files import BadFiles
from research.audio.batching import Batch
from research.inference import lengths
from research.inference.embedder import Embedder, check_pooling, embed_batch

# Seconds of audio in a batch of one process: bounds the memory that long clips need.
BATCH_SECONDS = 320.0
TOO_SHORT = 'shorter than one frame of the front-end'


class Embedded(NamedTuple):
  """Clips of one batch that could be read."""

  rows: np.ndarray  # int [b], rows of the source
  values: np.ndarray  # pooled [l, b, d], or tokens [l, b, n, d]
  mask: np.ndarray | None  # bool [b, n] for tokens
  samples: int  # t, the padded length of the batch
  too_short: np.ndarray  # int, rows below the front-end's one frame: they are not among `rows`
  failed: np.ndarray  # int, rows that cannot be read


def plan(
  embedder: Embedder,
  source: Any,
  *,
  seconds: float | None = None,
  batch_seconds: float = BATCH_SECONDS,
) -> list[Batch]:
  """The batches of all clips that the system takes: the same on every process."""
  whole = np.setdiff1d(np.arange(len(source)), list(too_long(embedder, source, seconds)))
  batches = lengths.of_list(
    source.durations()[whole],
    sample_rate=embedder.sample_rate,
    batch_seconds=batch_seconds,
    min_samples=embedder.frontend.min_samples,
    max_seconds=seconds,
    multiple=len(jax.local_devices()),
  )
  rows = np.append(whole, -1)  # -1 stays what it is
  return [dataclasses.replace(batch, rows=rows[batch.rows]) for batch in batches]


def too_long(embedder: Embedder, source: Any, seconds: float | None = None) -> dict[int, str]:
  """Rows of clips that the system does not take in one piece, and what to say of each."""
  most = embedder.max_seconds
  if most is None or (seconds is not None and seconds <= most):
    return {}
  durations = source.durations()
  return {
    row: f'{durations[row]:.0f} s are more than the {most:.0f} s that {embedder.name} takes in one '
    'piece: cut it into windows (--window=30).'
    for row in np.flatnonzero(durations > most).tolist()
  }


def stream(
  embedder: Embedder,
  source: Any,
  *,
  layers: Sequence[int],
  pool: str,
  seconds: float | None = None,
  batch_seconds: float = BATCH_SECONDS,
  bad_files: BadFiles | None = None,
  batches: Sequence[Batch] | None = None,
) -> Iterator[Embedded]:
  """Embeds clips of a source, each once, in batches of similar length.

  Args:
    embedder: the system.
    source: clips.
    layers: which layers.
    pool: one of `pooling.NAMES`, or 'none' for tokens.
    seconds: only so much of each clip, from its start; None for all of it.
    batch_seconds: audio in a batch.
    bad_files: where clips are recorded that are left out: unreadable, or too long for the system.
    batches: of `plan`; None for this process's of all clips.

  Raises:
    InputError: unknown pooling, or too many bad files.
  """
  check_pooling(pool)
  bad_files = BadFiles(None, 1.0) if bad_files is None else bad_files
  # They count among all clips, not among the first ones that are read.
  long = too_long(embedder, source, seconds)
  bad_files.seen(len(source) if long else 0)
  for row, reason in long.items():
    bad_files.record(source.id(row), None, reason)
  if batches is None:
    index, count = distributed.process()
    batches = plan(embedder, source, seconds=seconds, batch_seconds=batch_seconds)[index::count]
  if not batches:
    return
  run = _Runner(embedder, tuple(layers), pool)
  read = pipeline.read_batches(
    source, batches, sample_rate=embedder.sample_rate, bad_files=bad_files
  )
  for batch, arrays in zip(batches, read, strict=True):
    yield run(batch.rows[batch.rows >= 0], arrays)


class _Runner:
  """The embedding on this process's devices, rows shared out among them."""

  def __init__(self, embedder: Embedder, layers: tuple[int, ...], pool: str):
    mesh = Mesh(np.array(jax.local_devices()), ('data',))
    self.rows = NamedSharding(mesh, PartitionSpec('data'))
    whole = NamedSharding(mesh, PartitionSpec())
    self.variables = jax.tree.map(lambda x: jax.device_put(x, whole), embedder.variables)
    self.min_samples = embedder.frontend.min_samples
    self.pool = pool
    self.static = (embedder.apply, layers, pool, embedder.bands_of(pool))

  def __call__(self, asked: np.ndarray, batch: Mapping[str, np.ndarray]) -> Embedded:
    audio, mask, index = batch['audio'], batch['audio_mask'], batch['index'].astype(np.int64)
    arrays = (jax.device_put(a, self.rows) for a in (audio, mask))
    values, real = map(np.asarray, embed_batch(*self.static, self.variables, *arrays))
    long_enough = mask.sum(axis=1) >= self.min_samples
    kept = batch['valid'] & long_enough
    return Embedded(
      rows=index[kept],
      values=values[:, kept],
      mask=real[kept] if self.pool == 'none' else None,
      samples=audio.shape[1],
      too_short=index[batch['valid'] & ~long_enough],
      failed=np.setdiff1d(asked, index[batch['valid']]),
    )

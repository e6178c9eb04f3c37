"""A source through an embedder, batch by batch, on every device of every process.

Every process embeds its rows of a batch on its own devices; all of them get the result.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from research.audio import pipeline
from research.audio.bad_files import BadFiles
from research.errors import unknown
from research.inference.embedder import Embed, Embedder
from research.nn import pooling

# Seconds of audio in a batch, all processes together: bounds the memory that long clips need.
BATCH_SECONDS = 320.0
MAX_BATCH = 64


class Embedded(NamedTuple):
  """Clips of one batch that could be read, on every process."""

  rows: np.ndarray  # int [b], rows of the source
  values: np.ndarray  # pooled [l, b, d], or tokens [l, b, n, d]
  mask: np.ndarray | None  # bool [b, n] for tokens
  samples: int  # t, the padded length of the batch
  too_short: np.ndarray  # int, rows below the front-end's one frame: they are not among `rows`


def stream(
  embedder: Embedder,
  source: Any,
  *,
  layers: Sequence[int],
  pool: str,
  seconds: float | None = None,
  batch_seconds: float = BATCH_SECONDS,
  bad_files: BadFiles | None = None,
) -> Iterator[Embedded]:
  """Embeds every clip of a source once, in batches of similar length.

  Args:
    embedder: the system.
    source: clips.
    layers: which layers.
    pool: one of `pooling.NAMES`, or 'none' for tokens.
    seconds: only so much of each clip, from its start; None for all of it.
    batch_seconds: audio in a batch.
    bad_files: where clips are recorded that are left out: unreadable, or too long for the system.

  Raises:
    InputError: unknown pooling, or too many bad files.
  """
  if pool not in pooling.NAMES and pool != 'none':
    raise unknown('pooling', pool, (*pooling.NAMES, 'none'))
  run = _Runner(embedder, tuple(layers), pool)
  most = embedder.max_seconds
  durations = source.durations()
  long = np.zeros(len(source), bool)
  if most is not None and (seconds is None or seconds > most):
    long = durations > most
    if bad_files is not None:
      # They count among all clips, not among the first ones that are read.
      bad_files.seen(len(source))
      for i in np.flatnonzero(long):
        bad_files.record(
          source.id(i),
          None,
          f'{durations[i]:.0f} s are more than the {most:.0f} s that {embedder.name} takes in one '
          'piece: cut it into windows (--window=30).',
        )
  whole = np.flatnonzero(~long)
  for places, size in _groups(source.select(whole), seconds, batch_seconds, run.multiple):
    places = whole[places]
    batches = pipeline.eval_batches(
      source.select(places),
      batch_size=size,
      sample_rate=embedder.sample_rate,
      max_seconds=seconds,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      bad_files=bad_files,
      lengths=2,
    )
    for batch in batches:
      yield run(batch, places)


def _groups(
  source: Any, seconds: float | None, batch_seconds: float, multiple: int
) -> Iterator[tuple[np.ndarray, int]]:
  """(rows, batch size): clips within a factor of two in length, longer ones in smaller batches."""
  durations = np.maximum(source.durations(), 1.0)
  if seconds is not None:
    durations = np.minimum(durations, seconds)
  powers = np.ceil(np.log2(np.maximum(durations, 1e-3))).astype(int)
  for power in np.unique(powers):
    rows = np.flatnonzero(powers == power)
    fits = int(min(batch_seconds / durations[rows].max(), MAX_BATCH, len(rows)))
    yield rows, max(1, -(-fits // multiple)) * multiple


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _embed(
  apply: Embed, layers: tuple, pool: str, bands: int, variables: Any, audio: Array, mask: Array
) -> tuple[Array, Array]:
  """Some layers pooled [l, b, d], or their tokens [l, b, n, d], and the token mask."""
  tokens, token_mask = apply(variables, audio, mask)
  tokens = tokens[np.asarray(layers)].astype(jnp.float32)
  if pool in pooling.BAND_POOLS:
    tokens = pooling.bands(pool, tokens, token_mask, bands)
  elif pool != 'none':
    tokens = pooling.POOLS[pool](tokens, token_mask)
  return tokens, token_mask


class _Runner:
  """The jitted embedding on this process's devices, rows shared out among them."""

  def __init__(self, embedder: Embedder, layers: tuple[int, ...], pool: str):
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), ('data',))
    self.multiple = len(devices) * jax.process_count()
    self.rows = NamedSharding(mesh, PartitionSpec('data'))
    whole = NamedSharding(mesh, PartitionSpec())
    self.variables = jax.tree.map(lambda x: jax.device_put(x, whole), embedder.variables)
    self.min_samples = embedder.frontend.min_samples
    self.pool = pool
    bands = embedder.bands() if pool in pooling.BAND_POOLS else 1
    self.static = (embedder.apply, layers, pool, bands)

  def __call__(self, batch: Mapping[str, np.ndarray], places: np.ndarray) -> Embedded:
    audio, mask = batch['audio'], batch['audio_mask']
    missing = self.min_samples - audio.shape[1]
    if missing > 0:  # a batch of clips that are all too short still has to have a shape that runs
      audio, mask = (np.pad(a, ((0, 0), (0, missing))) for a in (audio, mask))
    values, token_mask = _embed(
      *self.static, self.variables, *(jax.device_put(a, self.rows) for a in (audio, mask))
    )
    long_enough = mask.sum(axis=1) >= self.min_samples
    found = dict(
      values=np.moveaxis(np.asarray(values), 0, 1),
      mask=np.asarray(token_mask),
      index=batch['index'],
      valid=batch['valid'],
      long_enough=long_enough,
    )
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      found = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:]), multihost_utils.process_allgather(found)
      )
    kept = found['valid'] & found['long_enough']
    return Embedded(
      rows=places[found['index'][kept]],
      values=np.moveaxis(found['values'][kept], 1, 0),
      mask=found['mask'][kept] if self.pool == 'none' else None,
      samples=audio.shape[1],
      too_short=places[found['index'][found['valid'] & ~found['long_enough']]],
    )

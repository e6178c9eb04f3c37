"""k-means of frames that stream from disk through the model into the mini-batches, on the devices.

No features are written, and what is held is bounded, whatever the size of the data: one batch of
clips, a pool of some mini-batches in which the frames of many clips mix, and a sample for the
initialisation. Only frames that need no more than `HOLD_BYTES` in all are computed once and held
for the epochs to come. Rows are shared out among all devices of all processes; sums are global. The
state is saved as it goes, and a killed fit ends in the same bits.
"""

import dataclasses
import functools
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float

from research.audio.bad_files import BadFiles
from research.distributed import broadcast
from research.errors import InputError, unknown
from research.inference.embedder import digest
from research.inference.stream import BATCH_SECONDS
from research.jobs.folders import read_arrays
from research.units import kmeans, mini_batches
from research.units.blocks import Blocks, ClipBlocks, RowBlocks
from research.units.codebook import MOST_CLUSTERS
from research.units.frames import Frames
from research.units.mini_batches import Pool, Rules, drain

# The initialisation samples from N times as many frames, to see more speakers.
SPREAD = 4
# Rows whose distances to some hundred centroids stay in the cache of a CPU.
BLOCK = 2000
# Frames of small data are held: a quarter of an hour of a base model's are 138 MB.
HOLD_BYTES = 2**28

Row = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to fit; the defaults are those of HuBERT's first codebook (fairseq, learn_kmeans.py).

  Attributes:
    clusters: k.
    batch_size: frames of a mini-batch.
    init: one of `kmeans.INITS`.
    n_init: initialisations of which the best counts.
    init_size: frames of the sample they are drawn from and compared on; None is three mini-batches.
    max_epochs: times through the data.
    max_no_improvement: mini-batches without a lower smoothed inertia after which it ends.
    reassignment_ratio: see `kmeans.update`.
    percent: share of the clips that it is fitted to, whole clips drawn by the seed.
    seed: of everything that is drawn.
    report_every: mini-batches from one report to the next.
  """

  clusters: int = 100
  batch_size: int = 10_000
  init: str = 'k-means++'
  n_init: int = 20
  init_size: int | None = None
  max_epochs: int = 100
  max_no_improvement: int = 100
  reassignment_ratio: float = 0.0
  percent: float = 1.0
  seed: int = 0
  report_every: int = 20

  def __post_init__(self):
    if not 1 <= self.clusters <= MOST_CLUSTERS:
      raise InputError(f'{self.clusters} clusters: expected 1 to {MOST_CLUSTERS}.')
    if self.init not in kmeans.INITS:
      raise unknown('initialisation', self.init, kmeans.INITS)
    if not 0 < self.percent <= 1:
      raise InputError(
        f'percent is {self.percent:g}; give the share of the clips, above 0 and at most 1 '
        "(fairseq's 0.1 is a tenth)."
      )
    if self.seed < 0:
      raise InputError(f'seed is {self.seed}; give 0 or more.')
    for name in ('batch_size', 'n_init', 'max_epochs', 'max_no_improvement', 'report_every'):
      if getattr(self, name) < 1:
        raise InputError(f'{name} is {getattr(self, name)}; give at least 1.')

  @property
  def sample(self) -> int:
    """Frames of the sample for the initialisation."""
    return max(self.init_size or 3 * self.batch_size, self.clusters)


class Fitted(NamedTuple):
  """Centroids, and how the fit went: a row {step, epoch, inertia, smoothed, in_use, perplexity,
  restarts} a report."""

  centroids: Float[np.ndarray, 'k d']
  history: list[Row]
  ended: str  # why it ended


def fit(
  frames: Frames,
  source: Any,
  settings: Settings,
  *,
  folder: str | os.PathLike | None = None,
  bad_files: BadFiles | None = None,
  batch_seconds: float = BATCH_SECONDS,
  save_seconds: float = 60.0,
  hold_bytes: int = HOLD_BYTES,
  report: Callable[[Row], None] = lambda row: None,
) -> Fitted:
  """Clusters the frames of the clips of a source.

  Args:
    frames: what is clustered.
    source: clips; their durations are read.
    settings: how.
    folder: where the state is saved, and gone on with if one is there; None saves nothing.
    bad_files: where unreadable clips are counted; another clip takes their place.
    batch_seconds: audio that goes through the model at once, all processes together.
    save_seconds: from one save to the next.
    hold_bytes: frames that need no more than this are held on every device from the first of
      several epochs on; others are computed again in each.
    report: called with every row of the history.

  Raises:
    InputError: fewer frames than clusters, too many bad files, or the state of another fit.
  """
  rng = np.random.default_rng([settings.seed, 0])
  count = max(1, int(np.ceil(settings.percent * len(source) - 1e-9)))
  if count < len(source):
    source = source.select(np.sort(rng.choice(len(source), count, replace=False)))
  blocks = ClipBlocks(
    frames,
    source,
    seed=settings.seed,
    max_epochs=settings.max_epochs,
    batch_seconds=batch_seconds,
    bad_files=bad_files,
  )
  about = digest(dataclasses.asdict(settings), frames.fingerprint(), source.fingerprint())
  # Of streamed clips, how many go through at once decides which mini-batch they are in.
  about_stream = digest(about, blocks.batches_of, blocks.devices.count)
  if settings.max_epochs > 1 and 4 * frames.width() * blocks.frames <= hold_bytes:
    x = _check_enough(_all(blocks), settings)
    return _fit(_row_blocks(x, settings), settings, folder, about, save_seconds, report)
  return _fit(blocks, settings, folder, about_stream, save_seconds, report)


def fit_arrays(
  x: Float[np.ndarray, 'n d'],
  settings: Settings,
  *,
  folder: str | os.PathLike | None = None,
  save_seconds: float = 60.0,
  report: Callable[[Row], None] = lambda row: None,
) -> Fitted:
  """`fit` to rows that are in memory."""
  about = digest(dataclasses.asdict(settings), x.shape)
  return _fit(_row_blocks(x, settings), settings, folder, about, save_seconds, report)


def _row_blocks(x: Float[np.ndarray, 'n d'], settings: Settings) -> RowBlocks:
  size = mini_batches.POOL * max(1, min(settings.batch_size, len(x)))
  return RowBlocks(x, size=size, seed=settings.seed, max_epochs=settings.max_epochs)


def _all(blocks: ClipBlocks) -> Float[np.ndarray, 'n d']:
  """The frames of one epoch, on every process."""
  blocks_of_one = zip(range(blocks.epoch), blocks.start(0))
  return np.concatenate([_real(blocks, *block) for _, block in blocks_of_one])


# -- The fit -----------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=('whole',))
def _gather(x: Array, mask: Array, *, whole: NamedSharding) -> tuple[Array, Array]:
  place = functools.partial(jax.lax.with_sharding_constraint, shardings=whole)
  return place(x.reshape(-1, x.shape[-1])), place(mask.reshape(-1))


def _real(blocks: ClipBlocks, x: Array, mask: Array) -> Float[np.ndarray, 'n d']:
  """The real frames of a block, on every process."""
  values, real = (np.asarray(a) for a in _gather(x, mask, whole=blocks.devices.whole))
  return values if real.all() else values[real]


def _sample(blocks: Blocks, settings: Settings) -> np.ndarray:
  """Frames for the initialisation: a share of those of the first blocks."""
  wanted = settings.sample
  rng = np.random.default_rng([settings.seed, 1])
  if isinstance(blocks, RowBlocks):
    rows = rng.choice(blocks.frames, min(wanted, blocks.frames), replace=False)
    return _check_enough(np.asarray(blocks.x)[rows], settings)
  share = min(1.0, wanted / max(1, min(SPREAD * wanted, blocks.frames)))
  parts: list[np.ndarray] = []
  found = 0
  for _, block in zip(range(blocks.epoch), blocks.start(0)):
    values = _real(blocks, *block)
    count = int(np.ceil(share * len(values)))
    parts.append(values[np.sort(rng.choice(len(values), count, replace=False))])
    found += count
    if found >= wanted:
      break
  return _check_enough(np.concatenate(parts)[:wanted], settings)


def _check_enough(sample: np.ndarray, settings: Settings) -> np.ndarray:
  _check_finite(sample)
  if len(sample) < settings.clusters:
    raise InputError(
      f'{settings.clusters} clusters need at least as many frames, and the data have only '
      f'{len(sample)}: give more data or fewer clusters.'
    )
  return sample


def _check_finite(values: Any) -> None:
  if not np.isfinite(values).all():
    raise InputError('The features hold values that are not finite: nothing can be clustered.')


def _begin(blocks: Blocks, settings: Settings) -> kmeans.State:
  """The first state: the best of several initialisations."""
  devices = blocks.devices
  sample = _sample(blocks, settings)
  block = BLOCK if devices.one_cpu else None
  unit = block or devices.count
  rows = -(-len(sample) // unit) * unit
  padded = sample
  if rows > len(sample):
    padded = np.pad(sample, ((0, rows - len(sample)), (0, 0)))
  centroids = kmeans.best_init(
    jax.random.key(settings.seed),
    devices.split_rows(padded),
    devices.split_rows(np.arange(rows) < len(sample)),
    block=block,
    clusters=settings.clusters,
    init=settings.init,
    tries=settings.n_init,
  )
  return kmeans.start(jnp.asarray(np.asarray(centroids)))


def _fit(
  blocks: Blocks,
  settings: Settings,
  folder: str | os.PathLike | None,
  about: str,
  save_seconds: float,
  report: Callable[[Row], None],
) -> Fitted:
  devices = blocks.devices
  batch_size = max(1, min(settings.batch_size, blocks.frames))
  rules = Rules(
    batch_size=batch_size,
    alpha=min(1.0, 2.0 * batch_size / (blocks.frames + 1)),
    reassignment_ratio=settings.reassignment_ratio,
    max_no_improvement=settings.max_no_improvement,
    rows=devices.rows,
    whole=devices.whole,
    block=min(BLOCK, batch_size) if devices.one_cpu else None,
  )

  # -- The state: a new one, or that of the folder.
  saved = _Saved(folder, about)
  found = saved.read()
  if found is None:
    state = _begin(blocks, settings)
    found = state, np.zeros((0, state.centroids.shape[1]), np.float32), 0, []
  state, held, position, history = found
  state = jax.tree.map(devices.put_whole, state)
  key = jax.random.fold_in(jax.random.key(settings.seed), 1)

  def told() -> None:
    history.append(_row(state, int(state.steps) * batch_size / blocks.frames))
    report(history[-1])

  # -- Mini-batches.
  reported, last, waiting = int(state.steps) // settings.report_every, time.monotonic(), 0
  patience = settings.max_no_improvement
  pools = mini_batches.pools(blocks, rules, position, held)
  for position, pool in pools if int(state.stale) < patience else ():
    state, waiting = drain(state, pool, key, rules=rules), int(pool.waiting)
    if (number := int(state.steps) // settings.report_every) > reported:
      reported = number
      told()
      state = state._replace(recent=devices.put_whole(np.zeros(settings.clusters, np.float32)))
    if int(state.stale) >= patience:
      break
    if time.monotonic() - last >= save_seconds:
      saved.write(state, pool, batch_size, position, history)
      last = time.monotonic()
  if not int(state.steps):
    raise InputError(
      f'There were only {waiting} frames in all, fewer than the {batch_size} that the '
      'lengths of the clips promised: most of them cannot be read.'
    )
  if not history or history[-1]['step'] != int(state.steps):
    told()
  ended = f'{settings.max_epochs} times through the data'
  if int(state.stale) >= patience:
    ended = f'no lower inertia in {patience} mini-batches'
  return Fitted(np.asarray(state.centroids), history, ended)


def _row(state: kmeans.State, epoch: float) -> Row:
  """One row of the history; raises InputError if the inertia is not finite any more."""
  inertia = float(state.inertia)
  _check_finite(inertia)
  share = occupancy(np.asarray(state.recent))
  smoothed = float(state.smoothed)
  return {
    'step': int(state.steps),
    'epoch': round(epoch, 3),
    'inertia': inertia,
    'smoothed': smoothed if np.isfinite(smoothed) else inertia,
    'in_use': int((share > 0).sum()),
    'perplexity': perplexity(share),
    'restarts': int(state.restarts),
  }


def occupancy(counts: np.ndarray) -> Float[np.ndarray, 'k']:
  """Share of the frames in each cluster."""
  counts = np.asarray(counts, np.float64)
  return counts / max(counts.sum(), 1.0)


def perplexity(share: Float[np.ndarray, 'k']) -> float:
  """exp of the entropy: as many clusters of equal size would be as evenly used."""
  used = share[share > 0]
  return float(np.exp(-(used * np.log(used)).sum()))


class _Saved:
  """The state on disk, there whole or not at all; written and read by the first process."""

  def __init__(self, folder: str | os.PathLike | None, about: str):
    self.path = None if folder is None else Path(folder) / 'fit.npz'
    self.about = about

  def write(
    self, state: kmeans.State, pool: Pool, batch_size: int, position: int, history: list[Row]
  ) -> None:
    """After the mini-batches of a pool: what is left of it waits for the next."""
    if self.path is None or jax.process_index():
      return
    self.path.parent.mkdir(parents=True, exist_ok=True)
    partial = self.path.with_name('fit.partial.npz')
    arrays = {name: np.asarray(value) for name, value in state._asdict().items()}
    waiting = int(pool.waiting)
    left = pool.order[waiting - waiting % batch_size : waiting]
    arrays['held'] = np.asarray(pool.frames[left])
    text = json.dumps({'about': self.about, 'position': position, 'history': history})
    np.savez(partial, text=np.array(text), **arrays)  # type: ignore[arg-type]
    os.replace(partial, self.path)

  def read(self) -> tuple[kmeans.State, np.ndarray, int, list[Row]] | None:
    """(state of arrays, frames that wait, position, history); None if there is nothing."""
    data = b''
    if self.path is not None and not jax.process_index() and self.path.is_file():
      data = self.path.read_bytes()
    data = broadcast(data)
    if not data:
      return None
    arrays = read_arrays(io.BytesIO(data), str(self.path))
    text = json.loads(str(arrays['text']))
    state = kmeans.State(*(arrays[name] for name in kmeans.State._fields))
    held = arrays['held']
    if text['about'] != self.about:
      raise InputError(
        f'{self.path} is the state of a fit with other settings or data: give another --out, or '
        'delete it.'
      )
    return state, held, text['position'], text['history']

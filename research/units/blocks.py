"""Frames on the devices, block by block: of clips as they come from disk, or of an array.

Blocks come in the same order every time, and every process has its rows of each. They have
`frames`, how many an epoch has (about: lengths are those of the files' headers); `total`, blocks in
all; `devices`; and `start(position)`. Those of clips have `epoch`, blocks of one, `largest`, most
frames of a block, and `batches_of`, clips of one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.audio import pipeline
from research.audio.bad_files import BadFiles
from research.distributed import Devices
from research.errors import InputError
from research.inference import lengths
from research.inference.embedder import embed_batch
from research.units.frames import Frames, pieces

BUCKETS = 4


@jax.jit
def _own(real: Array, skip: Array, keep: Array) -> Array:
  """Of real frames [b, n], those that are a piece's own."""
  place = jnp.arange(real.shape[1])
  return real & (place >= skip[:, None]) & (place < (skip + keep)[:, None])


class ClipBlocks:
  """Clips: the seeded batches of `pipeline.train_batches`, through the model."""

  def __init__(
    self,
    frames: Frames,
    source: Any,
    *,
    seed: int,
    max_epochs: int,
    batch_seconds: float,
    bad_files: BadFiles | None,
  ):
    self.described = frames
    self.cut = pieces(source, frames)
    durations = self.cut.source.durations()
    if not durations.max() > 0:
      raise InputError(f'No clip of {source.name!r} can be opened.')
    self.devices = Devices()
    self.min_samples = frames.embedder.frontend.min_samples
    devices = self.devices.count
    longest = max(1, round(durations.max() * frames.sample_rate))
    fits = lengths.rows(longest, batch_seconds * frames.sample_rate, devices)
    # As many clips in the last batch of an epoch as in the others, as nearly as the devices allow.
    self.batches_of = size = lengths.even_rows(len(durations), fits, devices)
    self.batches = pipeline.train_batches(
      self.cut.source,
      batch_size=size,
      sample_rate=frames.sample_rate,
      buckets=BUCKETS,
      crop='start',
      seed=seed,
      epochs=max(max_epochs, -(-size // len(durations))),
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      bad_files=bad_files,
    )
    samples = np.round(durations * frames.sample_rate)
    own = np.minimum(frames.count(samples) - self.cut.skip, self.cut.keep)
    self.frames = int(np.maximum(own, 0).sum())
    self.epoch = -(-len(durations) // size)
    self.total = len(self.batches)
    longest = max(self.batches.loader.batches.samples)
    self.largest = size * int(frames.count(max(longest, self.min_samples)))
    self.variables = jax.tree.map(self.devices.put_whole, frames.embedder.variables)
    self._once: tuple[int, np.ndarray] = (-1, np.zeros(0, bool))

  def start(self, position: int) -> Iterator[tuple[Array, Array]]:
    """(frames [b, n, d], mask [b, n]) on the devices, from block number `position` to the end."""
    iterator = iter(self.batches)
    iterator.set_state({'next_index': position})
    try:
      for number, batch in enumerate(iterator, start=position):
        yield self._block(batch, self._first_time(number))
    finally:
      iterator.close()

  def _first_time(self, number: int) -> np.ndarray:
    """Which rows of a batch are not there to fill it up with clips that the epoch has already."""
    epoch, place = divmod(number, self.epoch)
    if self._once[0] != epoch:
      rows = np.stack([batch.rows for batch in self.batches.loader.batches.epoch(epoch)])
      once = np.zeros(rows.size, bool)
      once[np.unique(rows, return_index=True)[1]] = True
      self._once = epoch, once.reshape(rows.shape)
    once = self._once[1][place]
    return once[self.batches.loader.slots(len(once))]

  def _block(self, batch: Mapping[str, np.ndarray], once: np.ndarray) -> tuple[Array, Array]:
    audio, mask, index = batch['audio'], batch['audio_mask'] & once[:, None], batch['index']
    missing = self.min_samples - audio.shape[1]
    if missing > 0:
      audio, mask = (np.pad(a, ((0, 0), (0, missing))) for a in (audio, mask))
    most = np.iinfo(np.int32).max // 2
    numbers = [np.minimum(a[index], most).astype(np.int32) for a in (self.cut.skip, self.cut.keep)]
    apply, layer = self.described.embedder.apply, self.described.layer
    x, is_real, skip, keep = map(self.devices.put_rows, (audio, mask, *numbers))
    tokens, real = embed_batch(apply, (layer,), 'none', 1, self.variables, x, is_real)
    return tokens[0], _own(real, skip, keep)


class RowBlocks:
  """Rows of an array that every process has and every device holds, in a new order every epoch.

  One epoch follows the other without a gap, so that all blocks but the last are whole.
  """

  def __init__(self, x: Float[np.ndarray, 'n d'], *, size: int, seed: int, max_epochs: int):
    self.seed, self.max_epochs, self.size = seed, max_epochs, size
    self.devices = Devices()
    self.x = self.devices.put_whole(np.asarray(x, np.float32))
    self.frames = len(x)
    self.total = -(-self.frames * max_epochs // size)

  def start(self, position: int) -> Iterator[Int[np.ndarray, 'rows']]:
    """The rows of every block from number `position` on."""
    orders: dict[int, np.ndarray] = {}
    for number in range(position, self.total):
      end = min((number + 1) * self.size, self.frames * self.max_epochs)
      place = np.arange(number * self.size, end)
      epoch, place = np.divmod(place, self.frames)
      epochs = range(epoch[0], epoch[-1] + 1)
      orders = {e: orders[e] if e in orders else self._order(e) for e in epochs}
      yield np.concatenate([order[place[epoch == e]] for e, order in orders.items()])

  def _order(self, epoch: int) -> Int[np.ndarray, 'n']:
    return np.random.default_rng([self.seed, 2, epoch]).permutation(self.frames).astype(np.int32)


Blocks = ClipBlocks | RowBlocks

"""Assignment of clips to batches: a pure function of the seed and the batch number.

There is no state between batches. So a run can resume at any batch, on any number of processes,
with the same batches.
"""

import collections
import dataclasses
import hashlib
import math
import sys
import threading
from collections.abc import Callable, Sequence

import grain
import numpy as np
from jaxtyping import Float, Int

from research.audio.clips import Source
from research.errors import InputError

# Minimum crop length of `best_crops`, seconds. Shorter clips are padded to it.
SHORTEST_CROP = 1.0
# Lengths of batches that are not trained on are rounded up to this many seconds.
EVAL_STEP = 0.1


@dataclasses.dataclass(frozen=True)
class Batch:
  """A global batch before decoding.

  Attributes:
    rows: rows of the source, one per slot.
    samples: static length of the batch.
    position: position of its first slot, unique within the run. Seeds the draws for a slot.
    bucket: index of its length bucket.
  """

  rows: np.ndarray
  samples: int
  position: int
  bucket: int = 0


def filled(rows: int, multiple: int) -> int:
  """The next multiple at or above a number of rows."""
  return -(-rows // multiple) * multiple


def fill(batch: Batch, size: int) -> Batch:
  """A batch with empty slots (-1) behind its rows, `size` in all."""
  empty = np.full(size - len(batch.rows), -1, batch.rows.dtype)
  return dataclasses.replace(batch, rows=np.concatenate([batch.rows, empty]))


def uniform(seed: int, position: int, purpose: str, attempt: int = 0) -> float:
  """A number in [0, 1): a hash of the arguments, the same on every machine and version."""
  key = f'{seed}:{position}:{purpose}:{attempt}'.encode()
  return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), 'big') / 2**64


def label_weights(source: Source, column: str = 'label') -> Float[np.ndarray, 'clips']:
  """Class-balancing weights: the sum of 1000 / (count + 0.01) over the labels of a clip.

  From AudioSet training of AudioMAE and AST (dataset/audioset/gen_weight.py); counts over `source`.
  """
  if stored := source.codes(column):
    return (1000.0 / (np.bincount(stored[0], minlength=len(stored[1])) + 0.01))[stored[0]]
  labels = [[v] if isinstance(v, str) else v for v in source.column(column)]
  counts = collections.Counter(name for clip in labels for name in clip)
  return np.array([sum(1000.0 / (counts[name] + 0.01) for name in clip) for clip in labels])


def best_buckets(
  durations: Float[np.ndarray, 'clips'], count: int, *, longest: float | None = None
) -> list[float]:
  """The `count` bucket lengths that minimise padding.

  Args:
    durations: of the clips, seconds.
    count: number of static lengths; each costs one compilation.
    longest: maximum length in seconds; longer clips are cropped.

  Returns:
    Ascending lengths in seconds, rounded up to 10 ms, `longest` at most.

  Raises:
    InputError: no clip has a duration above 0.
  """
  lengths = np.sort(np.asarray(durations, np.float64)[np.asarray(durations) > 0])
  if not len(lengths):
    raise InputError('Bucket lengths cannot be chosen: none of the clips can be opened.')
  lengths = np.minimum(lengths, longest) if longest else lengths
  # Candidate edges: quantiles. cost[i, j]: padded seconds if (edge i, edge j] is one bucket.
  edges = np.unique(np.quantile(lengths, np.linspace(0, 1, 129), method='higher'))
  counts = np.searchsorted(lengths, edges, side='right').astype(np.float64)
  before = np.concatenate([[0.0], counts])
  count = min(count, len(edges))
  best = np.full((count + 1, len(edges) + 1), np.inf)
  best[0, 0] = 0.0
  choice = np.zeros((count + 1, len(edges) + 1), np.int64)
  for k in range(1, count + 1):
    for j in range(1, len(edges) + 1):
      cost = best[k - 1, :j] + edges[j - 1] * (before[j] - before[:j])
      choice[k, j] = int(np.argmin(cost))
      best[k, j] = cost[choice[k, j]]
  found, j = [], len(edges)
  for k in range(count, 0, -1):
    edge = math.ceil(edges[j - 1] * 100 - 1e-6) / 100
    found.append(min(edge, longest) if longest else edge)
    j = int(choice[k, j])
  return sorted(set(found))


def best_crops(
  durations: Float[np.ndarray, 'clips'], count: int, *, longest: float | None = None
) -> list[float]:
  """The `count` bucket lengths that minimise cropping, when every clip is cropped to the longest
  length that it fills. Otherwise as `best_buckets`, but rounded down to 10 ms (except `longest`).
  Clips shorter than SHORTEST_CROP are padded to it."""
  lengths = np.asarray(durations, np.float64)
  lengths = np.where(lengths > 0, np.maximum(lengths, SHORTEST_CROP), 0.0)
  lengths = np.minimum(lengths, longest) if longest else lengths
  # Cropping down is padding up with mirrored lengths.
  top = float(lengths.max(initial=0.0)) + 1.0
  mirrored = best_buckets(np.where(lengths > 0, top - lengths, 0.0), count)
  found = [math.floor((top - edge) * 100 + 1e-6) / 100 for edge in mirrored]
  # Rounding must not shorten the clips that are cropped to `longest`.
  return sorted({longest if longest and longest - 0.02 < edge else edge for edge in found})


def bucket_of(
  durations: Float[np.ndarray, 'clips'], buckets: Sequence[float], fill: str = 'pad'
) -> Int[np.ndarray, 'clips']:
  """The bucket of every clip. With fill 'pad' the shortest bucket that holds the clip; clips longer
  than all buckets are cropped to the last. With fill 'crop' the longest bucket that the clip fills;
  clips shorter than all buckets are padded to the first."""
  # One millisecond of tolerance: headers of 9.9999 s or 10.0001 s mean 10 s.
  if fill == 'crop':
    found = np.searchsorted(np.asarray(buckets) - 1e-3, durations, side='right') - 1
    return np.maximum(found, 0)
  found = np.searchsorted(np.asarray(buckets) + 1e-3, durations, side='left')
  return np.minimum(found, len(buckets) - 1)


def static_samples(
  seconds: Sequence[float] | np.ndarray, sample_rate: int, max_seconds: float | None = None
) -> Int[np.ndarray, 'n']:
  """Samples of static lengths that hold clips of these lengths.

  Seconds are rounded up to EVAL_STEP: a header may say a little less than there is.
  """
  samples = np.round(np.ceil(np.asarray(seconds) / EVAL_STEP - 1e-6) * EVAL_STEP * sample_rate)
  most = np.inf if max_seconds is None else round(max_seconds * sample_rate)
  return np.minimum(samples, most).astype(np.int64)


def eval_lengths(
  durations: Float[np.ndarray, 'clips'],
  count: int,
  sample_rate: int,
  max_seconds: float | None = None,
) -> tuple[list[int], Int[np.ndarray, 'clips']]:
  """The `count` lengths that waste least on padding, in samples, ascending, and which of them each
  clip is padded to."""
  edges = best_buckets(durations, count) if durations.max() > 0 else [EVAL_STEP]
  return static_samples(edges, sample_rate, max_seconds).tolist(), bucket_of(durations, edges)


def by_length(
  durations: Float[np.ndarray, 'clips'],
  place: Int[np.ndarray, 'clips'],
  samples: Sequence[int],
  rows: Callable[[int, int], int],
  last: Callable[[int, int], int] = lambda clips, size: size,
) -> list[Batch]:
  """Every clip once, in batches of one static length, shorter ones first.

  Args:
    durations: of the clips, in any unit; the clips of a length are in their order.
    place: which length each clip is padded to.
    samples: the static lengths, ascending.
    rows: (length in samples, clips of it) -> slots of a batch.
    last: (clips of a batch, slots) -> slots of that batch, `clips` at least.

  Returns:
    batches; -1 fills up those with fewer clips than slots.
  """
  batches = []
  for number, length in enumerate(samples):
    found = np.flatnonzero(place == number)
    found = found[np.argsort(durations[found], kind='stable')]
    size = rows(int(length), len(found)) if len(found) else 1
    for at in range(0, len(found), size):
      part = found[at : at + size]
      part = np.pad(part, (0, last(len(part), size) - len(part)), constant_values=-1)
      batches.append(Batch(part, int(length), 0, number))
  return batches


class Stream:
  """Batches of one static length from a stream of clips, epoch after epoch.

  A batch may span epochs: no clips are dropped, and a small data set can fill a large batch.
  """

  def __init__(
    self,
    size: int,
    *,
    batch_size: int,
    samples: int,
    seed: int,
    shuffle: bool = True,
    epochs: int | None = None,
    weights: np.ndarray | None = None,
  ):
    """See `research.audio.pipeline.train_batches`; `size` is the number of clips."""
    self.size, self.batch_size, self.samples, self.seed = size, batch_size, samples, seed
    self.mean_rows = float(batch_size)
    self._cumulative = None if weights is None else np.cumsum(weights)
    order = grain.MapDataset.range(size)
    if shuffle:
      order = order.seed(seed % 2**32).shuffle()
    self._order = order.repeat(epochs)
    self._order[0]  # The first access sets up grain's statistics, which is not thread-safe.
    self._length = sys.maxsize // batch_size if epochs is None else size * epochs // batch_size

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, g: int) -> Batch:
    position = int(g) * self.batch_size
    slots = range(position, position + self.batch_size)
    if self._cumulative is None:
      rows = [int(self._order[p]) for p in slots]
    else:
      rows = [_draw(self._cumulative, uniform(self.seed, p, 'row')) for p in slots]
    return Batch(np.array(rows, np.int64), self.samples, position)

  def substitute(self, batch: Batch, slot: int, attempt: int) -> int:
    """A replacement for the bad clip of a slot."""
    u = uniform(self.seed, batch.position + slot, 'substitute', attempt)
    if self._cumulative is not None:
      return _draw(self._cumulative, u)
    return int(u * self.size)


class Bucketed:
  """Batches of clips of similar length: one static length per batch, in shuffled order.

  An epoch shuffles the clips and fills batches within each bucket. The remainder of a bucket moves
  to the next longer bucket (the next shorter one with fill 'crop'). So all epochs have the same
  number of batches: ceil(clips / batch_size) if all buckets have that batch size. The last batch is
  filled with clips from the start of the epoch's order.
  """

  def __init__(
    self,
    durations: Float[np.ndarray, 'clips'],
    buckets: Sequence[float],
    *,
    batch_size: int,
    sample_rate: int,
    seed: int,
    shuffle: bool = True,
    epochs: int | None = None,
    weights: np.ndarray | None = None,
    fill: str = 'pad',
    rows: Sequence[int] | None = None,
  ):
    """`durations` and `buckets` are in seconds, `buckets` ascending. `fill`: see `bucket_of`.
    `rows`: batch size of each bucket, `batch_size` at most; None is `batch_size` for all."""
    self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
    self.rows = [batch_size] * len(buckets) if rows is None else list(rows)
    self.sample_rate = sample_rate
    self.samples = [round(b * sample_rate) for b in buckets]
    self.size = len(durations)
    self._bucket = bucket_of(durations, buckets, fill)
    self._order = range(len(buckets))[:: -1 if fill == 'crop' else 1]
    self._members = [np.flatnonzero(self._bucket == b) for b in range(len(buckets))]
    self.per_epoch = waiting = 0
    for b in self._order:
      full, waiting = divmod(waiting + len(self._members[b]), self.rows[b])
      self.per_epoch += full
    self.per_epoch += bool(waiting)
    self._length = sys.maxsize // batch_size if epochs is None else self.per_epoch * epochs
    self._weights = weights
    if weights is not None:
      self._cumulative = [np.cumsum(weights[m]) for m in self._members]
      # A bucket with a larger batch size is drawn less often.
      per_bucket = zip(self._members, self.rows, strict=True)
      bucket_weights = [weights[m].sum() / rows for m, rows in per_bucket]
      self._buckets = np.cumsum(bucket_weights)
    if len(set(self.rows)) == 1:
      self.mean_rows = float(self.rows[0])
    elif weights is None:
      self.mean_rows = self.size / self.per_epoch
    else:
      self.mean_rows = float(weights.sum() / sum(bucket_weights))
    self._cache: dict[int, list[Batch]] = {}
    self._lock = threading.Lock()

  def __getstate__(self):
    return {k: v for k, v in self.__dict__.items() if k not in ('_lock', '_cache')}

  def __setstate__(self, state):
    self.__dict__.update(state, _lock=threading.Lock(), _cache={})

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, g: int) -> Batch:
    if self._weights is not None:
      return self._drawn(int(g))
    epoch, slot = divmod(int(g), self.per_epoch)
    with self._lock:
      if epoch not in self._cache:
        while len(self._cache) > 1:
          self._cache.pop(min(self._cache))
        self._cache[epoch] = self.epoch(epoch)
      return self._cache[epoch][slot]

  def epoch(self, epoch: int) -> list[Batch]:
    """All batches of an epoch, in order."""
    rng = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, epoch]))
    order = rng.permutation(self.size) if self.shuffle else np.arange(self.size)
    waiting = np.zeros(0, np.int64)
    groups: list[tuple[int, np.ndarray]] = []
    for bucket in self._order:
      waiting = np.concatenate([waiting, order[self._bucket[order] == bucket]])
      size = self.rows[bucket]
      full = len(waiting) // size * size
      groups += [(bucket, rows) for rows in waiting[:full].reshape(-1, size)]
      waiting = waiting[full:]
    if len(waiting):
      last = self._order[-1]
      fill = np.resize(order, self.rows[last] - len(waiting))
      groups.append((last, np.concatenate([waiting, fill])))
    places = rng.permutation(len(groups)) if self.shuffle else np.arange(len(groups))
    first = epoch * self.per_epoch
    return [
      Batch(groups[i][1], self.samples[groups[i][0]], (first + n) * self.batch_size, groups[i][0])
      for n, i in enumerate(places)
    ]

  def substitute(self, batch: Batch, slot: int, attempt: int) -> int:
    """A replacement for the bad clip of a slot: from the same bucket, or every 4th attempt any."""
    u = uniform(self.seed, batch.position + slot, 'substitute', attempt)
    members = self._members[batch.bucket]
    if attempt % 4 == 3 or not len(members):
      return int(u * self.size)
    if self._weights is not None:
      return int(members[_draw(self._cumulative[batch.bucket], u)])
    return int(members[int(u * len(members))])

  def _drawn(self, g: int) -> Batch:
    """Weighted sampling: draws a bucket, then its clips, with replacement."""
    position = g * self.batch_size
    bucket = _draw(self._buckets, uniform(self.seed, position, 'bucket'))
    members, cumulative = self._members[bucket], self._cumulative[bucket]
    draws = [uniform(self.seed, position + i, 'row') for i in range(self.rows[bucket])]
    rows = members[[_draw(cumulative, u) for u in draws]]
    return Batch(rows, self.samples[bucket], position, bucket)


def _draw(cumulative: np.ndarray, u: float) -> int:
  return min(
    int(np.searchsorted(cumulative, u * cumulative[-1], side='right')), len(cumulative) - 1
  )

"""Sources to batches: decodes in threads or processes, crops, pads, masks; exactly resumable."""

import dataclasses
import functools
import hashlib
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import logging

from research.audio import batching, settings
from research.audio.bad_files import BadFiles
from research.audio.clips import Source
from research.audio.fields import Context, Field, Rows
from research.audio.loader import CROPS, Loader
from research.errors import InputError, unknown

FILLS = ('pad', 'crop')


def train_batches(
  source: Source,
  *,
  batch_size: int,
  batch_seconds: float | None = None,
  batch_multiple: int = 1,
  sample_rate: int = 16000,
  seconds: float | None = None,
  crop: str = 'random',
  buckets: Sequence[float] | int | None = None,
  fill: str = 'pad',
  fields: Sequence[Field] = (),
  model: Any = None,
  root: Any = None,
  weights: str | Sequence[float] | np.ndarray | None = None,
  seed: int = 0,
  shuffle: bool = True,
  epochs: int | None = None,
  num_threads: int = 2,
  num_workers: int = 0,
  prefetch: int = 8,
  process_index: int = 0,
  process_count: int = 1,
  fill_to: int = 1,
  bad_files: BadFiles | None = None,
) -> 'Batches':
  """Shuffled batches, endless or for `epochs`; the position can be saved and restored.

  A batch is a dict: `audio` f32 [b, t]; `audio_mask` bool [b, t], True at real samples; `index` i32
  [b], index of the clip in `source`; `valid` bool [b], False for fillers (`fill_to`), which are
  zeros and masked; and the arrays of the fields.
  Batches depend only on the seed and the batch number. A clip that cannot be decoded, or that a
  field rejects, is recorded in `bad_files` and replaced by another one drawn by the seed.

  Args:
    source: the clips.
    batch_size: clips of the global batch, which is split over the processes.
    batch_seconds: seconds of audio in a batch, including padding. Batches of short clips then have
      more clips than those of long clips, `batch_size` at most.
    batch_multiple: the number of clips in a batch is a multiple of it. For fairseq's recipes,
      batch_multiple is the number of GPUs times update_freq, and `batch_seconds` is batch_multiple
      times max_tokens; fairseq also rounds the clips per GPU above 8 down to a multiple of 8.
    sample_rate: Hz.
    seconds: static length; longer clips are cropped, shorter ones padded. None without buckets: the
      duration of the longest clip.
    crop: position of crops in longer clips: 'random', 'start' or 'center'.
    buckets: lengths in seconds, or the number of lengths to choose. A batch has clips of one
      bucket.
    fill: 'pad' pads a clip to the next longer bucket, 'crop' crops it to the next shorter one.
    fields: what a batch holds besides audio (`fields.make`). If a field needs whole clips, no clip
      may be longer than the batches.
    model: the model to train; fields may use its vocabulary and the like.
    root: folder of named data sets, for fields that read one.
    weights: sample clips with replacement by these weights, one per clip; 'balanced' uses those of
      the first field with classes, or else of the column "label".
    seed: seed of order, crops, draws and replacements.
    shuffle: reshuffle every epoch; False keeps the order of the source.
    epochs: number of epochs; None is endless.
    num_threads: decoding threads per process.
    num_workers: worker processes, 0 for none; FLAC and ArrayRecord are faster with threads.
    prefetch: number of batches decoded ahead.
    process_index: index of this process.
    process_count: number of processes.
    fill_to: the rows of a global batch are filled up to a multiple of it, so that devices and
      micro-batches can split any batch evenly.
    bad_files: counts bad files; None counts them in memory, with a maximum fraction of 0.1.

  Raises:
    InputError: settings that cannot work; says what to do.
  """
  settings.check(source, batch_size, process_index, process_count, batch_multiple, fill_to)
  if crop not in CROPS:
    raise unknown('crop', crop, CROPS)
  if fill not in FILLS:
    raise unknown('fill', fill, FILLS)
  whole = [field.key for field in fields if field.WHOLE]
  if fill == 'crop' and (buckets is None or whole):
    also = f', and no field {whole[0]!r}, which needs whole clips' if whole else ''
    raise InputError(f"fill='crop' crops clips to buckets: give buckets={also}.")
  weights = settings.sampling_weights(source, weights, fields)
  if epochs is not None and len(source) * epochs < batch_size:
    raise InputError(
      f'{len(source)} clips x {epochs} epochs of {source.name!r} do not fill one batch of '
      f'{batch_size}; use a smaller batch, more epochs, or epochs=None to repeat.'
    )
  order: dict[str, Any] = {
    'batch_size': batch_size,
    'seed': seed,
    'shuffle': shuffle,
    'epochs': epochs,
    'weights': weights,
  }
  if buckets is None:
    if batch_seconds is not None:
      raise InputError('batch_seconds is for batches of several lengths: give buckets= with it.')
    samples = round(settings.batch_seconds(source, seconds) * sample_rate)
    batches: batching.Stream | batching.Bucketed = batching.Stream(
      len(source), samples=samples, **order
    )
  else:
    durations = source.durations()
    lengths = settings.bucket_seconds(durations, buckets, seconds, fill)
    clips = settings.bucket_rows(
      lengths, batch_size, batch_seconds, batch_multiple, process_count, fill_to
    )
    batches = batching.Bucketed(
      durations, lengths, sample_rate=sample_rate, fill=fill, rows=clips, **order
    )
  bad_files = bad_files if bad_files is not None else BadFiles(None)
  if bad_files.total is None:
    bad_files.total = len(source)
  process = (process_index, process_count)
  context = Context(sample_rate, model, root, True, seed, batch_size, process, bad_files)
  opened = _open(fields, source, context)
  lengths_given = np.atleast_1d(batches.samples)
  for rows in opened.values():
    rows.check_lengths(int(min(lengths_given)), int(max(lengths_given)))
  loader = Loader(
    source, batches, sample_rate, crop, process, bad_files, opened, fill_to=fill_to,
    silent=any(field.silent for field in fields),
  )  # fmt: skip
  return Batches(loader, num_threads=num_threads, num_workers=num_workers, prefetch=prefetch)


def eval_batches(
  source: Source,
  *,
  batch_size: int,
  sample_rate: int = 16000,
  max_seconds: float | None = None,
  fields: Sequence[Field] = (),
  model: Any = None,
  root: Any = None,
  process_index: int = 0,
  process_count: int = 1,
  bad_files: BadFiles | None = None,
  num_threads: int = 2,
  lengths: int = 4,
) -> grain.IterDataset:
  """Every clip exactly once, sorted by length into batches of at most `lengths` static lengths.

  Batches are as in `train_batches`, but `valid` is False for bad files and for rows that fill the
  last batch of a length; such rows are zeros and masked. Clips longer than `max_seconds` are cut at
  the end.

  Args:
    source: the clips.
    batch_size: clips of the global batch; all processes get the same number of batches and lengths.
    sample_rate: Hz.
    max_seconds: maximum length; None reads whole clips.
    fields: as in `train_batches`; training-only fields are left out.
    model: as in `train_batches`.
    root: as in `train_batches`.
    process_index: index of this process.
    process_count: number of processes.
    bad_files: counts and lists bad files; None never stops.
    num_threads: decoding threads.
    lengths: maximum number of different batch lengths.

  Raises:
    InputError: settings that cannot work; while reading, units made from other audio.
  """
  settings.check(source, batch_size, process_index, process_count)
  durations = np.minimum(source.durations(), np.inf if max_seconds is None else max_seconds)
  samples, place = batching.eval_lengths(durations, lengths, sample_rate, max_seconds)
  groups = batching.by_length(durations, place, samples, lambda length, clips: batch_size)
  process = (process_index, process_count)
  bad_files = bad_files if bad_files is not None else BadFiles(None, 1.0)
  context = Context(sample_rate, model, root, False, 0, batch_size, process, bad_files)
  opened = _open(fields, source, context)
  silent = any(field.silent for field in fields)
  how = (sample_rate, 'start', process, bad_files, opened, False)
  loader = Loader(source, groups, *how, silent=silent)
  return _in_order(loader, num_threads)


def read_batches(
  source: Source,
  batches: Sequence[batching.Batch],
  *,
  sample_rate: int,
  bad_files: BadFiles,
  num_threads: int = 2,
) -> grain.IterDataset:
  """The audio of given batches, as `eval_batches`, whole on this process; each clip from its start,
  as much of it as the length of its batch holds."""
  loader = Loader(source, batches, sample_rate, 'start', (0, 1), bad_files, substitute=False)
  return _in_order(loader, num_threads)


def _in_order(loader: Loader, num_threads: int) -> grain.IterDataset:
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4 if num_threads else 0)
  return grain.MapDataset.source(_RandomAccess(loader)).to_iter_dataset(options)


class Batches(grain.IterDataset):
  """The batches of a run; `iter` gives an iterator with `get_state` and `set_state`."""

  def __init__(self, loader: Loader, *, num_threads: int, num_workers: int, prefetch: int):
    super().__init__()
    self.loader = loader
    self._threads, self._workers, self._prefetch = num_threads, num_workers, prefetch

  def __len__(self) -> int:
    return len(self.loader)

  def __str__(self) -> str:
    return f'Batches({self.loader.source!r})'

  @property
  def mean_rows(self) -> float:
    """Mean number of clips per global batch over an epoch, not counting fillers."""
    return self.loader.batches.mean_rows

  @functools.cached_property
  def signature(self) -> str:
    """A hash of everything that determines the batches, except the number of processes."""
    order = self.loader.batches
    parts = [self.loader.source.fingerprint(), order.seed, order.batch_size, repr(order.samples)]
    rows = getattr(order, 'rows', ())
    if any(n != order.batch_size for n in rows):
      parts += ['rows', *rows]
    for key, rows in self.loader.fields.items():
      if rows.fingerprint:
        parts += [key, rows.fingerprint]
    return hashlib.sha256(repr(tuple(parts)).encode()).hexdigest()[:16]

  def __iter__(self) -> 'BatchIterator':
    return BatchIterator(self)

  def start(self, first: int) -> grain.DatasetIterator:
    """An iterator over the batches, starting at batch number `first`."""
    data = grain.MapDataset.source(_RandomAccess(self.loader))[first:]
    options = grain.ReadOptions(
      num_threads=self._threads, prefetch_buffer_size=self._prefetch if self._threads else 0
    )
    if not self._workers:
      return iter(data.to_iter_dataset(options))
    _mark_flags_parsed()
    ahead = max(1, self._prefetch // self._workers)
    options = dataclasses.replace(options, prefetch_buffer_size=ahead if self._threads else 0)
    processes = grain.multiprocessing.MultiprocessingOptions(
      num_workers=self._workers, per_worker_buffer_size=ahead
    )
    return iter(data.to_iter_dataset(options).mp_prefetch(processes))


class BatchIterator(grain.DatasetIterator):
  """Iterates over `Batches`; its state is the number of the next batch, regardless of prefetching.

  So the state is the same on every process, and valid for any number of processes, threads and
  workers.
  """

  def __init__(self, batches: Batches):
    super().__init__()
    self._batches = batches
    self._next = 0
    self._inner: grain.DatasetIterator | None = None

  def __next__(self) -> dict[str, np.ndarray]:
    if self._next >= len(self._batches):
      raise StopIteration
    if self._inner is None:
      self._inner = self._batches.start(self._next)
    batch = next(self._inner)
    self._next += 1
    return batch

  def get_state(self) -> dict[str, Any]:
    """{'next_index': number of the next batch, 'order': signature of the batches}."""
    return {'next_index': self._next, 'order': self._batches.signature}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from `state`; warns if the data or the order of batches differ."""
    if state.get('order', self._batches.signature) != self._batches.signature:
      logging.warning(
        'The data, batch size, lengths or seed differ from those of the saved position: training '
        'continues at batch %d of a different order than in the saved run.',
        state['next_index'],
      )
    self.close_inner()
    self._next = int(state['next_index'])

  def close_inner(self) -> None:
    if self._inner is not None:
      self._inner.close()
      self._inner = None

  def close(self) -> None:
    """Stops reading ahead."""
    self.close_inner()
    self._closed = True


@dataclasses.dataclass
class _RandomAccess:
  """Adapts a loader to grain: random access by batch number."""

  loader: Loader

  def __len__(self) -> int:
    return len(self.loader)

  def __getitem__(self, g) -> dict[str, np.ndarray]:
    return self.loader.load(operator.index(g))


def _open(fields: Sequence[Field], source: Source, context: Context) -> dict[str, Rows]:
  """Opens the fields of a pipeline, by key."""
  keys = [field.key for field in fields]
  if len(set(keys)) != len(keys):
    raise InputError(f'Keys of fields must be unique, got {", ".join(keys)}.')
  chosen = (f for f in fields if context.train or not f.TRAIN_ONLY)
  return {field.key: field.open(source, context) for field in chosen}


def _mark_flags_parsed() -> None:
  """grain's worker processes read absl flags, which programs without absl.app do not parse."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

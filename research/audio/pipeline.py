"""Sources to batches: decoding in threads or processes, crop, pad, mask; resumable to the bit."""

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
  bad_files: BadFiles | None = None,
) -> 'Batches':
  """Shuffled batches without end (or for `epochs`), whose position can be saved and restored.

  A batch is a dict: `audio` f32 [b, t]; `audio_mask` bool [b, t], True at real samples; `index` i32
  [b], the clip's place in `source`; `valid` bool [b], always True; and what the fields give. All of
  it depends on the seed and the number of the batch only. A clip that cannot be decoded, or that a
  field refuses, is replaced by another one, chosen by the seed, and recorded in `bad_files`.

  Args:
    source: the clips.
    batch_size: clips of the global batch; a process gets its rows of it.
    batch_seconds: of buckets of short clips a batch then has more than of those of long ones: as
      many as this many seconds hold, padding included, and `batch_size` at most.
    batch_multiple: of which the number of clips is a multiple. In terms of fairseq this is the
      number of GPUs times update_freq, and `batch_seconds` is so many times max_tokens; which has 8
      and 16 clips a GPU, but none between.
    sample_rate: Hz.
    seconds: static length; longer clips are cropped, shorter ones padded. None without buckets: the
      longest clip.
    crop: where from a longer clip: 'random', 'start' or 'center'.
    buckets: lengths in seconds, or how many to choose; a batch holds clips of one bucket.
    fill: 'pad' pads a clip to the next longer bucket, 'crop' crops it to the next shorter one.
    fields: what a batch holds besides audio (`fields.make`). With a field that needs whole clips no
      clip may be longer than the batches.
    model: what learns from the batches; fields may ask it for its vocabulary and the like.
    root: folder of named data sets, for fields that read one.
    weights: draw clips with replacement by these weights, one a clip; 'balanced' for
      those of the first field that holds classes, or else of the column "label".
    seed: of order, crops, draws and substitutes.
    shuffle: a new order every epoch; False goes through in order.
    epochs: None never ends.
    num_threads: that decode, in every process.
    num_workers: worker processes, 0 for none; FLAC and ArrayRecord are faster with threads.
    prefetch: batches decoded ahead.
    process_index: this process of the `process_count` of a run.
    process_count: how many processes share a global batch.
    bad_files: where bad files are counted; None counts them in memory, at most a tenth may be bad.

  Raises:
    InputError: settings that cannot work, each with what to do.
  """
  settings.check(source, batch_size, process_index, process_count, batch_multiple)
  if crop not in CROPS:
    raise unknown('crop', crop, CROPS)
  if fill not in FILLS:
    raise unknown('fill', fill, FILLS)
  whole = [field.key for field in fields if field.WHOLE]
  if fill == 'crop' and (buckets is None or whole):
    lacking = f', and no field {whole[0]!r}, which a cropped clip does not have' if whole else ''
    raise InputError(f"fill='crop' crops clips to buckets: give buckets={lacking}.")
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
      raise InputError('batch_seconds is for clips of several lengths: give buckets= with it.')
    samples = round(settings.batch_seconds(source, seconds) * sample_rate)
    batches: batching.Stream | batching.Bucketed = batching.Stream(
      len(source), samples=samples, **order
    )
  else:
    durations = source.durations()
    lengths = settings.bucket_seconds(durations, buckets, seconds, fill)
    clips = settings.bucket_rows(lengths, batch_size, batch_seconds, batch_multiple, process_count)
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
  loader = Loader(source, batches, sample_rate, crop, process, bad_files, opened)
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

  The batches are those of `train_batches`, but `valid` is False in rows that fill the last batch of
  a length up and in rows of bad files; such rows are silent and masked. Clips longer than
  `max_seconds` give their beginning.

  Args:
    source: the clips.
    batch_size: global; all processes have the same number of batches of the same lengths.
    sample_rate: Hz.
    max_seconds: None takes clips whole.
    fields: as in `train_batches`; those that are for training alone are left out.
    model: as in `train_batches`.
    root: as in `train_batches`.
    process_index: this process of the `process_count` of a run.
    process_count: how many processes share a global batch.
    bad_files: counts and lists bad files; None never stops.
    num_threads: that decode.
    lengths: how many different lengths the batches may have.

  Raises:
    InputError: settings that cannot work; while reading, units that were made from other audio.
  """
  settings.check(source, batch_size, process_index, process_count)
  durations = np.minimum(source.durations(), np.inf if max_seconds is None else max_seconds)
  samples, place = batching.eval_lengths(durations, lengths, sample_rate, max_seconds)
  groups = batching.by_length(durations, place, samples, lambda length, clips: batch_size)
  process = (process_index, process_count)
  bad_files = bad_files if bad_files is not None else BadFiles(None, 1.0)
  context = Context(sample_rate, model, root, False, 0, batch_size, process, bad_files)
  opened = _open(fields, source, context)
  loader = Loader(source, groups, sample_rate, 'start', process, bad_files, opened, False)
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
  return grain.MapDataset.source(_Random(loader)).to_iter_dataset(options)


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
    """Clips of the data a global batch, on average over an epoch: those that fill its last batch
    up do not count."""
    return self.loader.batches.mean_rows

  @functools.cached_property
  def signature(self) -> str:
    """A hash of what the order of the batches depends on, except the number of processes."""
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
    """An iterator over the batches from number `first`."""
    data = grain.MapDataset.source(_Random(self.loader))[first:]
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
  """Goes through `Batches`; its state is the number of the next batch, whatever reads ahead.

  That makes the state the same for every process, and good for any number of processes, threads
  and workers.
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
    """{'next_index': number of the next batch, 'order': signature of the data and the order}."""
    return {'next_index': self._next, 'order': self._batches.signature}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues where `state` was taken; warns if the data or the order were others."""
    if state.get('order', self._batches.signature) != self._batches.signature:
      logging.warning(
        'The data, batch size, lengths or seed differ from those of the saved position: training '
        'goes on at batch %d of the new order, which is not the order of the saved run.',
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
class _Random:
  """A loader as grain sees it: random access by the number of the batch."""

  loader: Loader

  def __len__(self) -> int:
    return len(self.loader)

  def __getitem__(self, g) -> dict[str, np.ndarray]:
    return self.loader.load(operator.index(g))


def _open(fields: Sequence[Field], source: Source, context: Context) -> dict[str, Rows]:
  """The fields of a pipeline, open, by their keys."""
  keys = [field.key for field in fields]
  if len(set(keys)) != len(keys):
    raise InputError(f'Two fields have one key: {", ".join(keys)}.')
  chosen = (f for f in fields if context.train or not f.TRAIN_ONLY)
  return {field.key: field.open(source, context) for field in chosen}


def _mark_flags_parsed() -> None:
  """grain's worker processes read absl flags, which a program without absl.app never parses."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

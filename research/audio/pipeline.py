"""Sources to batches: decoding in threads or processes, crop, pad, mask; resumable to the bit."""

import dataclasses
import functools
import hashlib
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import logging

from research.audio import decode, plan, text
from research.audio.bad_files import BadFiles
from research.audio.clips import Example, Source
from research.audio.transcripts import Tokens
from research.errors import InputError, unknown

CROPS = ('random', 'start', 'center')
FILLS = ('pad', 'crop')
# Without a length, clips are padded to the longest: beyond this many seconds that is a mistake.
LONGEST_UNASKED = 60.0
ATTEMPTS = 100
# Lengths of evaluation batches are rounded up to this many seconds.
EVAL_STEP = 0.1


def train_batches(
  source: Source,
  *,
  batch_size: int,
  sample_rate: int = 16000,
  seconds: float | None = None,
  crop: str = 'random',
  buckets: Sequence[float] | int | None = None,
  fill: str = 'pad',
  label: str | None = None,
  transcript: str | None = None,
  symbols: Sequence[str] = text.LETTERS,
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
  [b], the clip's place in `source`; `valid` bool [b], always True; with `label`, `label` i32 [b] or
  f32 [b, c]; with `transcript`, `tokens` i32 [b, u], -1 behind the end. All of it depends on the
  seed and the number of the batch only. A clip that cannot be decoded is replaced by another one,
  chosen by the seed, and recorded in `bad_files`.

  Args:
    source: the clips.
    batch_size: of the global batch; a process gets its rows of it.
    sample_rate: Hz.
    seconds: static length; longer clips are cropped, shorter ones padded. None without buckets: the
      longest clip.
    crop: where from a longer clip: 'random', 'start' or 'center'.
    buckets: lengths in seconds, or how many to choose; a batch holds clips of one bucket.
    fill: 'pad' pads a clip to the next longer bucket, 'crop' crops it to the next shorter one.
    label: column to give as `label`; multi-hot if its values are lists.
    transcript: column to give as `tokens`; no clip may then be longer than the batches, because
      a cropped clip does not say its transcript.
    symbols: the vocabulary of `tokens`, see `audio/text.py`.
    weights: draw clips with replacement by these weights, one a clip; 'balanced' for
      `plan.label_weights` of the label column.
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
  _check(source, batch_size, process_index, process_count)
  if crop not in CROPS:
    raise unknown('crop', crop, CROPS)
  if fill not in FILLS:
    raise unknown('fill', fill, FILLS)
  if fill == 'crop' and (buckets is None or transcript is not None):
    raise InputError(
      "fill='crop' crops clips to buckets: give buckets=, and no transcript=, which a cropped clip "
      'does not say.'
    )
  weights = _weights(source, weights, label)
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
    samples = round(_seconds(source, seconds) * sample_rate)
    batches: plan.Stream | plan.Bucketed = plan.Stream(len(source), samples=samples, **order)
  else:
    durations = source.durations()
    lengths = _buckets(durations, buckets, seconds, fill)
    batches = plan.Bucketed(durations, lengths, sample_rate=sample_rate, fill=fill, **order)
  bad_files = bad_files if bad_files is not None else BadFiles(None)
  if bad_files.total is None:
    bad_files.total = len(source)
  loader = _Loader(
    source=source,
    batches=batches,
    sample_rate=sample_rate,
    crop=crop,
    labels=_Labels.of(source, label),
    tokens=Tokens.of(source, transcript, symbols),
    rows=_slots(batch_size, process_index, process_count),
    bad_files=bad_files,
  )
  if loader.tokens is not None:
    loader.tokens.demand_fit(max(np.atleast_1d(batches.samples)) / sample_rate)
  return Batches(loader, num_threads=num_threads, num_workers=num_workers, prefetch=prefetch)


def eval_batches(
  source: Source,
  *,
  batch_size: int,
  sample_rate: int = 16000,
  max_seconds: float | None = None,
  label: str | None = None,
  transcript: str | None = None,
  symbols: Sequence[str] = text.LETTERS,
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
    label: as in `train_batches`.
    transcript: as in `train_batches`.
    symbols: as in `train_batches`.
    process_index: this process of the `process_count` of a run.
    process_count: how many processes share a global batch.
    bad_files: counts and lists bad files; None never stops.
    num_threads: that decode.
    lengths: how many different lengths the batches may have.
  """
  _check(source, batch_size, process_index, process_count)
  durations = np.minimum(source.durations(), np.inf if max_seconds is None else max_seconds)
  groups = _by_length(durations, batch_size, sample_rate, lengths, max_seconds)
  loader = _Loader(
    source=source,
    batches=groups,
    sample_rate=sample_rate,
    crop='start',
    labels=_Labels.of(source, label),
    tokens=Tokens.of(source, transcript, symbols),
    rows=_slots(batch_size, process_index, process_count),
    bad_files=bad_files if bad_files is not None else BadFiles(None, 1.0),
    substitute=False,
  )
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4 if num_threads else 0)
  return grain.MapDataset.source(_Random(loader)).to_iter_dataset(options)


class Batches(grain.IterDataset):
  """The batches of a run; `iter` gives an iterator with `get_state` and `set_state`."""

  def __init__(self, loader: '_Loader', *, num_threads: int, num_workers: int, prefetch: int):
    super().__init__()
    self.loader = loader
    self._threads, self._workers, self._prefetch = num_threads, num_workers, prefetch

  def __len__(self) -> int:
    return len(self.loader)

  def __str__(self) -> str:
    return f'Batches({self.loader.source!r})'

  @functools.cached_property
  def signature(self) -> str:
    """A hash of what the order of the batches depends on, except the number of processes."""
    order = self.loader.batches
    parts = (self.loader.source.fingerprint(), order.seed, order.batch_size, repr(order.samples))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

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

  loader: '_Loader'

  def __len__(self) -> int:
    return len(self.loader)

  def __getitem__(self, g) -> dict[str, np.ndarray]:
    return self.loader.load(operator.index(g))


@dataclasses.dataclass
class _Labels:
  """Class numbers of every clip: i32 [n], or a list of class numbers a clip for several labels."""

  codes: np.ndarray | list[list[int]]
  count: int

  @classmethod
  def of(cls, source: Source, column: str | None) -> '_Labels | None':
    if column is None:
      return None
    classes = {name: i for i, name in enumerate(source.classes(column))}
    values = source.column(column)
    given = [[value] if isinstance(value, str) else value for value in values]
    for i, clip in enumerate(given):
      if clip == ['']:
        raise InputError(
          f'Clip {source.id(i)!r} of {source.name!r} has no {column!r}; leave such clips out with '
          'split= or where=, or choose another label column.'
        )
      for name in clip:
        if name not in classes:
          raise unknown(f'{column} (of clip {source.id(i)!r})', name, classes)
    codes = [[classes[name] for name in clip] for clip in given]
    if any(not isinstance(v, str) for v in values):
      return cls(codes, len(classes))
    return cls(np.array(codes, np.int32)[:, 0], len(classes))

  def __getitem__(self, rows: np.ndarray) -> np.ndarray:
    if isinstance(self.codes, np.ndarray):
      return self.codes[rows]
    hot = np.zeros((len(rows), self.count), np.float32)
    for i, row in enumerate(rows):
      hot[i, self.codes[row]] = 1.0
    return hot


@dataclasses.dataclass
class _Loader:
  """Decodes this process's rows of global batch g."""

  source: Source
  batches: Any  # random access to plan.Batch
  sample_rate: int
  crop: str
  labels: _Labels | None
  tokens: Tokens | None
  rows: slice
  bad_files: BadFiles
  substitute: bool = True

  def __len__(self) -> int:
    return len(self.batches)

  def load(self, g: int) -> dict[str, np.ndarray]:
    batch = self.batches[g]
    slots = range(len(batch.rows))[self.rows]
    audio = np.zeros((len(slots), batch.samples), np.float32)
    lengths = np.zeros(len(slots), np.int64)
    index = batch.rows[self.rows].astype(np.int32)
    for i, slot in enumerate(slots):
      if index[i] >= 0:
        index[i], lengths[i] = self._fill(audio[i], batch, slot, int(index[i]))
    self.bad_files.check()
    valid = lengths > 0
    index = np.maximum(index, 0)
    out = {
      'audio': audio,
      'audio_mask': np.arange(batch.samples) < lengths[:, None],
      'index': index,
      'valid': valid,
    }
    if self.labels is not None:
      out['label'] = self.labels[index]
    if self.tokens is not None:
      out['tokens'] = self.tokens.padded(index, valid, batch.samples / self.sample_rate)
    return out

  def _fill(self, out: np.ndarray, batch: plan.Batch, slot: int, row: int) -> tuple[int, int]:
    """Decodes `row`, or a substitute, into `out`; returns the row taken and its length."""
    reason = ''
    for attempt in range(ATTEMPTS):
      seconds = len(out) / self.sample_rate
      if attempt and self.tokens is not None and not self.tokens.fits(row, seconds):
        row = self.batches.substitute(batch, slot, attempt)
        continue
      self.bad_files.seen(1)
      try:
        clip = self._decode(self.source[row], batch, slot, len(out))
        out[: len(clip)] = clip
        return row, len(clip)
      except decode.AudioError as error:
        reason = str(error)
        self.bad_files.record(self.source.id(row), error.where, error.reason)
      if not self.substitute:
        return row, 0
      self.bad_files.check()
      row = self.batches.substitute(batch, slot, attempt)
    raise InputError(
      f'{ATTEMPTS} clips in a row of {self.source.name!r} could not be read; the last one: {reason}'
    )

  def _decode(self, example: Example, batch: plan.Batch, slot: int, samples: int) -> np.ndarray:
    place = {'start': 0.0, 'center': 0.5}.get(self.crop)
    if place is None:
      place = plan.uniform(self.batches.seed, batch.position + slot, 'crop')
    seconds = samples / self.sample_rate
    return decode.decode(example, sample_rate=self.sample_rate, seconds=seconds, place=place)


def _check(source: Source, batch_size: int, process_index: int, process_count: int) -> None:
  if not len(source):
    raise InputError(f'Data set {source.name!r} has no clips to read.')
  if batch_size < 1 or batch_size % process_count:
    raise InputError(
      f'A batch of {batch_size} cannot be shared by {process_count} processes; give a multiple of '
      f'{process_count}.'
    )
  if not 0 <= process_index < process_count:
    raise InputError(f'process_index {process_index} is not one of {process_count} processes.')


def _slots(batch_size: int, process_index: int, process_count: int) -> slice:
  size = batch_size // process_count
  return slice(process_index * size, (process_index + 1) * size)


def _seconds(source: Source, seconds: float | None) -> float:
  if seconds is None:
    seconds = float(source.durations().max())
    if seconds > LONGEST_UNASKED:
      raise InputError(
        f'The longest clip of {source.name!r} has {seconds:.0f} s and every clip would be padded '
        'to that; give seconds= to crop, or buckets=.'
      )
  if not seconds > 0:
    raise InputError(f'Clips of {seconds} s cannot be read; give seconds above 0.')
  return float(seconds)


def _buckets(
  durations: np.ndarray, buckets: Sequence[float] | int, seconds: float | None, fill: str
) -> list[float]:
  if isinstance(buckets, int):
    best = plan.best_crops if fill == 'crop' else plan.best_buckets
    return best(durations, buckets, longest=seconds)
  lengths = [float(b) for b in buckets]
  if not lengths or lengths[0] <= 0 or any(a >= b for a, b in itertools.pairwise(lengths)):
    raise InputError(f'buckets are {list(buckets)}; give ascending lengths in seconds, above 0.')
  if seconds is not None:
    raise InputError('Give seconds= or a list of buckets=, not both: the last bucket crops.')
  return lengths


def _weights(
  source: Source, weights: str | Sequence[float] | np.ndarray | None, label: str | None
) -> np.ndarray | None:
  if weights is None:
    return None
  if isinstance(weights, str):
    if weights != 'balanced':
      raise unknown('sampling weights', weights, ['balanced'])
    return plan.label_weights(source, label or 'label')
  weights = np.asarray(weights, np.float64)
  good = weights.shape == (len(source),) and np.isfinite(weights).all() and (weights >= 0).all()
  if not good or not weights.sum() > 0:
    raise InputError(
      f'Sampling weights of shape {weights.shape} do not fit the {len(source)} clips of '
      f'{source.name!r}; give one finite weight of 0 or more for every clip.'
    )
  return weights


def _by_length(
  durations: np.ndarray,
  batch_size: int,
  sample_rate: int,
  lengths: int,
  max_seconds: float | None,
) -> list[plan.Batch]:
  """Batches for evaluation: rows sorted by length; -1 fills the last batch of a length up."""
  if durations.max() <= 0:
    edges = [EVAL_STEP]
  else:
    edges = plan.best_buckets(durations, lengths)
  bucket = plan.bucket_of(durations, edges)
  batches = []
  for b, edge in enumerate(edges):
    rows = np.flatnonzero(bucket == b)
    rows = rows[np.argsort(durations[rows], kind='stable')]
    samples = round(np.ceil(edge / EVAL_STEP - 1e-6) * EVAL_STEP * sample_rate)
    if max_seconds is not None:
      samples = min(samples, round(max_seconds * sample_rate))
    for at in range(0, len(rows), batch_size):
      part = rows[at : at + batch_size]
      part = np.pad(part, (0, batch_size - len(part)), constant_values=-1)
      batches.append(plan.Batch(part, int(samples), 0, b))
  return batches


def _mark_flags_parsed() -> None:
  """grain's worker processes read absl flags, which a program without absl.app never parses."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

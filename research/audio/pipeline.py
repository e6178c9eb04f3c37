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

from research.audio import batching, decode, settings
from research.audio.bad_files import BadFiles
from research.audio.clips import Source
from research.audio.fields.labels import Labels
from research.audio.fields.transcripts import Tokens
from research.audio.fields.units import OtherAudio, Spec, UnitRows
from research.errors import InputError, unknown
from research.text import characters

CROPS = ('random', 'start', 'center')
FILLS = ('pad', 'crop')
ATTEMPTS = 100
# So many rows of a batch have the same noise beside them.
NOISE_SHARED = 8


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
  label: str | None = None,
  transcript: str | None = None,
  symbols: Sequence[str] = characters.LETTERS,
  units: Spec = None,
  noise: Source | None = None,
  moments: bool = False,
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
  f32 [b, c]; with `transcript`, `tokens` i32 [b, u], -1 behind the end; with `units`, `units` i32
  [b, u, g], one to each of the g label sets for every unit of t samples, -1 where there is none
  (behind a clip's end too); with `noise`, `noise` f32 [b, t] and `noise_mask` bool [b, t]; with
  `moments`, `audio_moments` f32 [b, 2], mean and variance of the clip of a crop, NaN of a whole
  clip. All of it depends on the seed and the number of the batch only. A clip that cannot be
  decoded, or that is not the one its units were made from, is replaced by another one, chosen by
  the seed, and recorded in `bad_files`.

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
    label: column to give as `label`; multi-hot if its values are lists.
    transcript: column to give as `tokens`; no clip may then be longer than the batches, because
      a cropped clip does not say its transcript.
    symbols: the vocabulary of `tokens`, see `text/characters.py`.
    units: a folder of units (`audio/units.py`), or a list of such; crops then start at a multiple
      of their hop, so that unit j of a crop is unit start / hop + j of its clip.
    noise: clips of which a random one, cropped at random, comes with every 8 rows: few rows
      are mixed with noise, and decoding is what input costs. Bad ones are listed in
      bad_noise.jsonl beside the list of `bad_files`.
    moments: whether a model normalises crops by their clips, which are then read whole once.
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
  settings.check(source, batch_size, process_index, process_count, batch_multiple)
  if crop not in CROPS:
    raise unknown('crop', crop, CROPS)
  if fill not in FILLS:
    raise unknown('fill', fill, FILLS)
  if fill == 'crop' and (buckets is None or transcript is not None):
    raise InputError(
      "fill='crop' crops clips to buckets: give buckets=, and no transcript=, which a cropped clip "
      'does not say.'
    )
  weights = settings.sampling_weights(source, weights, label)
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
  loader = _Loader(
    source=source,
    batches=batches,
    sample_rate=sample_rate,
    crop=crop,
    labels=Labels.of(source, label),
    tokens=Tokens.of(source, transcript, symbols),
    units=UnitRows.of(source, units, sample_rate),
    moments=moments,
    process=(process_index, process_count),
    bad_files=bad_files,
  )
  if loader.tokens is not None:
    loader.tokens.demand_fit(max(np.atleast_1d(batches.samples)) / sample_rate)
  if loader.units is not None:
    loader.units.demand_fit(int(min(np.atleast_1d(batches.samples))))
  if noise is not None:
    loader.noise = _noise(noise, loader)
  return Batches(loader, num_threads=num_threads, num_workers=num_workers, prefetch=prefetch)


def eval_batches(
  source: Source,
  *,
  batch_size: int,
  sample_rate: int = 16000,
  max_seconds: float | None = None,
  label: str | None = None,
  transcript: str | None = None,
  symbols: Sequence[str] = characters.LETTERS,
  units: Spec = None,
  moments: bool = False,
  process_index: int = 0,
  process_count: int = 1,
  bad_files: BadFiles | None = None,
  num_threads: int = 2,
  lengths: int = 4,
) -> grain.IterDataset:
  """Every clip exactly once, sorted by length into batches of at most `lengths` static lengths.

  The batches are those of `train_batches`, but `valid` is False in rows that fill the last batch of
  a length up and in rows of bad files; such rows are silent and masked. There is no noise.

  Args:
    source: the clips.
    batch_size: global; all processes have the same number of batches of the same lengths.
    sample_rate: Hz.
    max_seconds: longer clips give their beginning; None takes clips whole.
    label … moments, process_index, process_count: as in `train_batches`.
    bad_files: counts and lists bad files; None never stops.
    num_threads: that decode.
    lengths: how many different lengths the batches may have.

  Raises:
    InputError: settings that cannot work; while reading, units that were made from other audio.
  """
  settings.check(source, batch_size, process_index, process_count)
  durations = np.minimum(source.durations(), np.inf if max_seconds is None else max_seconds)
  samples, place = batching.eval_lengths(durations, lengths, sample_rate, max_seconds)
  loader = _Loader(
    source=source,
    batches=batching.by_length(durations, place, samples, lambda length, clips: batch_size),
    sample_rate=sample_rate,
    crop='start',
    labels=Labels.of(source, label),
    tokens=Tokens.of(source, transcript, symbols),
    units=UnitRows.of(source, units, sample_rate),
    moments=moments,
    process=(process_index, process_count),
    bad_files=BadFiles(None, 1.0) if bad_files is None else bad_files,
    substitute=False,
  )
  return _in_order(loader, num_threads)


def read_batches(
  source: Source,
  batches: Sequence[batching.Batch],
  *,
  sample_rate: int,
  bad_files: BadFiles,
) -> grain.IterDataset:
  """The audio of given batches, as `eval_batches`; each clip from its start."""
  loader = _Loader(source, batches, sample_rate, 'start', (0, 1), bad_files, substitute=False)
  return _in_order(loader, num_threads=2)


def _in_order(loader: '_Loader', num_threads: int) -> grain.IterDataset:
  data = grain.MapDataset.source(_Random(loader))
  return data.to_iter_dataset(grain.ReadOptions(num_threads, 4 if num_threads else 0))


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

  @property
  def mean_rows(self) -> float:
    """Clips of the data a global batch, on average over an epoch: those that fill its last batch
    up do not count."""
    return self.loader.batches.mean_rows

  @functools.cached_property
  def signature(self) -> str:
    """A hash of what the order of the batches depends on, except the number of processes."""
    order, noise = self.loader.batches, self.loader.noise
    parts = [self.loader.source.fingerprint(), order.seed, order.batch_size, repr(order.samples)]
    rows = getattr(order, 'rows', ())
    if any(n != order.batch_size for n in rows):
      parts += ['rows', *rows]
    if self.loader.units is not None:
      parts += ['units', self.loader.units.fingerprint]
    if noise is not None:
      parts += ['noise', noise.source.fingerprint()]
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

  loader: '_Loader'

  def __len__(self) -> int:
    return len(self.loader)

  def __getitem__(self, g) -> dict[str, np.ndarray]:
    return self.loader.load(operator.index(g))


@dataclasses.dataclass
class _Loader:
  """Decodes this process's rows of global batch g."""

  source: Source
  batches: Any  # random access to plan.Batch
  sample_rate: int
  crop: str
  process: tuple[int, int]  # index and count of the processes that share a global batch
  bad_files: BadFiles
  labels: Labels | None = None
  tokens: Tokens | None = None
  units: UnitRows | None = None
  noise: '_Loader | None' = None
  moments: bool = False
  substitute: bool = True
  shared: int = 1  # of so many rows of a batch the first is read, for all of them

  def __len__(self) -> int:
    return len(self.batches)

  def __post_init__(self):
    # Mean and variance of the clips that were read whole; made before threads can ask for it.
    self._known = np.full((len(self.source) if self.moments else 0, 2), np.nan, np.float32)

  def slots(self, size: int) -> np.ndarray:
    """Which rows of a global batch of `size` this process reads."""
    index, count = self.process
    mine = np.arange(index * size // count, (index + 1) * size // count)
    return np.unique(mine // self.shared * self.shared)

  def load(self, g: int) -> dict[str, np.ndarray]:
    batch = self.batches[g]
    out = self.read(batch)
    if self.noise is not None:
      beside, size = self.noise.batches[g], len(batch.rows)
      beside = dataclasses.replace(beside, rows=beside.rows[:size], samples=batch.samples)
      shared = self.noise.read(beside)
      mine = np.searchsorted(self.noise.slots(size), self.slots(size), side='right') - 1
      out['noise'], out['noise_mask'] = shared['audio'][mine], shared['audio_mask'][mine]
    return out

  def read(self, batch: batching.Batch) -> dict[str, np.ndarray]:
    slots = self.slots(len(batch.rows))
    audio = np.zeros((len(slots), batch.samples), np.float32)
    lengths, starts = np.zeros((2, len(slots)), np.int64)
    moments = np.full((len(slots), 2), np.nan, np.float32)
    index = batch.rows[slots].astype(np.int32)
    for i, slot in enumerate(slots):
      if index[i] >= 0:
        index[i], crop = self._fill(audio[i], batch, int(slot), int(index[i]))
        if crop is not None:
          starts[i], lengths[i] = crop.start, len(crop.audio)
          if self.moments and len(crop.audio) < crop.total:
            moments[i] = self._known[index[i]]
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
    if self.moments:
      out['audio_moments'] = moments
    if self.units is not None:
      out['units'] = self.units.cropped(index, starts, lengths, batch.samples)
    return out

  def _fill(
    self, out: np.ndarray, batch: batching.Batch, slot: int, row: int
  ) -> tuple[int, decode.Crop | None]:
    """Decodes `row`, or a substitute, into `out`; returns the row taken and its crop, if there is
    one."""
    reason = ''
    for attempt in range(ATTEMPTS):
      seconds = len(out) / self.sample_rate
      if attempt and self.tokens is not None and not self.tokens.fits(row, seconds):
        row = self.batches.substitute(batch, slot, attempt)
        continue
      self.bad_files.seen(1)
      try:
        crop = self._decode(row, batch, slot, len(out))
        out[: len(crop.audio)] = crop.audio
        return row, crop
      except decode.AudioError as error:
        # An evaluation goes on whatever is bad: with the wrong units it would measure nothing.
        if not self.substitute and isinstance(error, OtherAudio):
          raise
        reason = str(error)
        self.bad_files.record(self.source.id(row), error.where, error.reason)
      if not self.substitute:
        return row, None
      self.bad_files.check()
      row = self.batches.substitute(batch, slot, attempt)
    raise InputError(
      f'{ATTEMPTS} clips in a row of {self.source.name!r} could not be read; the last one: {reason}'
    )

  def _decode(self, row: int, batch: batching.Batch, slot: int, samples: int) -> decode.Crop:
    place = {'start': 0.0, 'center': 0.5}.get(self.crop)
    if place is None:
      place = batching.uniform(self.batches.seed, batch.position + slot, 'crop')
    example = self.source[row]
    step = 1 if self.units is None else self.units.hop
    crop = decode.crop(
      example, sample_rate=self.sample_rate, samples=samples, place=place, step=step
    )
    if self.moments and samples < crop.total and np.isnan(self._known[row, 0]):
      self._known[row] = decode.moments(example, sample_rate=self.sample_rate)
    if self.units is not None:
      self.units.demand_same(row, crop.total, example.where)
    return crop


def _noise(source: Source, loader: _Loader) -> _Loader:
  """A loader of noise for the batches of another one, in an order of its own."""
  bad = loader.bad_files
  listed = None if bad.path is None else bad.path.with_name('bad_noise.jsonl')
  seed = int(2**32 * batching.uniform(loader.batches.seed, 0, 'noise'))
  return _Loader(
    source=source,
    batches=batching.Stream(
      len(source), batch_size=loader.batches.batch_size, samples=0, seed=seed
    ),
    sample_rate=loader.sample_rate,
    crop='random',
    process=loader.process,
    shared=NOISE_SHARED,
    bad_files=BadFiles(listed, bad.max_fraction, len(source)),
  )


def _mark_flags_parsed() -> None:
  """grain's worker processes read absl flags, which a program without absl.app never parses."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

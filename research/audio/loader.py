"""Decodes the rows of a batch on one process: crop, pad, mask, fields, replacements."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from research.audio import batching, decode
from research.audio.bad_files import BadFiles
from research.audio.clips import Source
from research.audio.fields import Crops, Rows
from research.errors import InputError

CROPS = ('random', 'start', 'center')
ATTEMPTS = 100


@dataclasses.dataclass
class Loader:
  """Decodes this process's rows of global batch g.

  Attributes:
    source: the clips.
    batches: random access to `batching.Batch`.
    sample_rate: Hz.
    crop: position of crops in longer clips, one of CROPS.
    process: index of this process and number of processes.
    bad_files: counts bad files.
    fields: open fields of a batch, by key.
    substitute: whether a bad clip is replaced by another one.
    stride: only the first of every N consecutive rows is read.
    fill_to: rows of a global batch are filled up to a multiple of N.
    silent: decode nothing; a batch has no audio, and crops are of the lengths in the headers.
  """

  source: Source
  batches: Any
  sample_rate: int
  crop: str
  process: tuple[int, int]
  bad_files: BadFiles
  fields: Mapping[str, Rows] = dataclasses.field(default_factory=dict)
  substitute: bool = True
  stride: int = 1
  fill_to: int = 1
  silent: bool = False

  def __len__(self) -> int:
    return len(self.batches)

  def __post_init__(self):
    self._step = int(np.lcm.reduce([f.step for f in self.fields.values()] or [1]))
    self._seconds = self.source.durations() if self.silent else np.zeros(0)

  def slots(self, size: int) -> np.ndarray:
    """Rows of a global batch of `size` that this process reads."""
    index, count = self.process
    mine = np.arange(index * size // count, (index + 1) * size // count)
    return np.unique(mine // self.stride * self.stride)

  def load(self, g: int) -> dict[str, np.ndarray]:
    """Rows of this process of batch number g."""
    batch = self.batches[g]
    size = batching.filled(len(batch.rows), self.fill_to)
    return self.read(batching.fill(batch, size), g)

  def read(self, batch: batching.Batch, g: int) -> dict[str, np.ndarray]:
    """Rows of this process of `batch`, which is batch number g of the run."""
    slots = self.slots(len(batch.rows))
    audio = np.zeros((len(slots), 0 if self.silent else batch.samples), np.float32)
    lengths, starts, totals = np.zeros((3, len(slots)), np.int64)
    index = batch.rows[slots].astype(np.int32)
    for i, slot in enumerate(slots):
      if index[i] >= 0:
        index[i], crop = self._fill(audio[i], batch, int(slot), int(index[i]))
        if crop is not None:
          starts[i], totals[i] = crop.start, crop.total
          lengths[i] = min(crop.total, batch.samples) if self.silent else len(crop.audio)
    self.bad_files.check()
    valid = lengths > 0
    index = np.maximum(index, 0)
    out = {'index': index, 'valid': valid}
    if not self.silent:
      out |= {'audio': audio, 'audio_mask': np.arange(batch.samples) < lengths[:, None]}
    crops = Crops(
      index=index,
      valid=valid,
      starts=starts,
      lengths=lengths,
      totals=totals,
      samples=batch.samples,
      number=g,
      size=len(batch.rows),
      slots=slots,
      position=batch.position,
    )
    for key, rows in self.fields.items():
      found = rows.arrays(crops)
      if twice := set(found) & set(out):
        raise InputError(
          f'Field {key!r} gives {sorted(twice)[0]!r}, which is already in the batch; remove one of '
          'the two fields, or give it another key.'
        )
      out |= found
    return out

  def _fill(
    self, out: np.ndarray, batch: batching.Batch, slot: int, row: int
  ) -> tuple[int, decode.Crop | None]:
    """Decodes `row`, or a replacement, into `out`; returns the row used and its crop, or None for a
    bad clip without replacement."""
    reason = ''
    for attempt in range(ATTEMPTS):
      if attempt and not all(f.fits(row, batch.samples) for f in self.fields.values()):
        row = self.batches.substitute(batch, slot, attempt)
        continue
      self.bad_files.seen(1)
      try:
        crop = self._decode(row, batch, slot)
        out[: len(crop.audio)] = crop.audio
        return row, crop
      except decode.AudioError as error:
        # Evaluation skips bad files, but labels of other audio would make it meaningless.
        if not self.substitute and isinstance(error, decode.AudioMismatch):
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

  def _decode(self, row: int, batch: batching.Batch, slot: int) -> decode.Crop:
    place = {'start': 0.0, 'center': 0.5}.get(self.crop)
    if place is None:
      place = batching.uniform(self.batches.seed, batch.position + slot, 'crop')
    example = self.source[row]
    if self.silent:
      total = round(float(self._seconds[row]) * self.sample_rate)
      if not total:
        raise decode.AudioError(example.where, 'it cannot be opened, or is empty')
      start = decode.offset(total, batch.samples, place, self._step)
      crop = decode.Crop(np.zeros(0, np.float32), start, total)
    else:
      crop = decode.crop(
        example, sample_rate=self.sample_rate, samples=batch.samples, place=place, step=self._step
      )
    for field in self.fields.values():
      field.read(row, example, crop)
    return crop

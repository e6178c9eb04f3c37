"""Decodes the rows of a batch that one process has: crop, pad, mask, fields, substitutes."""

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
    crop: where a longer clip is cropped, one of CROPS.
    process: index and count of the processes that share a global batch.
    bad_files: where bad files are counted.
    fields: what a batch holds besides audio, by the keys of the fields.
    substitute: whether another clip stands in for a bad one.
    shared: one row is read for N rows of a batch in a row, the first.
  """

  source: Source
  batches: Any
  sample_rate: int
  crop: str
  process: tuple[int, int]
  bad_files: BadFiles
  fields: Mapping[str, Rows] = dataclasses.field(default_factory=dict)
  substitute: bool = True
  shared: int = 1

  def __len__(self) -> int:
    return len(self.batches)

  def __post_init__(self):
    self._step = int(np.lcm.reduce([f.step for f in self.fields.values()] or [1]))

  def slots(self, size: int) -> np.ndarray:
    """Which rows of a global batch of `size` this process reads."""
    index, count = self.process
    mine = np.arange(index * size // count, (index + 1) * size // count)
    return np.unique(mine // self.shared * self.shared)

  def load(self, g: int) -> dict[str, np.ndarray]:
    """This process's rows of batch number g."""
    return self.read(self.batches[g], g)

  def read(self, batch: batching.Batch, g: int) -> dict[str, np.ndarray]:
    """The rows of a batch that is number g of the run."""
    slots = self.slots(len(batch.rows))
    audio = np.zeros((len(slots), batch.samples), np.float32)
    lengths, starts, totals = np.zeros((3, len(slots)), np.int64)
    index = batch.rows[slots].astype(np.int32)
    for i, slot in enumerate(slots):
      if index[i] >= 0:
        index[i], crop = self._fill(audio[i], batch, int(slot), int(index[i]))
        if crop is not None:
          starts[i], lengths[i], totals[i] = crop.start, len(crop.audio), crop.total
    self.bad_files.check()
    valid = lengths > 0
    index = np.maximum(index, 0)
    out = {
      'audio': audio,
      'audio_mask': np.arange(batch.samples) < lengths[:, None],
      'index': index,
      'valid': valid,
    }
    crops = Crops(
      index, valid, starts, lengths, totals, batch.samples, g, len(batch.rows), slots,
      batch.position,
    )  # fmt: skip
    for key, rows in self.fields.items():
      found = rows.arrays(crops)
      if twice := set(found) & set(out):
        raise InputError(
          f'Field {key!r} gives {sorted(twice)[0]!r}, which is in the batch already: leave one of '
          'the two fields out, or give it another key.'
        )
      out |= found
    return out

  def _fill(
    self, out: np.ndarray, batch: batching.Batch, slot: int, row: int
  ) -> tuple[int, decode.Crop | None]:
    """Decodes `row`, or a substitute, into `out`; returns the row taken and its crop, if there is
    one."""
    reason = ''
    for attempt in range(ATTEMPTS):
      if attempt and not all(field.fits(row, len(out)) for field in self.fields.values()):
        row = self.batches.substitute(batch, slot, attempt)
        continue
      self.bad_files.seen(1)
      try:
        crop = self._decode(row, batch, slot, len(out))
        out[: len(crop.audio)] = crop.audio
        return row, crop
      except decode.AudioError as error:
        # An evaluation goes on whatever is bad: with what belongs to other audio it would measure
        # nothing.
        if not self.substitute and isinstance(error, decode.OtherAudio):
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
    crop = decode.crop(
      example, sample_rate=self.sample_rate, samples=samples, place=place, step=self._step
    )
    for field in self.fields.values():
      field.read(row, example, crop)
    return crop

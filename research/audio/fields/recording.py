"""A second recording per clip: the clean target of a noisy clip, or a reference voice."""

import dataclasses
import os
import pathlib

import numpy as np
from jaxtyping import Bool

from research.audio import batching, decode
from research.audio.clips import Source
from research.audio.example import Example
from research.audio.fields import Context, Crops, Field, Rows
from research.audio.folder import Inside
from research.errors import InputError

# Maximum difference in length between a target and its clip, seconds: resampling and lossy formats
# add or drop a few samples.
TOLERANCE = 0.05
# Number of files checked before training. Others that are missing count as bad files later.
MAX_CHECKED = 10_000


@dataclasses.dataclass(frozen=True)
class Recording(Field):
  """Gives '<key>' f32 [b, t], the samples of another file, and '<key>_mask' bool [b, t].

  Attributes:
    column: column of paths of the other recording, relative to `root`.
    root: a folder; None is the folder of the data set.
    seconds: None gives the same crop as that of the clip: a target, of the same length as the clip.
      A number gives a separate crop of this length (a reference voice): random in training, from
      the beginning in evaluation.
  """

  column: str
  root: str | None = None
  seconds: float | None = None

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have another recording; raises InputError if none has."""
    found = np.array([bool(value) for value in source.column(self.column)])
    if not found.any():
      raise InputError(f'No clip of {source.name!r} has a {self.column!r}.')
    return found

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """A recording as long as the batch, or of the length that is set."""
    length = samples if self.seconds is None else round(self.seconds * context.sample_rate)
    shape = (clips, length)
    return {self.key: np.zeros(shape, np.float32), f'{self.key}_mask': np.zeros(shape, bool)}

  def open(self, source: Source, context: Context) -> 'Recordings':
    """The paths of all recordings.

    Raises:
      InputError: a clip without a path, a path outside of the folder, or a missing file.
    """
    if self.seconds is not None and not self.seconds > 0:
      raise InputError(
        f'config.data.fields.{self.key}.args.seconds is {self.seconds}; give more than 0, or None.'
      )
    root = os.path.expanduser(self.root or source.table.root)
    if not root:
      raise InputError(
        f'Data set {source.name!r} has no folder: set config.data.fields.{self.key}.args.root to '
        f'the folder that the paths of {self.column!r} are relative to.'
      )
    inside, paths = Inside(pathlib.Path(root)), []
    for row, value in enumerate(source.column(self.column)):
      where = f'Clip {source.id(row)!r} of {source.name!r}'
      if not isinstance(value, str) or not value:
        raise InputError(f'{where} has no {self.column!r}: leave out clips without one.')
      paths.append(os.path.join(root, inside(value, where)))
    checked = paths[:: -(-len(paths) // MAX_CHECKED)]
    absent = [path for path in checked if not os.path.exists(path)]
    if absent:
      raise InputError(
        f'{len(absent)} of {len(checked)} files in the column {self.column!r} of {source.name!r} '
        f'do not exist; the first is {absent[0]!r}. If the paths are relative to another folder, '
        f'set config.data.fields.{self.key}.args.root.'
      )
    seed = context.seed if context.train else None
    return Recordings(self.key, paths, context.sample_rate, self.seconds, seed)


@dataclasses.dataclass
class Recordings(Rows):
  """The second recording of every clip; with `seed` None crops are from the beginning."""

  key: str
  paths: list[str]
  sample_rate: int
  seconds: float | None
  seed: int | None

  def read(self, row: int, example: Example, crop: decode.Crop) -> None:
    """Raises AudioMismatch if the length of a target differs from its clip, AudioError if it cannot
    be read."""
    seconds = decode.duration(self._example(row))
    own = crop.total / self.sample_rate
    if self.seconds is None and abs(seconds - own) > TOLERANCE:
      raise decode.AudioMismatch(
        example.where,
        f'It has {own:.2f} s, but its {self.key}, {self.paths[row]}, has {seconds:.2f} s.',
      )

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Crops of the second recordings; zeros and masked in invalid rows."""
    samples = crops.samples
    if self.seconds is not None:
      samples = round(self.seconds * self.sample_rate)
    audio = np.zeros((len(crops.index), samples), np.float32)
    lengths = np.zeros(len(crops.index), np.int64)
    for i, row in enumerate(crops.index):
      if crops.valid[i]:
        found = self._crop(int(row), crops, i, samples)
        audio[i, : len(found)], lengths[i] = found, len(found)
    return {self.key: audio, f'{self.key}_mask': np.arange(samples) < lengths[:, None]}

  def _crop(self, row: int, crops: Crops, i: int, samples: int) -> np.ndarray:
    example = self._example(row)
    if self.seconds is None:
      return decode.decode(
        example,
        sample_rate=self.sample_rate,
        start_seconds=crops.starts[i] / self.sample_rate,
        seconds=crops.lengths[i] / self.sample_rate,
      )[:samples]
    place = 0.0
    if self.seed is not None:
      place = batching.uniform(self.seed, crops.position + int(crops.slots[i]), self.key)
    return decode.crop(example, sample_rate=self.sample_rate, samples=samples, place=place).audio

  def _example(self, row: int) -> Example:
    return Example(self.paths[row], {}, path=self.paths[row])

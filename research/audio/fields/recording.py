"""A second recording beside every clip: what a noisy clip should sound like, or a voice."""

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

# Lengths of an aligned recording and of its clip may differ by this many seconds: resampling and
# lossy formats add or drop a few samples.
TOLERANCE = 0.05
# Files that are looked for before training; of more rows one in N is. The others are bad files.
LOOKS = 10_000


@dataclasses.dataclass(frozen=True)
class Recording(Field):
  """Gives '<key>' f32 [b, t], the samples of another file, and '<key>_mask' bool [b, t].

  Attributes:
    column: that holds the path of the other recording, below `root`.
    root: a folder; None: the folder of the data set.
    seconds: None takes the same crop as of the clip (a target, which has to be as long as the
      clip); a number takes a crop of this length of its own (a reference voice), drawn by the seed
      in training and from the beginning in evaluation.
  """

  column: str
  root: str | None = None
  seconds: float | None = None

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips name another recording; raises InputError where none does."""
    found = np.array([bool(value) for value in source.column(self.column)])
    if not found.any():
      raise InputError(f'No clip of {source.name!r} has a {self.column!r}.')
    return found

  def open(self, source: Source, context: Context) -> 'Recordings':
    """The paths of all recordings.

    Raises:
      InputError: a clip without one, a path outside of the folder, or a file that is not there.
    """
    if self.seconds is not None and not self.seconds > 0:
      raise InputError(
        f'config.data.fields.{self.key}.args.seconds is {self.seconds}; give more than 0, or None.'
      )
    root = os.path.expanduser(self.root or source.table.root)
    if not root:
      raise InputError(
        f'Data set {source.name!r} has no folder of its own: set '
        f'config.data.fields.{self.key}.args.root to where {self.column!r} starts.'
      )
    inside, paths = Inside(pathlib.Path(root)), []
    for row, value in enumerate(source.column(self.column)):
      where = f'Clip {source.id(row)!r} of {source.name!r}'
      if not isinstance(value, str) or not value:
        raise InputError(f'{where} has no {self.column!r}: leave such clips out.')
      paths.append(os.path.join(root, inside(value, where)))
    looked = paths[:: -(-len(paths) // LOOKS)]
    absent = [path for path in looked if not os.path.exists(path)]
    if absent:
      raise InputError(
        f'{len(absent)} of {len(looked)} files that the column {self.column!r} of {source.name!r} '
        f'names are not there; the first is {absent[0]!r}. Where they start at another folder, set '
        f'config.data.fields.{self.key}.args.root.'
      )
    seed = context.seed if context.train else None
    return Recordings(self.key, paths, context.sample_rate, self.seconds, seed)


@dataclasses.dataclass
class Recordings(Rows):
  """The second recording of every clip; `seed` None takes crops from the beginning."""

  key: str
  paths: list[str]
  sample_rate: int
  seconds: float | None
  seed: int | None

  def read(self, row: int, example: Example, crop: decode.Crop) -> None:
    """Raises OtherAudio where a target is not as long as its clip, AudioError where it cannot be
    read."""
    seconds = decode.duration(self._example(row))
    own = crop.total / self.sample_rate
    if self.seconds is None and abs(seconds - own) > TOLERANCE:
      raise decode.OtherAudio(
        example.where,
        f'It has {own:.2f} s, but its {self.key}, {self.paths[row]}, has {seconds:.2f} s.',
      )

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """The crops of the other recordings; silent and masked in rows that are not valid."""
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

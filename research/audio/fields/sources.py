"""Several other recordings of a clip, stacked: the sources of a mixture, or the clean speech of a
noisy clip."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from research.audio.clips import Source
from research.audio.decode import Crop
from research.audio.example import Example
from research.audio.fields import Context, Crops, Field, Rows
from research.audio.fields.recording import Recording
from research.errors import InputError


@dataclasses.dataclass(frozen=True)
class Sources(Field):
  """Gives '<key>' f32 [b, k, t], the same crops of k other recordings, each as long as its clip.

  Attributes:
    columns: of their paths, relative to `root`.
    root: a folder; None is the folder of the data set.
  """

  columns: str | Sequence[str]
  root: str | None = None

  def _parts(self) -> list[Recording]:
    names = [self.columns] if isinstance(self.columns, str) else list(self.columns)
    if not names:
      raise InputError(f'config.data.fields.{self.key}: give a column, or several.')
    return [Recording(name, name, self.root) for name in names]

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have all of them; raises InputError if none has one."""
    return np.all([part.known(source) for part in self._parts()], axis=0)

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """As many recordings as columns."""
    return {self.key: np.zeros((clips, len(self._parts()), samples), np.float32)}

  def open(self, source: Source, context: Context) -> 'SourceRows':
    """The paths of all recordings; raises as `Recording.open`."""
    return SourceRows(self.key, [part.open(source, context) for part in self._parts()])


@dataclasses.dataclass
class SourceRows(Rows):
  """The recordings of every clip, by column."""

  key: str
  parts: list[Rows]

  def read(self, row: int, example: Example, crop: Crop) -> None:
    """Raises AudioMismatch if one is not as long as its clip."""
    for part in self.parts:
      part.read(row, example, crop)

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Crops, zeros behind them and in invalid rows."""
    found = []
    for part in self.parts:
      arrays = part.arrays(crops)
      found.append(next(x for name, x in arrays.items() if not name.endswith('_mask')))
    return {self.key: np.stack(found, axis=1)}

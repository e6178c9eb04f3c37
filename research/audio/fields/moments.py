"""Mean and variance of the clips that crops are from, for models that normalise whole clips."""

import dataclasses

import numpy as np

from research.audio import decode
from research.audio.clips import Source
from research.audio.example import Example
from research.audio.fields import Context, Crops, Field, Rows


@dataclasses.dataclass(frozen=True)
class Moments(Field):
  """Gives 'audio_moments' f32 [b, 2], mean and variance of the clip of a crop; NaN where the whole
  clip is there. A clip that is cropped is read whole once."""

  def open(self, source: Source, context: Context) -> 'ClipMoments':
    """Nothing is read before the first crop."""
    return ClipMoments(context.sample_rate, np.full((len(source), 2), np.nan, np.float32))


@dataclasses.dataclass
class ClipMoments(Rows):
  """What is known of the clips so far: [clips, 2], NaN where a clip was not read whole."""

  sample_rate: int
  known: np.ndarray

  def read(self, row: int, example: Example, crop: decode.Crop) -> None:
    """Reads the whole clip of the first crop."""
    if len(crop.audio) < crop.total and np.isnan(self.known[row, 0]):
      self.known[row] = decode.moments(example, sample_rate=self.sample_rate)

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Moments of the clips of crops."""
    cropped = crops.valid & (crops.lengths < crops.totals)
    return {'audio_moments': np.where(cropped[:, None], self.known[crops.index], np.nan)}

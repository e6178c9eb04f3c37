"""Mean and variance of whole clips, for models that normalise crops by them."""

import dataclasses

import numpy as np

from research.audio import decode
from research.audio.clips import Source
from research.audio.example import Example
from research.audio.fields import Context, Crops, Field, Rows


@dataclasses.dataclass(frozen=True)
class ClipStats(Field):
  """Gives 'clip_stats' f32 [b, 2], mean and variance of the clip of a crop; NaN for rows that hold
  the whole clip. A cropped clip is read whole once."""

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Two statistics per clip."""
    return {'clip_stats': np.zeros((clips, 2), np.float32)}

  def open(self, source: Source, context: Context) -> 'ClipStatsRows':
    """Statistics are computed on demand."""
    return ClipStatsRows(context.sample_rate, np.full((len(source), 2), np.nan, np.float32))


@dataclasses.dataclass
class ClipStatsRows(Rows):
  """Statistics of clips so far: [clips, 2], NaN for clips not yet read whole."""

  sample_rate: int
  known: np.ndarray

  def read(self, row: int, example: Example, crop: decode.Crop) -> None:
    """Computes the statistics of a clip at its first crop."""
    if len(crop.audio) < crop.total and np.isnan(self.known[row, 0]):
      self.known[row] = decode.clip_stats(example, sample_rate=self.sample_rate)

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Mean and variance of the clips of crops."""
    cropped = crops.valid & (crops.lengths < crops.totals)
    return {'clip_stats': np.where(cropped[:, None], self.known[crops.index], np.nan)}

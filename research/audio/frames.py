"""The layers of every frame of clips on disk, memory-mapped: what a frozen encoder gave, by clip.

A folder holds `layers.npy` (float16 or float32 [frames, l, d]), and offsets, ids and about.json as
`by_clip.py` says. Frame j of a clip begins at its sample j * hop.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

from research.audio import by_clip
from research.audio.by_clip import ByClip
from research.errors import InputError

# Required keys of about.json.
FIGURES = ('sample_rate', 'hop', 'fingerprint')
DTYPES = ('float16', 'float32')


@dataclasses.dataclass(frozen=True, eq=False)
class Frames(ByClip):
  """The frames of many clips. Letters: n frames, l layers, d width.

  Attributes:
    about: 'sample_rate' (Hz); 'hop' (samples); 'fingerprint', a hash of the system and of its
      settings; and further metadata.
  """

  @classmethod
  def open(cls, path: str | os.PathLike) -> 'Frames':
    """Opens a folder of frames.

    Raises:
      InputError: it is none, or its files are inconsistent.
    """
    path = Path(path)
    made_by = 'python -m launch.evaluate --suite=superb'
    values, offsets, ids, about = by_clip.read(path, 'layers', FIGURES, 'frames', made_by)
    if values.ndim != 3 or values.dtype not in [np.dtype(t) for t in DTYPES]:
      raise InputError(
        f'{path / "layers.npy"} has dtype {values.dtype} and shape {values.shape}: expected '
        f'{" or ".join(DTYPES)} in three dimensions.'
      )
    return cls(values, offsets, ids, about, path)

  @property
  def layers(self) -> int:
    """l."""
    return int(self.values.shape[1])

  @property
  def width(self) -> int:
    """d."""
    return int(self.values.shape[2])

  @property
  def hop(self) -> int:
    """Samples from a frame to the next."""
    return int(self.about['hop'])

  @property
  def sample_rate(self) -> int:
    """Hz of the audio."""
    return int(self.about['sample_rate'])

  def frames(self, samples: int) -> int:
    """Number of frames of N samples, as s3prl counts them: the nearest whole number, halves to the
    even one (`upstream/interfaces.py`)."""
    return max(1, round(samples / self.hop))

  def part(self, row: int, first: int, count: int) -> Float[np.ndarray, 'n l d']:
    """Frames `first` to `first + count` of the clip in a row; fewer at its end."""
    low = self.offsets[row] + min(first, self.count(row))
    return self.values[low : min(low + count, self.offsets[row + 1])]

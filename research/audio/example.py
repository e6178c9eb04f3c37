"""One clip of a source."""

import dataclasses
from collections.abc import Mapping

import numpy as np

# One value, or several for multi-label columns.
Value = str | list[str]


@dataclasses.dataclass(frozen=True)
class Example:
  """One clip: its audio and its metadata.

  Exactly one of `path`, `data` and `array` is set.

  Attributes:
    id: unique in its source, the same on every machine.
    columns: labels, speaker, transcript …, as strings; a list for multi-label columns.
    path: an audio file.
    data: the bytes of an audio file.
    array: samples, [t] or [t, channels], integer PCM or float.
    sample_rate: of `array`, in Hz.
    start: offset of the clip in the file, seconds.
    seconds: duration of the clip; None reads to the end of the file.
    gain: factor of the decoded samples.
  """

  id: str
  columns: Mapping[str, Value]
  path: str | None = None
  data: bytes | None = None
  array: np.ndarray | None = None
  sample_rate: int | None = None
  start: float = 0.0
  seconds: float | None = None
  gain: float = 1.0

  @property
  def where(self) -> str:
    """Name of the audio in messages: its path, or its id."""
    return self.path or self.id

"""One clip as a source gives it."""

import dataclasses
from collections.abc import Mapping

import numpy as np

# One value, or several for multi-label columns.
Value = str | list[str]


@dataclasses.dataclass(frozen=True)
class Example:
  """One clip: where its audio is, and what is known about it.

  Exactly one of `path`, `data` and `array` is set.

  Attributes:
    id: unique in its source, the same on every machine.
    columns: labels, speaker, transcript …, as strings; a list where a clip has several labels.
    path: an audio file.
    data: the bytes of an audio file.
    array: samples, [t] or [t, channels], integer PCM or float.
    sample_rate: of `array`, in Hz.
    start: where the clip starts in the file, seconds.
    seconds: how long the clip is from there; None is to the end.
  """

  id: str
  columns: Mapping[str, Value]
  path: str | None = None
  data: bytes | None = None
  array: np.ndarray | None = None
  sample_rate: int | None = None
  start: float = 0.0
  seconds: float | None = None

  @property
  def where(self) -> str:
    """What to call the audio in a message: its path, or its id."""
    return self.path or self.id

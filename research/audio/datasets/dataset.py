"""What is known of a named data set before it is opened."""

import dataclasses
import importlib
from collections.abc import Callable

from research.audio.clips import Source


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Static metadata of a data set.

  Attributes:
    reader: 'module:function' under research.audio.
    layout: short description of the folder's contents; covers every pattern of `marks`.
    marks: glob patterns; one of them matches in a folder with the published layout.
    folders: usual names of the folder.
    splits: values of `split`.
    label: label column for classification, if any.
    labels: number and origin of its classes.
    multilabel: whether a clip has several labels.
    statistics: (mean, std) of the Kaldi log-mel spectrogram, published with AudioMAE.
    weights: published sampling weights, a value of `weights` of `train_batches`.
    seconds: typical clip length.
  """

  reader: str
  layout: str
  marks: tuple[str, ...] = ()
  folders: tuple[str, ...] = ()
  splits: tuple[str, ...] = ()
  label: str | None = None
  labels: str = ''
  multilabel: bool = False
  statistics: tuple[float, float] | None = None
  weights: str | None = None
  seconds: float | None = None

  def function(self) -> Callable[..., Source]:
    """Imports the reader."""
    module, name = self.reader.split(':')
    return getattr(importlib.import_module(f'research.audio.{module}'), name)

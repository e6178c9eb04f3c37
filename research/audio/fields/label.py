"""A column of classes as class indices, or several columns of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from research.audio import batching
from research.audio.clips import Source
from research.audio.fields import Context, Crops, Field, Rows
from research.capabilities import Classifies, HearsLabels
from research.errors import InputError, unknown


@dataclasses.dataclass(frozen=True)
class Label(Field):
  """Gives '<key>', the class index of every clip, i32 [b]; for a column of lists, multi-hot labels
  f32 [b, c]; for several columns, the class index in each of them, i32 [b, k].

  Attributes:
    column: column of classes, or of lists of classes; or a list of columns, whose classes are
      predicted together (the slots of an intent).
  """

  column: str | Sequence[str] = 'label'

  def weights(self, source: Source) -> Float[np.ndarray, 'clips'] | None:
    """See `batching.label_weights`; None for several columns."""
    return batching.label_weights(source, self.column) if isinstance(self.column, str) else None

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """One class per clip and column."""
    shape = (clips,) if isinstance(self.column, str) else (clips, len(self.column))
    return {self.key: np.zeros(shape, np.int32)}

  def open(self, source: Source, context: Context) -> Rows:
    """Class indices of all clips.

    Raises:
      InputError: no such column, a clip without a class, classes in other number than the logits
        of the model, or more than it is conditioned on.
    """
    model = context.model
    if not isinstance(self.column, str):
      several = SeveralLabels.of(source, self.column, self.key)
      several.check_model(source, model)
      return several
    labels = Labels.of(source, self.column, self.key)
    if isinstance(model, Classifies) and model.classes and model.classes != labels.count:
      raise InputError(
        f'The column {self.column!r} of {source.name!r} has {labels.count} classes, but the model '
        f'gives logits of {model.classes}: set config.model.args.head.args.classes={labels.count}.'
      )
    known = model.label_counts.get(self.key) if isinstance(model, HearsLabels) else None
    if known is not None and labels.count > known:
      raise InputError(
        f'The column {self.column!r} of {source.name!r} has {labels.count} classes, but the model '
        f'is conditioned on {known} of {self.key!r}: give it as many.'
      )
    return labels


@dataclasses.dataclass
class Labels(Rows):
  """Class indices of every clip: i32 [n], or for multi-label data a list of indices per clip."""

  key: str
  codes: np.ndarray | list[list[int]]
  count: int

  @classmethod
  def of(cls, source: Source, column: str, key: str = 'label') -> 'Labels':
    """Class indices of a column; see `Label.open`."""
    classes = {name: i for i, name in enumerate(source.classes(column))}
    if stored := source.codes(column):
      numbers = np.array([classes.get(text, -1) for text in stored[1]], np.int32)[stored[0]]
      if (numbers >= 0).all():
        return cls(key, numbers, len(classes))
    values = source.column(column)
    given = [[value] if isinstance(value, str) else value for value in values]
    for i, clip in enumerate(given):
      if clip == ['']:
        raise InputError(
          f'Clip {source.id(i)!r} of {source.name!r} has no {column!r}; leave out clips without '
          'one by split= or where=, or choose another label column.'
        )
      for name in clip:
        if name not in classes:
          raise unknown(f'{column} (of clip {source.id(i)!r})', name, classes)
    codes = [[classes[name] for name in clip] for clip in given]
    if any(not isinstance(v, str) for v in values):
      return cls(key, codes, len(classes))
    return cls(key, np.array(codes, np.int32)[:, 0], len(classes))

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Labels of the clips of a batch."""
    if isinstance(self.codes, np.ndarray):
      return {self.key: self.codes[crops.index]}
    hot = np.zeros((len(crops.index), self.count), np.float32)
    for i, row in enumerate(crops.index):
      hot[i, self.codes[row]] = 1.0
    return {self.key: hot}


@dataclasses.dataclass
class SeveralLabels(Rows):
  """Class indices of every clip in k columns, i32 [n, k], and the number of classes of each."""

  key: str
  columns: tuple[str, ...]
  codes: np.ndarray
  counts: tuple[int, ...]

  @classmethod
  def of(cls, source: Source, columns: Sequence[str], key: str = 'label') -> 'SeveralLabels':
    """Class indices of some columns; see `Label.open`."""
    if not columns:
      raise InputError(
        f'config.data.fields.{key}: the list of columns is empty; name at least one.'
      )
    parts = [Labels.of(source, column, key) for column in columns]
    for column, part in zip(columns, parts):
      if not isinstance(part.codes, np.ndarray):
        raise InputError(
          f'The column {column!r} of {source.name!r} has several classes per clip; of several '
          'columns, each needs one class per clip.'
        )
    codes = np.stack([np.asarray(part.codes) for part in parts], axis=1)
    return cls(key, tuple(columns), codes, tuple(part.count for part in parts))

  def check_model(self, source: Source, model: Any) -> None:
    """Raises InputError if a model declares other numbers of classes, one for each column."""
    declared = getattr(model, 'classes', None)
    if isinstance(declared, Sequence) and tuple(declared) and tuple(declared) != self.counts:
      raise InputError(
        f'The columns {", ".join(self.columns)} of {source.name!r} have {list(self.counts)} '
        f'classes, but the model gives logits of {list(declared)}: set '
        f'config.model.args.head.args.classes={list(self.counts)}.'
      )

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Labels of the clips of a batch."""
    return {self.key: self.codes[crops.index]}

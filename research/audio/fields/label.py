"""A column of classes as class indices."""

import dataclasses

import numpy as np
from jaxtyping import Float

from research.audio import batching
from research.audio.clips import Source
from research.audio.fields import Context, Crops, Field, Rows
from research.capabilities import Classifies
from research.errors import InputError, unknown


@dataclasses.dataclass(frozen=True)
class Label(Field):
  """Gives '<key>', the class index of every clip, i32 [b]; for a column of lists, multi-hot labels
  f32 [b, c].

  Attributes:
    column: column of classes, or of lists of classes.
  """

  column: str = 'label'

  def weights(self, source: Source) -> Float[np.ndarray, 'clips']:
    """See `batching.label_weights`."""
    return batching.label_weights(source, self.column)

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """One class per clip."""
    return {self.key: np.zeros(clips, np.int32)}

  def open(self, source: Source, context: Context) -> 'Labels':
    """Class indices of all clips.

    Raises:
      InputError: no such column, or a clip without a class.
    """
    labels = Labels.of(source, self.column, self.key)
    model = context.model
    if isinstance(model, Classifies) and model.classes and model.classes != labels.count:
      raise InputError(
        f'The column {self.column!r} of {source.name!r} has {labels.count} classes, but the model '
        f'gives logits of {model.classes}: set config.model.args.head.args.classes={labels.count}.'
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

"""A column of classes as the numbers that a batch holds."""

import dataclasses

import numpy as np

from research.audio.clips import Source
from research.errors import InputError, unknown


@dataclasses.dataclass
class Labels:
  """Class numbers of every clip: i32 [n], or a list of class numbers a clip for several labels."""

  codes: np.ndarray | list[list[int]]
  count: int

  @classmethod
  def of(cls, source: Source, column: str | None) -> 'Labels | None':
    if column is None:
      return None
    classes = {name: i for i, name in enumerate(source.classes(column))}
    values = source.column(column)
    given = [[value] if isinstance(value, str) else value for value in values]
    for i, clip in enumerate(given):
      if clip == ['']:
        raise InputError(
          f'Clip {source.id(i)!r} of {source.name!r} has no {column!r}; leave such clips out with '
          'split= or where=, or choose another label column.'
        )
      for name in clip:
        if name not in classes:
          raise unknown(f'{column} (of clip {source.id(i)!r})', name, classes)
    codes = [[classes[name] for name in clip] for clip in given]
    if any(not isinstance(v, str) for v in values):
      return cls(codes, len(classes))
    return cls(np.array(codes, np.int32)[:, 0], len(classes))

  def __getitem__(self, rows: np.ndarray) -> np.ndarray:
    if isinstance(self.codes, np.ndarray):
      return self.codes[rows]
    hot = np.zeros((len(rows), self.count), np.float32)
    for i, row in enumerate(rows):
      hot[i, self.codes[row]] = 1.0
    return hot

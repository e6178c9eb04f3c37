"""Vectors of clips from a file: the voice of a speaker, or what a clip is like."""

import dataclasses
import hashlib
import os
import pathlib
import zipfile

import numpy as np
from jaxtyping import Bool, Float, Int

from research.audio import batching
from research.audio.clips import Source
from research.audio.fields import Conditioned, Context, Crops, Field, Rows
from research.errors import InputError, unknown


@dataclasses.dataclass(frozen=True)
class Vectors(Field):
  """Gives '<key>' f32 [b, w], a vector of every clip.

  Attributes:
    path: an .npz of `launch.embed` with one vector a clip (one layer, pooled), by the ids of clips.
    of: in training the vector is that of another clip with the same value of this column, drawn
      anew for every batch (the speaker: a recording of the voice, of whatever is said, is enough
      later); None for that of the clip itself. Clips without another one have their own.
    unit: vectors are scaled to length 1.
  """

  path: str
  of: str | None = None
  unit: bool = True

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have a vector; raises InputError if none has."""
    return _rows(source, *_read(self.path))[0] >= 0

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Vectors of the width of the model."""
    del samples
    if not isinstance(context.model, Conditioned) or self.key not in context.model.vectors:
      raise InputError(f'The model takes no vectors {self.key!r}, so their width is unknown.')
    return {self.key: np.zeros((clips, context.model.vectors[self.key]), np.float32)}

  def open(self, source: Source, context: Context) -> 'VectorRows':
    """The vectors of all clips.

    Raises:
      InputError: the file has other vectors than the model takes, a clip has none, or there is no
        column `of`.
    """
    ids, values = _read(self.path)
    if isinstance(context.model, Conditioned) and self.key in context.model.vectors:
      width = context.model.vectors[self.key]
      if values.shape[1] != width:
        raise InputError(
          f'{self.path} has vectors of {values.shape[1]} numbers, and the model takes {width} as '
          f'{self.key!r}: set config.model.args.vectors.{self.key}={values.shape[1]}.'
        )
    rows, first = _rows(source, ids, values)
    if (rows < 0).any():
      raise InputError(
        f'{int((rows < 0).sum())} of {len(rows)} clips of {source.name!r} have no vector in '
        f'{self.path}; the first is {first!r}: embed them, or leave them out.'
      )
    own = values[rows].astype(np.float32)
    if self.unit:
      own = own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
    groups = np.arange(len(own))
    if self.of is not None:
      if self.of not in source.column_names:
        raise unknown(f'column of {source.name!r}', self.of, source.column_names)
      _, groups = np.unique(np.asarray(source.column(self.of), str), return_inverse=True)
    seed = context.seed if context.train and self.of is not None else None
    return VectorRows.of(self.key, own, groups, seed)


@dataclasses.dataclass
class VectorRows(Rows):
  """The vectors of every clip, and which clips are of one group: members of group j are
  order[starts[j] : starts[j + 1]]. With `seed` None a clip has its own."""

  key: str
  values: Float[np.ndarray, 'clips w']
  groups: Int[np.ndarray, 'clips']
  order: Int[np.ndarray, 'clips']
  starts: Int[np.ndarray, 'groups']
  seed: int | None

  @classmethod
  def of(cls, key: str, values: np.ndarray, groups: np.ndarray, seed: int | None) -> 'VectorRows':
    """With members of groups in order."""
    counts = np.bincount(groups)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return cls(key, values, groups, np.argsort(groups, kind='stable'), starts, seed)

  @property
  def fingerprint(self) -> str:
    """Hash of the vectors."""
    return hashlib.sha256(np.ascontiguousarray(self.values).tobytes()).hexdigest()[:16]

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Vectors of the clips of a batch, or of others of their groups."""
    rows = [self._row(int(row), crops, i) for i, row in enumerate(crops.index)]
    return {self.key: self.values[rows]}

  def _row(self, row: int, crops: Crops, i: int) -> int:
    group = int(self.groups[row])
    members = self.order[self.starts[group] : self.starts[group + 1]]
    if self.seed is None or len(members) < 2:
      return row
    place = batching.uniform(self.seed, crops.position + int(crops.slots[i]), self.key)
    others = members[members != row]
    return int(others[int(place * len(others))])


def _read(path: str | os.PathLike) -> tuple[list[str], np.ndarray]:
  """Ids and vectors [n, w] of a file.

  Raises:
    InputError: it is no file of vectors, one a clip.
  """
  place = pathlib.Path(path).expanduser()
  try:
    with np.load(place, allow_pickle=False) as found:
      ids, values = found['ids'], found['embeddings']
      several = 'offsets' in found
  except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise InputError(
      f'{place} cannot be read as vectors of clips ({error}): give an .npz that python -m '
      'launch.embed wrote.'
    ) from None
  if values.ndim != 2 or several or len(ids) != len(values) or values.dtype.kind != 'f':
    raise InputError(
      f'{place} has embeddings of shape {values.shape}: expected one vector a clip, of one layer '
      'and pooled (launch.embed --layers=last --pool=mean).'
    )
  if not np.isfinite(values).all():
    raise InputError(f'{place} has vectors with numbers that are not finite.')
  return [str(name) for name in ids], values


def _rows(source: Source, ids: list[str], values: np.ndarray) -> tuple[np.ndarray, str]:
  """(the row of every clip in the file, -1 for none; the first clip without one)."""
  del values
  places = {name: i for i, name in enumerate(ids)}
  names = [source.id(i) for i in range(len(source))]
  rows = np.array([places.get(name, -1) for name in names])
  if not (rows >= 0).any():
    raise InputError(
      f'No clip of {source.name!r} has a vector. The first id of the clips is {names[0]!r}, that '
      f'of the file {ids[0] if ids else None!r}: embed the same clips.'
    )
  return rows, names[int(np.argmin(rows))]

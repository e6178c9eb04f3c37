"""Units in batches: the labels of a crop are the crop of the labels."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from research.audio.clips import Source
from research.audio.decode import AudioError
from research.audio.units import Units
from research.errors import InputError

# A path to a folder of units, units that are open, or a list of such: `open_sets` looks.
Spec = Any
# Units of a clip that differ from its length by more seconds were made from other audio; below
# that, lengths in the headers of lossy formats are off by a frame or two.
TOLERANCE = 0.1
# What label sets have to share for unit j of each to stand for the same samples.
ALIKE = ('sample_rate', 'hop', 'window')


class OtherAudio(AudioError):
  """A clip that is not the one its units were made from."""


def open_sets(spec: Spec) -> tuple[Units, ...]:
  """The label sets of a path to a folder of units, or of a list of such paths, in that order.

  Raises:
    InputError: no paths, no units there, or sets that differ in sample rate, hop or window.
  """
  parts = [spec] if isinstance(spec, str | os.PathLike | Units) else spec
  good = isinstance(parts, Sequence) and all(
    isinstance(part, str | os.PathLike | Units) for part in parts
  )
  if not good or not parts:
    raise InputError(f'units are {spec!r}; give a folder of units, or a list of such folders.')
  sets = tuple(part if isinstance(part, Units) else Units.open(part) for part in parts)
  for other in sets[1:]:
    for name in ALIKE:
      if other.about[name] != sets[0].about[name]:
        raise InputError(
          f'Units of {sets[0].path} have {name} {sets[0].about[name]} and those of {other.path} '
          f'{other.about[name]}: label sets of one batch need the same {", ".join(ALIKE)}.'
        )
  return sets


def find(source: Source, sets: Sequence[Units]) -> Int[np.ndarray, 'clips g']:
  """Where the clips of a source are in each label set; -1 where they have no units.

  Raises:
    InputError: no clip has units in all of them.
  """
  ids = [source.id(i) for i in range(len(source))]
  rows = np.stack([units.rows(ids) for units in sets], axis=1)
  if not (rows >= 0).all(axis=1).any():
    # The set that knows the fewest clips.
    units = sets[int(np.argmin((rows >= 0).sum(axis=0)))]
    theirs = f'units are those of {units.ids[0]!r}' if len(units) else 'there are none'
    raise InputError(
      f'No clip of {source.name!r} has units in {_paths(sets)}: a clip is {ids[0]!r}, {theirs}. '
      'Units go by id: label the same clips, cut and pooled in the same way.'
    )
  return rows


@dataclasses.dataclass
class UnitRows:
  """The units of the clips of a source.

  Attributes:
    sets: one or several label sets.
    rows: of every clip in every set.
  """

  sets: tuple[Units, ...]
  rows: Int[np.ndarray, 'clips g']

  @classmethod
  def of(cls, source: Source, spec: Spec, sample_rate: int) -> 'UnitRows | None':
    """Of a source; None without units.

    Raises:
      InputError: units of another sample rate, or clips without units.
    """
    if spec is None:
      return None
    sets = open_sets(spec)
    if sets[0].about['sample_rate'] != sample_rate:
      raise InputError(
        f'{sets[0].path} holds units of audio at {sets[0].about["sample_rate"]} Hz, and the data '
        f'are read at {sample_rate} Hz: set both alike.'
      )
    rows = find(source, sets)
    found = (rows >= 0).all(axis=1)
    if not found.all():
      first = source.id(int(np.argmin(found)))
      raise InputError(
        f'{(~found).sum()} of {len(source)} clips of {source.name!r} have no units in '
        f'{_paths(sets)} ({first!r} is the first): leave such clips out, or label them.'
      )
    return cls(sets, rows)

  @property
  def hop(self) -> int:
    """Samples from unit to unit: crops start at its multiples."""
    return int(self.sets[0].about['hop'])

  @functools.cached_property
  def fingerprint(self) -> str:
    """What made the units, of all sets."""
    return '+'.join(str(units.about['fingerprint']) for units in self.sets)

  def demand_fit(self, samples: int) -> None:
    """Raises InputError where batches of so many samples have no unit."""
    if not self.sets[0].frames(samples):
      raise InputError(
        f'A unit of {self.sets[0].path} stands for {self.sets[0].about["window"]} samples, and '
        f'there are batches of {samples}: make them longer, or leave shorter clips out.'
      )

  def demand_same(self, row: int, samples: int, where: str) -> None:
    """Raises OtherAudio where a clip of so many samples is not what its units were made from."""
    for units, at in zip(self.sets, self.rows[row]):
      needed, stored = units.frames(samples), units.count(at)
      if abs(needed - stored) > TOLERANCE * units.rate:
        raise OtherAudio(
          where,
          f'It has {samples} samples, which are {needed} units, but {units.path} holds {stored}: '
          'they were made from other audio; label it again.',
        )

  def cropped(
    self,
    rows: Int[np.ndarray, 'b'],
    starts: Int[np.ndarray, 'b'],
    lengths: Int[np.ndarray, 'b'],
    samples: int,
  ) -> Int[np.ndarray, 'b u g']:
    """Units of crops, int32: u units of `samples` samples, g label sets.

    Args:
      rows: which clips.
      starts: the sample of its clip that a crop starts with, a multiple of the hop.
      lengths: real samples of a crop. Units whose window reaches beyond are -1, and so are those
        that a set lacks.
      samples: static length of the crops.
    """
    units = self.sets[0]
    out = np.full((len(rows), units.frames(samples), len(self.sets)), -1, np.int32)
    for i, row in enumerate(rows):
      whole, first = units.frames(int(lengths[i])), int(starts[i]) // self.hop
      for g, labels in enumerate(self.sets):
        part = labels.part(int(self.rows[row, g]), first, whole)
        out[i, : len(part), g] = part
    return out


def _paths(sets: Sequence[Units]) -> str:
  return ', '.join(str(units.path) for units in sets)

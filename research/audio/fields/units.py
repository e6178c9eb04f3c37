"""Units in batches: the labels of a crop are the crop of the labels."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from research.audio.clips import Source
from research.audio.decode import Crop, OtherAudio
from research.audio.example import Example
from research.audio.fields import Context, Crops, Field, Rows
from research.audio.units import Units
from research.capabilities import PredictsUnits
from research.errors import InputError

# A path to a folder of units, units that are open, or a list of such: `open_sets` looks.
Spec = Any
# Units of a clip that differ from its length by more seconds were made from other audio; below
# that, lengths in the headers of lossy formats are off by a frame or two.
TOLERANCE = 0.1
# What label sets have to share for unit j of each to stand for the same samples.
ALIKE = ('sample_rate', 'hop', 'window')


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


@dataclasses.dataclass(frozen=True)
class UnitLabels(Field):
  """Gives 'units' i32 [b, u, g], one to each of the g label sets for every unit of the batch's
  samples, -1 where there is none (behind a clip's end too). Crops start at multiples of the units'
  hop, so that unit j of a crop is unit start / hop + j of its clip.

  Attributes:
    path: a folder of units (`audio/units.py`), or a list of such.
  """

  path: Spec

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have units in all sets; raises InputError where none has."""
    return np.all(find(source, open_sets(self.path)) >= 0, axis=1)

  def open(self, source: Source, context: Context) -> 'UnitRows':
    """The units of the clips.

    Raises:
      InputError: units of another sample rate, clips without units, or units that are not those
        that the model learns from.
    """
    sets = open_sets(self.path)
    if isinstance(context.model, PredictsUnits):
      check_model(sets, context.model)
    if sets[0].about['sample_rate'] != context.sample_rate:
      raise InputError(
        f'{sets[0].path} holds units of audio at {sets[0].about["sample_rate"]} Hz, and the data '
        f'are read at {context.sample_rate} Hz: set both alike.'
      )
    rows = find(source, sets)
    found = (rows >= 0).all(axis=1)
    if not found.all():
      first = source.id(int(np.argmin(found)))
      raise InputError(
        f'{(~found).sum()} of {len(source)} clips of {source.name!r} have no units in '
        f'{_paths(sets)} ({first!r} is the first): leave such clips out, or label them.'
      )
    return UnitRows(sets, rows)


def check_model(sets: Sequence[Units], model: PredictsUnits) -> None:
  """Raises InputError where units are not those that a model expects."""
  counts = tuple(units.clusters for units in sets)
  if counts != model.sets:
    codes = counts[0] if len(counts) == 1 else list(counts)
    raise InputError(
      f'config.model.args.codes is {model.codes}, but the units of config.data.fields.units have '
      f'{" and ".join(map(str, counts))} clusters: set --config.model.args.codes={codes}.'
    )
  if sets[0].rate != model.label_rate:
    raise InputError(
      f'config.model.args.label_rate is {model.label_rate:g}, but there are {sets[0].rate:g} units '
      'a second in config.data.fields.units: set '
      f'--config.model.args.label_rate={sets[0].rate:g}.'
    )


@dataclasses.dataclass
class UnitRows(Rows):
  """The units of the clips of a source.

  Attributes:
    sets: one or several label sets.
    rows: of every clip in every set.
  """

  sets: tuple[Units, ...]
  rows: Int[np.ndarray, 'clips g']

  @property
  def step(self) -> int:
    """Samples from unit to unit: crops start at its multiples."""
    return int(self.sets[0].about['hop'])

  @functools.cached_property
  def fingerprint(self) -> str:
    """What made the units, of all sets."""
    return '+'.join(str(units.about['fingerprint']) for units in self.sets)

  def check_lengths(self, shortest: int, longest: int) -> None:
    """Raises InputError where the shortest batches have no unit."""
    if not self.sets[0].frames(shortest):
      raise InputError(
        f'A unit of {self.sets[0].path} stands for {self.sets[0].about["window"]} samples, and '
        f'there are batches of {shortest}: make them longer, or leave shorter clips out.'
      )

  def read(self, row: int, example: Example, crop: Crop) -> None:
    """Raises OtherAudio where a clip is not what its units were made from."""
    for units, at in zip(self.sets, self.rows[row]):
      needed, stored = units.frames(crop.total), units.count(at)
      if abs(needed - stored) > TOLERANCE * units.rate:
        raise OtherAudio(
          example.where,
          f'It has {crop.total} samples, which are {needed} units, but {units.path} holds '
          f'{stored}: they were made from other audio; label it again.',
        )

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Units of crops; units whose window reaches beyond a clip are -1, and so are those that a set
    lacks."""
    units = self.sets[0]
    out = np.full((len(crops.index), units.frames(crops.samples), len(self.sets)), -1, np.int32)
    for i, row in enumerate(crops.index):
      whole, first = units.frames(int(crops.lengths[i])), int(crops.starts[i]) // self.step
      for g, labels in enumerate(self.sets):
        part = labels.part(int(self.rows[row, g]), first, whole)
        out[i, : len(part), g] = part
    return {'units': out}


def _paths(sets: Sequence[Units]) -> str:
  return ', '.join(str(units.path) for units in sets)

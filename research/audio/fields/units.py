"""Discrete units as frame labels: the labels of a crop are the crop of the labels."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from research.audio.clips import Source
from research.audio.decode import AudioMismatch, Crop
from research.audio.example import Example
from research.audio.fields import Context, Crops, Field, Rows
from research.audio.units import Units
from research.capabilities import PredictsUnits
from research.errors import InputError

# A folder of units, open units, or a list of these; see `open_sets`.
Spec = Any
# Maximum difference between the length of a clip and that of its units, seconds. Headers of lossy
# formats are off by a frame or two; more means that the units were made from other audio.
TOLERANCE = 0.1
# Label sets must agree in these, so that unit j of each covers the same samples.
ALIKE = ('sample_rate', 'hop', 'window')


def open_sets(spec: Spec) -> tuple[Units, ...]:
  """Opens one or several label sets, in order.

  Raises:
    InputError: no path, no units at a path, or sets that differ in sample rate, hop or window.
  """
  parts = [spec] if isinstance(spec, str | os.PathLike | Units) else spec
  good = isinstance(parts, Sequence) and all(
    isinstance(part, str | os.PathLike | Units) for part in parts
  )
  if not good or not parts:
    raise InputError(f'units is {spec!r}; give a folder of units, or a list of folders.')
  sets = tuple(part if isinstance(part, Units) else Units.open(part) for part in parts)
  for other in sets[1:]:
    for name in ALIKE:
      if other.about[name] != sets[0].about[name]:
        raise InputError(
          f'Units of {sets[0].path} have {name} {sets[0].about[name]}, those of {other.path} '
          f'{other.about[name]}: label sets of one run need the same {", ".join(ALIKE)}.'
        )
  return sets


def find(source: Source, sets: Sequence[Units]) -> Int[np.ndarray, 'clips g']:
  """Rows of the clips of a source in each label set; -1 for clips without units.

  Raises:
    InputError: no clip has units in all label sets.
  """
  ids = [source.id(i) for i in range(len(source))]
  rows = np.stack([units.rows(ids) for units in sets], axis=1)
  if not (rows >= 0).all(axis=1).any():
    # The label set with the fewest of these clips.
    units = sets[int(np.argmin((rows >= 0).sum(axis=0)))]
    theirs = f'{units.ids[0]!r}' if len(units) else 'none'
    raise InputError(
      f'No clip of {source.name!r} has units in {_paths(sets)}. The first clip id is {ids[0]!r}, '
      f'the first id of the units is {theirs}. Ids must match: label the same clips, cut and '
      'pooled in the same way.'
    )
  return rows


@dataclasses.dataclass(frozen=True)
class UnitLabels(Field):
  """Gives 'units' i32 [b, u, g], the units of g label sets; -1 if missing or behind the end of a
  clip. Crops start at multiples of the hop of the units, so that unit j of a crop is unit
  start / hop + j of its clip.

  Attributes:
    path: a folder of units (`audio/units.py`), or a list of folders.
  """

  path: Spec

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have units in all label sets; raises InputError if none has."""
    return np.all(find(source, open_sets(self.path)) >= 0, axis=1)

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Units at the rate of the model, in as many label sets as it has."""
    model = context.model
    if not isinstance(model, PredictsUnits):
      raise InputError(f'{type(model).__name__} predicts no units, so their number is unknown.')
    count = int(samples / context.sample_rate * model.label_rate)
    return {'units': np.zeros((clips, count, len(model.sets)), np.int32)}

  def open(self, source: Source, context: Context) -> 'UnitRows':
    """Finds the units of all clips.

    Raises:
      InputError: the units have another sample rate, a clip has no units, or the units do not match
        the model.
    """
    sets = open_sets(self.path)
    if isinstance(context.model, PredictsUnits):
      check_model(sets, context.model)
    if sets[0].about['sample_rate'] != context.sample_rate:
      raise InputError(
        f'{sets[0].path} holds units of audio at {sets[0].about["sample_rate"]} Hz, but the data '
        f'are read at {context.sample_rate} Hz: use the same sample rate.'
      )
    rows = find(source, sets)
    found = (rows >= 0).all(axis=1)
    if not found.all():
      first = source.id(int(np.argmin(found)))
      raise InputError(
        f'{(~found).sum()} of {len(source)} clips of {source.name!r} have no units in '
        f'{_paths(sets)}, the first is {first!r}: leave out these clips, or label them.'
      )
    return UnitRows(sets, rows)


def check_model(sets: Sequence[Units], model: PredictsUnits) -> None:
  """Raises InputError if the units do not match the model."""
  counts = tuple(units.clusters for units in sets)
  if counts != model.sets:
    codes = counts[0] if len(counts) == 1 else list(counts)
    raise InputError(
      f'config.model.args.num_clusters is {model.num_clusters}, but the units of '
      f'config.data.fields.units have {" and ".join(map(str, counts))} clusters: set '
      f'--config.model.args.num_clusters={codes}.'
    )
  if sets[0].rate != model.label_rate:
    raise InputError(
      f'config.model.args.label_rate is {model.label_rate:g}, but config.data.fields.units has '
      f'{sets[0].rate:g} units per second: set '
      f'--config.model.args.label_rate={sets[0].rate:g}.'
    )


@dataclasses.dataclass
class UnitRows(Rows):
  """The units of the clips of a source.

  Attributes:
    sets: the label sets.
    rows: row of every clip in every label set.
  """

  sets: tuple[Units, ...]
  rows: Int[np.ndarray, 'clips g']

  @property
  def step(self) -> int:
    """Hop of the units in samples; crops start at its multiples."""
    return int(self.sets[0].about['hop'])

  @functools.cached_property
  def fingerprint(self) -> str:
    """Fingerprints of all label sets."""
    return '+'.join(str(units.about['fingerprint']) for units in self.sets)

  def check_lengths(self, shortest: int, longest: int) -> None:
    """Raises InputError if the shortest batches have no unit."""
    if not self.sets[0].frames(shortest):
      raise InputError(
        f'A unit of {self.sets[0].path} covers {self.sets[0].about["window"]} samples, but the '
        f'shortest batches have {shortest}: use longer batches, or leave out shorter clips.'
      )

  def read(self, row: int, example: Example, crop: Crop) -> None:
    """Raises AudioMismatch if the units of a clip were made from other audio."""
    for units, at in zip(self.sets, self.rows[row]):
      needed, stored = units.frames(crop.total), units.count(at)
      if abs(needed - stored) > TOLERANCE * units.rate:
        raise AudioMismatch(
          example.where,
          f'It has {crop.total} samples, hence {needed} units, but {units.path} has {stored}: they '
          'were made from other audio; label the clip again.',
        )

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Units of crops; -1 for missing units, and for units whose window reaches beyond the clip."""
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

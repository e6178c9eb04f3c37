"""Units of an encoder as a text: what a clip says, without its voice."""

import dataclasses
import os
from typing import ClassVar

import numpy as np
from jaxtyping import Bool

from research.audio.clips import Source
from research.audio.fields import Conditioned, Context, Field
from research.audio.fields.transcript import Tokens
from research.audio.fields.units import find
from research.audio.units import Units
from research.errors import InputError


@dataclasses.dataclass(frozen=True)
class UnitText(Field):
  """Gives '<key>' i32 [b, u], the units of clips, padded with -1.

  Clips must not be longer than the batches, as with texts.

  Attributes:
    path: a folder of units (`audio/units.py`) of any rate. Runs of one count as one where the model
      has it so.
  """

  path: str

  WHOLE: ClassVar[bool] = True

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have units; raises InputError if none has."""
    return find(source, (Units.open(self.path),))[:, 0] >= 0

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """50 units a second."""
    count = max(1, round(50 * samples / context.sample_rate))
    return {self.key: np.zeros((clips, count), np.int32)}

  def open(self, source: Source, context: Context) -> Tokens:
    """The units of all clips.

    Raises:
      InputError: a clip has no units, or the model takes another number of them.
    """
    units, model = Units.open(self.path), context.model
    own = model.text_units if isinstance(model, Conditioned) else None
    count, runs = own or (units.clusters, True)
    if count != units.clusters:
      raise InputError(
        f'{os.fspath(self.path)} has {units.clusters} units, and the model reads {count}: set '
        f'config.model.args.text.units={units.clusters}.'
      )
    rows = find(source, (units,))[:, 0]
    if (rows < 0).any():
      absent = source.id(int(np.argmax(rows < 0)))
      raise InputError(
        f'{int((rows < 0).sum())} of {len(rows)} clips of {source.name!r} have no units in '
        f'{os.fspath(self.path)}; the first is {absent!r}: label them, or leave them out.'
      )
    ids = [as_text(units.part(int(row), 0, units.count(int(row))), runs) for row in rows]
    return Tokens(ids, np.asarray(source.durations()), context.sample_rate, self.key)


def as_text(units: np.ndarray, runs: bool) -> np.ndarray:
  """Units of a clip as int32 [u], runs of one as one."""
  found = np.asarray(units, np.int32)
  return found[np.r_[True, found[1:] != found[:-1]]] if runs and len(found) else found

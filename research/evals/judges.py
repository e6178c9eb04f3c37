"""What is kept of every held-out clip, and what is said of all of them: the metrics of tasks.

A judge is data (`get(dict(name=…, args={…}))`): `keep` runs on the device with the model, `score`
afterwards on the CPU, over all clips of a source. Metrics are fractions (0 to 1) unless said
otherwise. Letters: b batch, n frames, c classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from research.audio.clips import Source
from research.errors import InputError, unknown

Kept = Mapping[int, Mapping[str, np.ndarray]]  # row of the source -> arrays


class Judge(Protocol):
  """What a task is judged by."""

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Arrays [b, …] that are kept of a batch, from the outputs of the model."""
    ...

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """{metric: value}."""
    ...


@dataclasses.dataclass(frozen=True)
class Classes:
  """Accuracy of one class a clip: 'accuracy'.

  Attributes:
    column: of the classes.
  """

  column: str = 'label'

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The class with the highest logit."""
    return {'found': jnp.asarray(out['logits']).argmax(-1)}

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class."""
    values, names = source.column(self.column), source.classes(self.column)
    right = [names[int(x['found'])] == values[row] for row, x in kept.items()]
    return {'accuracy': float(np.mean(right))}


@dataclasses.dataclass(frozen=True)
class Slots:
  """Several classes a clip, of which all have to be right: 'accuracy', and that of each slot.

  Attributes:
    columns: of the slots, in the order of the logits.
    sizes: classes of each.
  """

  columns: Sequence[str]
  sizes: Sequence[int]

  def keep(self, out: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The class of every slot with the highest logit, [b, slots]."""
    ends = np.cumsum(self.sizes)[:-1].tolist()
    parts = jnp.split(jnp.asarray(out['logits']), ends, axis=-1)
    return {'found': jnp.stack([part.argmax(-1) for part in parts], axis=-1)}

  def score(self, kept: Kept, source: Source) -> dict[str, float]:
    """See the class."""
    right = []
    for place, column in enumerate(self.columns):
      values, names = source.column(column), source.classes(column)
      right.append([names[int(x['found'][place])] == values[row] for row, x in kept.items()])
    table = np.array(right)  # [slots, clips]
    each = {f'accuracy_{name}': float(x.mean()) for name, x in zip(self.columns, table)}
    return {'accuracy': float(table.all(axis=0).mean()), **each}


JUDGES: dict[str, type[Any]] = {'classes': Classes, 'slots': Slots}


def get(spec: Mapping[str, Any]) -> Judge:
  """The judge that a spec describes, dict(name=…, args={…}).

  Raises:
    InputError: an unknown name or argument.
  """
  name, args = spec['name'], dict(spec.get('args') or {})
  if name not in JUDGES:
    raise unknown('judge', name, JUDGES)
  known = [f.name for f in dataclasses.fields(JUDGES[name])]
  for key in args:
    if key not in known:
      raise unknown(f'argument of judge {name}', key, known)
  try:
    return JUDGES[name](**args)
  except TypeError as error:
    raise InputError(f'judge {name}: {error}.') from error

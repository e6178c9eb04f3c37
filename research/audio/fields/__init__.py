"""Fields: what a batch holds besides audio. One file per kind of field.

`config.data.fields` lists the fields of a run as {key: setting}. By default the key is the module
name in this folder, and a setting that is not a dict is the first argument of the field. For
several fields of one kind, give the kind as `name`:

    fields=dict(
      label='label',
      units='units/layer6',
      reference=dict(name='recording', args=dict(column='reference', seconds=3.0)),
    )

A module `fields/<name>.py` defines one subclass of `Field`; no other code names it. `Field.known`
tells which clips have the field. `Field.open` checks the rows of a source. `Rows.arrays` gives the
arrays of a batch of clips or crops.

Dimensions: b batch, t samples.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from research.audio.bad_files import BadFiles
from research.audio.clips import Source
from research.audio.decode import Crop
from research.audio.example import Example
from research.errors import InputError, unknown


@dataclasses.dataclass(frozen=True)
class Context:
  """What a field may use about the batches it is opened for.

  Attributes:
    sample_rate: Hz.
    model: the model to train; None if there is none.
    root: folder of named data sets, as `config.data.root`.
    train: whether the batches are for training.
    seed: seed of the order of batches.
    batch_size: maximum number of clips in a global batch.
    process: index of this process and number of processes.
    bad_files: counts bad files.
  """

  sample_rate: int
  model: Any = None
  root: Any = None
  train: bool = True
  seed: int = 0
  batch_size: int = 1
  process: tuple[int, int] = (0, 1)
  bad_files: BadFiles = dataclasses.field(default_factory=lambda: BadFiles(None, 1.0))


@dataclasses.dataclass(frozen=True)
class Crops:
  """The decoded rows of a batch on one process.

  Attributes:
    index: index of the clip in the source, per row.
    valid: False for rows without a clip.
    starts: offset of the crop in its clip, samples.
    lengths: real samples of the crop.
    totals: length of the whole clip, samples.
    samples: static length of the batch.
    number: batch number.
    size: rows of the global batch.
    slots: index of every row in the global batch.
    position: position of the first slot of the global batch; `position + slots` seeds draws.
  """

  index: Int[np.ndarray, 'b']
  valid: Bool[np.ndarray, 'b']
  starts: Int[np.ndarray, 'b']
  lengths: Int[np.ndarray, 'b']
  totals: Int[np.ndarray, 'b']
  samples: int
  number: int
  size: int
  slots: Int[np.ndarray, 'b']
  position: int


@runtime_checkable
class Conditioned(Protocol):
  """A model that is conditioned on vectors and texts of clips."""

  vectors: Mapping[str, int]  # {key of a batch: width}
  spelling: Any  # the `text.alphabets.Alphabet` of its texts, or None
  text_units: Any  # (number of units that texts are made of, whether runs are one), or None


class Rows:
  """A field opened over a source. Picklable; called from several threads."""

  @property
  def step(self) -> int:
    """Crops start at multiples of N samples."""
    return 1

  @property
  def fingerprint(self) -> str:
    """Hash of data read besides the source; part of the signature of the batch order."""
    return ''

  def check_lengths(self, shortest: int, longest: int) -> None:
    """Raises InputError if batches of `shortest` to `longest` samples cannot work."""

  def fits(self, row: int, samples: int) -> bool:
    """Whether a clip can be used in a batch of N samples."""
    del row, samples
    return True

  def read(self, row: int, example: Example, crop: Crop) -> None:
    """Called with every decoded clip and its crop.

    Raises:
      AudioError: the clip cannot be used; it is replaced.
    """

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """The arrays that the field adds to a batch, [b, …] each."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Field:
  """The settings of a field. Subclasses are frozen dataclasses; their first own argument is the one
  that a config may give without a name.

  Attributes:
    key: key in `config.data.fields`; names the arrays if a batch can hold several of one kind.
  """

  key: str

  WHOLE: ClassVar[bool] = False  # needs whole clips, not crops
  TRAIN_ONLY: ClassVar[bool] = False  # not read in evaluation

  @property
  def silent(self) -> bool:
    """Whether a batch needs no audio where it has this field: none is decoded then."""
    return False

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips of a source have the field.

    Raises:
      InputError: no clip has it, or the source lacks a column that the field reads.
    """
    return np.ones(len(source), bool)

  def weights(self, source: Source) -> Float[np.ndarray, 'clips'] | None:
    """Sampling weights that balance the classes of the field; None if it has no classes."""
    del source
    return None

  def open(self, source: Source, context: Context) -> Rows:
    """Opens the field over a source.

    Raises:
      InputError: invalid rows or settings, or settings that contradict the model.
    """
    raise NotImplementedError

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """Zeros of the shapes that the field adds to a batch, where there are no data yet (plans).

    Args:
      context: as in `open`; its model gives sizes.
      clips: b.
      samples: t.

    Raises:
      InputError: the field does not define it.
    """
    raise InputError(
      f'Field {type(self).__name__} defines no example(): a batch cannot be planned without data.'
    )

  def check_config(self, config: Mapping[str, Any]) -> None:
    """Raises InputError if other settings of the config contradict the field."""


# -- By name -----------------------------------------------------------------------------------


def names() -> list[str]:
  """All kinds of fields."""
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> type[Field]:
  """The class of a kind of field.

  Raises:
    InputError: unknown name; suggests the nearest.
  """
  if name not in names():
    error = unknown('field', name, names())
    raise InputError(
      f'{error} A key of its own needs the name of a field: {{"name": …, "args": …}}.'
    )
  module = importlib.import_module(f'{__name__}.{name}')
  for value in vars(module).values():
    if inspect.isclass(value) and issubclass(value, Field) and value.__module__ == module.__name__:
      return value
  raise InputError(f'{module.__name__} defines no Field.')


def arguments(name: str) -> dict[str, tuple[Any, Any]]:
  """The arguments of a kind of field: {name: (annotation, default)}."""
  own = [f for f in dataclasses.fields(get(name)) if f.name != 'key']
  return {f.name: (f.type, f.default) for f in own}


def spec(key: str, setting: Any) -> dict[str, Any]:
  """A setting of `config.data.fields` as dict(name, args).

  Raises:
    InputError: a dict with other keys.
  """
  if isinstance(setting, Mapping):
    for other in set(setting) - {'name', 'args'}:
      raise unknown('setting', f'config.data.fields.{key}.{other}', ('name', 'args'))
    return {'name': setting.get('name') or key, 'args': dict(setting.get('args') or {})}
  return {'name': key, 'args': {next(iter(arguments(key)), ''): setting}}


def make(settings: Mapping[str, Any] | None) -> tuple[Field, ...]:
  """The fields of a config, in order; settings that are None are skipped.

  Raises:
    InputError: an unknown kind, an unknown argument or a missing argument.
  """
  made = []
  for key, setting in (settings or {}).items():
    if setting is None:
      continue
    one = spec(key, setting)
    known = arguments(one['name'])
    for argument in one['args']:
      if argument not in known:
        raise unknown(f'argument config.data.fields.{key}.args:', argument, known)
    needed = [a for a, (_, default) in known.items() if default is dataclasses.MISSING]
    for argument in needed:
      if one['args'].get(argument) is None:
        raise InputError(f'config.data.fields.{key} lacks {argument}.')
    made.append(get(one['name'])(key, **one['args']))
  return tuple(made)

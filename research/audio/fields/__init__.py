"""What a batch holds besides audio: one file a kind of field.

`config.data.fields` names the fields of a run, {key: setting}. The key is the module of the field
in this folder, and a setting that is no dict is its first argument. Several fields of one kind have
keys of their own:

    fields=dict(
      label='label',
      units='units/layer6',
      reference=dict(name='recording', args=dict(column='reference', seconds=3.0)),
    )

A module `fields/<name>.py` defines one subclass of `Field`; nothing else has to know it. A field
says which clips it has something for (`known`), is opened over a source (`open`, which checks its
rows) and then gives arrays for the clips of a batch or for crops of them (`Rows.arrays`).

Letters: b batch, t samples.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from research.audio.bad_files import BadFiles
from research.audio.clips import Source
from research.audio.decode import Crop
from research.audio.example import Example
from research.errors import InputError, unknown


@dataclasses.dataclass(frozen=True)
class Context:
  """What a field may know of the batches it is opened for.

  Attributes:
    sample_rate: Hz.
    model: the model that learns from the batches; None where there is none.
    root: folder of named data sets, as `config.data.root`.
    train: whether the batches are for training.
    seed: of the order of the batches.
    batch_size: clips of a global batch, at most.
    process: index and count of the processes that share a global batch.
    bad_files: where bad files are counted.
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
  """The rows of a batch that one process has, decoded.

  Attributes:
    index: clip of the source, a row.
    valid: False where a row has no clip.
    starts: sample of its clip that a crop starts with.
    lengths: real samples of a crop.
    totals: samples of the whole clip.
    samples: static length of the batch.
    number: of the batch.
    size: rows of the global batch.
    slots: place of every row in the global batch.
    position: of the first slot of the global batch; `position + slots` seeds what is drawn.
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


class Rows:
  """A field that is open over a source; picklable, and called from several threads."""

  @property
  def step(self) -> int:
    """Crops start at multiples of this many samples."""
    return 1

  @property
  def fingerprint(self) -> str:
    """Of what was read besides the source: part of the signature of the order of batches."""
    return ''

  def check_lengths(self, shortest: int, longest: int) -> None:
    """Raises InputError where batches of `shortest` to `longest` samples cannot work."""

  def fits(self, row: int, samples: int) -> bool:
    """Whether a clip can stand in a batch of this many samples."""
    del row, samples
    return True

  def read(self, row: int, example: Example, crop: Crop) -> None:
    """Sees every clip that is decoded, with its crop.

    Raises:
      AudioError: the clip cannot be used; another one takes its place.
    """

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """What the field adds to a batch, [b, …] each."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Field:
  """The settings of a field; subclasses are frozen dataclasses whose first own argument is the main
  one.

  Attributes:
    key: in `config.data.fields`; names the arrays where a kind can be there several times.
  """

  key: str

  WHOLE: ClassVar[bool] = False  # whether a crop of a clip cannot have the field
  TRAIN_ONLY: ClassVar[bool] = False  # whether evaluation goes without

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips of a source have what the field needs.

    Raises:
      InputError: none has, or the source lacks what the field reads.
    """
    return np.ones(len(source), bool)

  def weights(self, source: Source) -> Float[np.ndarray, 'clips'] | None:
    """Sampling weights that balance the classes of the field; None where it holds no classes."""
    del source
    return None

  def open(self, source: Source, context: Context) -> Rows:
    """The field of the clips of a source.

    Raises:
      InputError: rows that cannot be used, settings that cannot work, or another model's.
    """
    raise NotImplementedError

  def check_config(self, config: Mapping[str, Any]) -> None:
    """Raises InputError where other settings of a whole config contradict the field."""


# -- By name -----------------------------------------------------------------------------------


def names() -> list[str]:
  """The kinds of fields that there are."""
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> type[Field]:
  """The class of a kind of field.

  Raises:
    InputError: unknown; names the nearest.
  """
  if name not in names():
    raise unknown('field', name, names())
  module = importlib.import_module(f'{__name__}.{name}')
  for value in vars(module).values():
    if inspect.isclass(value) and issubclass(value, Field) and value.__module__ == module.__name__:
      return value
  raise InputError(f'{module.__name__} defines no Field.')


def arguments(name: str) -> dict[str, tuple[Any, Any]]:
  """The arguments of a kind: {name: (annotation, default)}."""
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
  """The fields that settings name, in their order; a setting that is None is left out.

  Raises:
    InputError: an unknown kind or argument.
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

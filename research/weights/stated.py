"""What files say of a model beside its arrays, held against the arrays and the caller's wishes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from research.errors import InputError
from research.features.waveform import Waveform


class Fact(NamedTuple):
  """A value, and where it is said."""

  value: Any
  where: str


class Stated(NamedTuple):
  """What the files of a release say.

  Attributes:
    facts: {model argument: Fact}: what the weights are. Neither arrays nor caller may contradict.
    frontend: the same of the arguments of the front-end.
    training: {model argument: value} that the weights were trained with; a caller may change them.
  """

  facts: Mapping[str, Fact] = {}
  frontend: Mapping[str, Fact] = {}
  training: Mapping[str, Any] = {}


NOTHING = Stated()


def check_agreement(
  found: Mapping[str, Any], given: Mapping[str, Any], facts: Mapping[str, Fact]
) -> None:
  """Raises InputError where two of the three differ: the arrays, the caller and the files."""
  for name, fact in facts.items():
    if given.get(name, fact.value) != fact.value:
      raise InputError(
        f'{name}={_short(given[name])} was given, but {fact.where} says '
        f'{name}={_short(fact.value)}.'
      )
    if found.get(name, fact.value) != fact.value:
      raise InputError(
        f'{fact.where} says {name}={_short(fact.value)}, but the arrays have '
        f'{name}={_short(found[name])}: the two do not belong together.'
      )
  for name, value in given.items():
    if found.get(name, value) != value:
      raise InputError(
        f'{name}={_short(value)} was given, but the weights have {name}={_short(found[name])}.'
      )


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 120 else f'{text[:119]}…'


def settle(
  found: Mapping[str, Any],
  given: Mapping[str, Any],
  stated: Stated,
  defaults: Mapping[str, Any],
) -> dict[str, Any]:
  """The arguments of a model of waveforms.

  Args:
    found: what the arrays show.
    given: by the caller.
    stated: by the files.
    defaults: used where nothing is stated; 'frontend' holds the front-end's.
  """
  front = given.get('frontend') or {}
  if isinstance(front, Waveform):
    front = front.to_dict()
  if not isinstance(front, Mapping):
    raise InputError(f'frontend is {front!r}; expected its arguments, as {{"normalise": true}}.')
  check_agreement(found, given, stated.facts)
  check_agreement({}, front, stated.frontend)
  said = {name: fact.value for name, fact in stated.frontend.items()}
  facts = {name: fact.value for name, fact in stated.facts.items()}
  frontend = {**defaults.get('frontend', {}), **said, **front}
  return {**defaults, **stated.training, **facts, **given, **found, 'frontend': frontend}

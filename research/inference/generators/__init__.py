"""Models that generate audio at work: one file a way of generating, with its class `Generator`.

A model names its file (`capabilities.GeneratesAudio.GENERATOR`); `launch.generate` and
`load(path).generate` know requests and audio, and no model:

    class Generator:
      PARTS = {}  # options that are models with weights, and arguments with which `load` opens them
      def __init__(self, model, variables, *, batch_size=16, …): ...  # its options
      model, generation  # what it was made of, and what it can be asked for
      def __call__(self, requests, report=None) -> list of samples [t], one for each request

Equal requests give equal audio, whatever else is in the batch. What writes codes, and was given
nothing that makes audio of them, returns codes int [n, g]. A result about which there is something
to say is a `Noted`. A model that is conditioned on vectors has a generator with `vector(name,
value)`, which makes one of a path.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from research.capabilities import GeneratesAudio, Generation
from research.errors import InputError, unknown
from research.inference import inputs

# Seconds of a result where nothing says how long it is.
SECONDS = 5.0
Report = Callable[[int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
  """What is asked for once. Samples are at the rate of the model.

  Attributes:
    samples: length of the result, a prompt included; None: that of the source.
    seed: of its draws.
    prompt: the clip that it continues, or None.
    source: the recording that it says again, or None.
    units: what it is conditioned on, [u], or None.
    labels: {name: number of the value}.
    texts: {name: text}.
    vectors: {name: vector [w]}.
    frames: what a generator hands on to its decoder in the place of a source, [s, f], or None.
  """

  samples: int | None = None
  seed: int = 0
  prompt: Float[np.ndarray, ' t'] | None = None
  source: Float[np.ndarray, ' t'] | None = None
  units: Int[np.ndarray, ' u'] | None = None
  labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
  texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  vectors: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  frames: Float[np.ndarray, 's f'] | None = None


class Noted(NamedTuple):
  """A result, and what there is to say about it: a row of a list, JSON-able."""

  result: np.ndarray
  said: Mapping[str, Any]


def plain(result: Any) -> np.ndarray:
  """A result alone."""
  return result.result if isinstance(result, Noted) else result


def names() -> list[str]:
  """All ways of generating."""
  return sorted(m.name for m in pkgutil.iter_modules(__path__))


def options(model: Any) -> dict[str, Any]:
  """The options of the generator of a model, with their defaults.

  Raises:
    InputError: it generates no audio.
  """
  parameters = inspect.signature(_class(model)).parameters.values()
  return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def parts(model: Any) -> Mapping[str, Mapping[str, Any]]:
  """{option that is a model with weights: arguments with which `weights.load` opens it}.

  Raises:
    InputError: the model generates no audio.
  """
  return _class(model).PARTS


def make(model: Any, variables: Any, **given: Any) -> Any:
  """The generator of a model.

  Raises:
    InputError: it generates no audio, or has no such option.
  """
  known = options(model)
  kinds = inspect.signature(_class(model)).parameters
  for name, value in given.items():
    if name not in known:
      raise unknown('option of generation', name, known)
    if not _is_a(value, kinds[name].annotation):
      raise InputError(f'{name}={value!r} was given, which is not of the kind of {known[name]!r}.')
  return _class(model)(model, variables, **given)


def _is_a(value: Any, kind: Any) -> bool:
  """Whether a value fits an annotation; what is no plain type is not looked at."""
  try:
    return isinstance(value, kind) or (type(value) is int and isinstance(0.0, kind))
  except TypeError:
    return True


def _class(model: Any) -> Any:
  if not isinstance(model, GeneratesAudio):
    raise InputError(
      f'{type(model).__name__} generates no audio: give a model that does, as a WaveNet.'
    )
  if model.GENERATOR not in names():
    raise InputError(
      f'inference/generators/ has no {model.GENERATOR}.py, which {type(model).__name__} names.'
    )
  return importlib.import_module(f'{__name__}.{model.GENERATOR}').Generator


def spoken(model: Any) -> bool:
  """Whether a model says texts."""
  return isinstance(model, GeneratesAudio) and bool(model.generation.spelt)


def converts(model: Any) -> bool:
  """Whether a model says units again, in the voice that is asked for."""
  own = isinstance(model, GeneratesAudio) and model.generation.source == 'units'
  return own and model.GENERATOR == 'code_by_code'


def numbers(generation: Generation, given: Mapping[str, str | int]) -> dict[str, int]:
  """Values of labels by name or number, as numbers; all labels of a model have to be given.

  Raises:
    InputError: an unknown label or value, or a label without a value.
  """
  found = {}
  for name, value in given.items():
    if name not in generation.labels:
      raise unknown('label', name, [*generation.labels, *generation.texts] or ['none'])
    values = generation.labels[name]
    count = values if isinstance(values, int) else len(values)
    if isinstance(value, str) and not isinstance(values, int) and value in values:
      found[name] = list(values).index(value)
    elif str(value).isdigit() and int(value) < count:
      found[name] = int(value)
    elif isinstance(values, int):
      raise InputError(f'{name}={value!r} was given: expected a number from 0 to {count - 1}.')
    else:
      raise unknown(name, str(value), values)
  for name, values in generation.labels.items():
    if name not in found:
      some = f'0 to {values - 1}' if isinstance(values, int) else ', '.join(list(values)[:8])
      raise InputError(f'The model is conditioned on {name}: give {name}=… ({some}).')
  return found


def conditions(
  generation: Generation, given: Mapping[str, Any]
) -> tuple[dict[str, int], dict[str, str]]:
  """(labels as numbers, texts) of what is given by name; see `numbers`."""
  texts = {name: str(value) for name, value in given.items() if name in generation.texts}
  return numbers(generation, {k: v for k, v in given.items() if k not in texts}), texts


# What a model says that has not what it needs, by `Generation.source`.
NEEDED = {
  'audio': 'The model says recordings again: give each result its source.',
  'units': 'The model is conditioned on units: give each result its own.',
  'codes': 'The model says recordings again from their codes: give each result its source.',
}


def check(generation: Generation, requests: Sequence[Request]) -> None:
  """Raises InputError where a request is none of what a model can be asked for."""
  takes = generation.source
  for request in requests:
    if request.prompt is not None and not generation.prompt:
      raise InputError('A prompt was given, and the model cannot continue a clip.')
    if request.source is not None and takes not in ('audio', 'codes'):
      raise InputError('A source was given, and the model is not conditioned on recordings.')
    if request.units is not None and takes not in ('units', 'codes'):
      raise InputError('Units were given, and the model is not conditioned on them.')
    if request.source is not None and request.units is not None:
      raise InputError('A source and units were given: choose one.')
    if takes in NEEDED and request.source is None and request.units is None:
      raise InputError(NEEDED[takes])
    for name, spell in generation.spelt.items():
      if name not in request.texts:
        raise InputError(f'The model says a text: give {name}=….')
      spell(request.texts[name])
    for name, width in generation.vectors.items():
      if name not in request.vectors:
        raise InputError(f'The model is conditioned on a vector {name}: give {name}=FILE.')
      if np.shape(request.vectors[name]) != (width,):
        raise InputError(
          f'The vector {name} has shape {np.shape(request.vectors[name])}, and the model takes '
          f'{width} numbers: take the encoder that it learned with.'
        )
    known = request.samples
    ends = bool(generation.spelt) and known is None  # where its text does
    if generation.source == 'none' and not ends and (known is None or known < 1):
      raise InputError(f'A result of {known} samples was asked for: give its length in seconds.')


def generate(
  model: Any,
  variables: Any,
  seconds: float | None = None,
  *,
  prompt: inputs.Audio | None = None,
  source: inputs.Audio | None = None,
  units: Any = None,
  sample_rate: float | None = None,
  seed: int = 0,
  count: int = 1,
  labels: Mapping[str, Any] | None = None,
  vectors: Mapping[str, Any] | None = None,
  **options: Any,
) -> np.ndarray | list[np.ndarray]:
  """Audio of a model that generates it, float32 [t] at its rate; a list where `count` is above 1.

  Args:
    model, variables: a `capabilities.GeneratesAudio` and its weights.
    seconds: of what is made, behind a prompt.
    prompt: a clip that is continued, a path or samples [t].
    source: a recording that a vocoder says again.
    units: what the model is conditioned on, [u].
    sample_rate: of samples, Hz.
    seed: of the first result; further ones count on.
    labels: {name: value}, as {'speaker': 'theo'}; texts too, as {'text': 'seven'}.
    vectors: {name: a vector, or a recording that one is made of}, as {'voice': 'ref.wav'}.
    **options: temperature, batch_size, …, see the generator of the model; its parts as what
      `weights.load` gives.

  Raises:
    InputError: the model generates no audio, or cannot be asked for this.
  """
  generator = make(model, variables, **options)
  frontend, generation = model.frontend, generator.generation
  read = lambda x: inputs.samples_of(x, sample_rate, frontend, 0, None)  # noqa: E731
  start, said = (None if x is None else read(x) for x in (prompt, source))
  samples = None
  if generation.source == 'none' and not (generation.spelt and seconds is None):
    samples = round((SECONDS if seconds is None else seconds) * frontend.sample_rate)
    samples += 0 if start is None else len(start)
  numbered, texts = conditions(generation, labels or {})
  rest: dict[str, Any] = dict(prompt=start, source=said, units=units, labels=numbered, texts=texts)
  for name in vectors or {}:
    if name not in generation.vectors:
      raise unknown('vector', name, list(generation.vectors) or ['none'])
  rest['vectors'] = {name: generator.vector(name, x) for name, x in (vectors or {}).items()}
  requests = [Request(samples, seed + i, **rest) for i in range(count)]
  found = [plain(each) for each in generator(requests)]
  return found if count > 1 else found[0]

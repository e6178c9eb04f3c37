"""Audio of a language model of codes: it writes codes, a codec or a vocoder of units makes audio of
them. Without one the codes themselves are the result.

Letters: t samples, n frames of codes, g codebooks.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from research.capabilities import DecodesCodes, GeneratesAudio, Generation, HearsLabels
from research.errors import InputError
from research.inference import codec as codecs
from research.inference import generators
from research.inference.codec import Coded
from research.inference.generate_codes import Sampling, generate_codes
from research.inference.generators import Report, Request

Codes = np.ndarray


class Coder(NamedTuple):
  """What goes between audio and codes.

  Attributes:
    encode: a clip [t] -> codes [n, g]; None where there is nothing that does.
    decode: codes of rows, and their requests -> audio of each.
    generation: what it is conditioned on itself.
  """

  encode: Callable[[np.ndarray], Codes] | None
  decode: Callable[[Sequence[Codes], Sequence[Request]], list[np.ndarray]]
  generation: Generation = Generation()


class Generator:
  """Audio, or codes, of a language model of codes.

  lm, codec = weights.load('runs/code_lm'), weights.load('encodec_24khz-d7cc33bc.th')
  lm.generate(5.0, codec=codec, top_k=250, prompt='start.wav')
  """

  PARTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {'codec': {}}

  def __init__(
    self,
    model: Any,
    variables: Any,
    *,
    codec: Any = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float = 1.0,
    ends: bool = True,
    batch_size: int = 16,
  ):
    """Args:
      model: a `models.code_lm.CodeLM`.
      variables: its weights.
      codec: what makes audio of the codes, with `model` and `variables`, as of `weights.load`: a
        codec (EnCodec), a VQ-VAE, or a WaveNet of units. None: results are codes.
      temperature: of the draws; 0 takes the likeliest.
      top_k, top_p, guidance, ends: see `generate_codes.Sampling`.
      batch_size: rows that are written at once.

    Raises:
      InputError: options that cannot be, or a codec of other codes.
    """
    if temperature < 0 or batch_size < 1:
      raise InputError(
        f'temperature={temperature} and batch_size={batch_size} were given: give at least 0 and 1.'
      )
    self.model, self.variables, self.size = model, variables, batch_size
    self.temperature = float(temperature)
    self.how = Sampling(temperature > 0, top_k, top_p, guidance, ends)
    self.coder = None if codec is None else coder_of(model, codec, temperature, batch_size)
    own = model.generation
    if self.coder is not None:
      # Labels of both, one where both have it; the codec's may have names.
      labels = {**own.labels, **self.coder.generation.labels}
      prompts = self.coder.encode is not None
      own = dataclasses.replace(own, labels=labels, prompt=prompts)
    self.generation = own

  def __call__(self, requests: Sequence[Request], report: Report | None = None) -> list[np.ndarray]:
    """Audio [t] of each request, a prompt included; without a codec codes int32 [n, g]. A clip that
    ends by itself is shorter than was asked for.

    Args:
      requests: what is asked for.
      report: called with the number of samples that were made.

    Raises:
      InputError: what the model cannot be asked for, or a prompt without a codec.
    """
    generators.check(self.generation, requests)
    rows = [self._row(request) for request in requests]
    # Rows of like length are together, as all go on until the longest has ended.
    order = sorted(range(len(rows)), key=lambda i: -rows[i][1])
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(order), self.size):
      some = order[start : start + self.size]
      made = self._batch([requests[i] for i in some], [rows[i] for i in some])
      found |= dict(zip(some, made))
      if report is not None:
        hop = self.model.frontend.hop_samples
        report(sum((len(made[j]) - len(rows[i][0])) * hop for j, i in enumerate(some)))
    codes = [found[i] for i in range(len(requests))]
    return codes if self.coder is None else self.coder.decode(codes, requests)

  def _row(self, request: Request) -> tuple[Codes, int]:
    """(codes of the prompt, frames in all)."""
    model, hop = self.model, self.model.frontend.hop_samples
    codes, left = np.zeros((0, model.codebooks), np.int32), int(request.samples or 0)
    if request.prompt is not None:
      if self.coder is None or self.coder.encode is None:
        raise InputError(
          'A prompt of audio was given, and nothing that makes codes of it: name the codec whose '
          'codes the model learned from (--parts=codec=PATH).'
        )
      left -= len(request.prompt)
      codes = self.coder.encode(request.prompt)
    if left < 1:
      raise InputError(
        f'{request.samples} samples were asked for, and the prompt alone has as many: ask for more.'
      )
    return codes, len(codes) + max(round(left / hop), 1)

  def _batch(self, requests: Sequence[Request], rows: Sequence[tuple[Codes, int]]) -> list[Codes]:
    """Codes of some rows; the last ones of a smaller batch are fillers, so that sizes are alike."""
    fill = self.size - len(rows)
    prompts = [codes for codes, _ in rows] + [rows[-1][0]] * fill
    asked = [*requests, *[requests[-1]] * fill]
    names = self.model.conditions
    written = generate_codes(
      self.model,
      self.variables,
      prompts,
      max(frames for _, frames in rows),
      self.how,
      conditions={name: [each.labels[name] for each in asked] for name in names},
      temperature=self.temperature or 1.0,
      seeds=[each.seed for each in asked],
    )
    return [codes[:frames].astype(np.int32) for codes, (_, frames) in zip(written, rows)]


def coder_of(model: Any, codec: Any, temperature: float, batch_size: int) -> Coder:
  """What makes audio of the codes of a model.

  Args:
    model: a `models.code_lm.CodeLM`.
    codec: with `model` and `variables`.
    temperature, batch_size: of a vocoder.

  Raises:
    InputError: it makes no audio, or is of other codes.
  """
  own, name = codec.model, type(codec.model).__name__
  source = own.generation.source if isinstance(own, GeneratesAudio) else None
  if isinstance(own, DecodesCodes):
    sizes = (own.codebook_size,) * own.quantizers
    if own.segment:
      raise InputError(
        f'{name} has segments with a loudness, which no code says: give a codec without segments.'
      )
  elif source in ('units', 'codes'):
    sizes = own.code_sizes if source == 'codes' else (own.local_units,)
  else:
    raise InputError(
      f'{name} makes no audio of codes: give an EnCodec, a VQ-VAE or a WaveNet of units as codec.'
    )
  _check(model, name, own.frontend.sample_rate, own.hop, sizes)
  for label, count in own.label_counts.items() if isinstance(own, HearsLabels) else ():
    if model.conditions.get(label, count) != count:
      raise InputError(
        f'{name} knows {count} values of {label}, the model {model.conditions[label]}: give a '
        'codec of the same data.'
      )
  if isinstance(own, DecodesCodes):
    return _codec(model, codecs.Codec(own, codec.variables))
  generator = generators.make(own, codec.variables, temperature=temperature, batch_size=batch_size)
  return _vocoder(generator)


def _check(model: Any, name: str, rate: int, hop: int, sizes: Sequence[int]) -> None:
  mine = model.frontend.sample_rate, model.frontend.hop_samples, tuple(model.sets)
  theirs = rate, hop, tuple(sizes[: model.codebooks])
  if mine != theirs:
    raise InputError(
      f'The model writes codes of {mine[0]} Hz, {mine[1]} samples a frame and {mine[2]} codes a '
      f'codebook; {name} has {theirs[0]}, {theirs[1]} and {theirs[2]}: give the codec that it '
      'learned from.'
    )


def _codec(model: Any, codec: codecs.Codec) -> Coder:
  def encode(audio: np.ndarray) -> Codes:
    return codec.encode(audio, codec.sample_rate).codes[:, : model.codebooks]

  def decode(rows: Sequence[Codes], requests: Sequence[Request]) -> list[np.ndarray]:
    del requests
    hop = codec.model.hop
    given = [Coded(row, len(row) * hop, (len(row),), codec.sample_rate) for row in rows]
    return [codec.decode(each).mean(axis=1) for each in given]

  return Coder(encode, decode)


def _vocoder(generator: Any) -> Coder:
  """A WaveNet of units, or a VQ-VAE."""
  generation = generator.generation

  def decode(rows: Sequence[Codes], requests: Sequence[Request]) -> list[np.ndarray]:
    given = []
    for row, each in zip(rows, requests):
      labels = {name: each.labels[name] for name in generation.labels}
      given.append(Request(seed=each.seed, units=row[:, 0], labels=labels))
    return generator(given)

  encode = None
  if generation.source == 'codes':
    encode = functools.partial(_column, generator.encode)
  return Coder(encode, decode, generation)


def _column(encode: Callable[[np.ndarray], np.ndarray], audio: np.ndarray) -> Codes:
  return encode(audio)[:, None]

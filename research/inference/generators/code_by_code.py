"""Audio of a language model of codes: it writes codes, a codec or a vocoder of units makes audio of
them. Without one the codes themselves are the result. A text is said again until the model's
attention went through it from its beginning to its end, or as often as is allowed.

Letters: t samples, n frames of codes, g codebooks, w width of a vector.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from research.audio.fields.unit_text import as_text
from research.capabilities import DecodesCodes, GeneratesAudio, Generation, HearsLabels
from research.errors import InputError
from research.inference import alignment, generators
from research.inference import codec as codecs
from research.inference.codec import Coded
from research.inference.generate_codes import Sampling, generate_codes
from research.inference.generators import Noted, Report, Request
from research.inference.joint import SoundEncoder
from research.inference.joint import check as check_joint
from research.inference.speakers import SpeakerEncoder
from research.text.subwords import read_tokenizer

Codes = np.ndarray
# A text that says nothing of its length has at most this long: seconds a symbol, and more.
SYMBOL_SECONDS, MORE_SECONDS = 0.25, 1.0
FRAME_STEP = 64
# The vector that a CLAP gives, of words or of a recording.
CLAP = 'clap'
# Between the seeds of attempts at one request.
NEXT_SEED = 1_000_003


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

  PARTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {'codec': {}, 'voice': {}, 'clap': {}}

  def __init__(
    self,
    model: Any,
    variables: Any,
    *,
    codec: Any = None,
    voice: Any = None,
    clap: Any = None,
    suffix: str = '',
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float = 1.0,
    ends: bool = True,
    attempts: int = 3,
    batch_size: int = 16,
  ):
    """Args:
      model: a `models.code_lm.CodeLM`.
      variables: its weights.
      codec: what makes audio of the codes, with `model` and `variables`, as of `weights.load`: a
        codec (EnCodec), a VQ-VAE, or a WaveNet of units. None: results are codes.
      voice: what makes vectors of recordings of a speaker (`inference.speakers`), likewise.
      clap: what makes the vector 'clap' of words or of a recording (`joint.SoundEncoder`), with its
        tokenizer, as of `weights.load`.
      suffix: put behind every text of it (Microsoft's of 2023: ' <|endoftext|>').
      temperature: of the draws; 0 takes the likeliest.
      top_k, top_p, guidance, ends: see `generate_codes.Sampling`.
      attempts: how often a text is said until its alignment is good (`inference.alignment`); 0
        does not look at it.
      batch_size: rows that are written at once.

    Raises:
      InputError: options that cannot be, a codec of other codes, or a model of states of texts.
    """
    if temperature < 0 or batch_size < 1 or attempts < 0:
      raise InputError(
        f'temperature={temperature}, batch_size={batch_size} and attempts={attempts} were given: '
        'give at least 0, 1 and 0.'
      )
    if model.texts and model.texts.states:
      raise InputError(
        'This code_lm reads states of another text model, which a request does not have: give them '
        'to inference.generate_codes.'
      )
    # The likeliest codes are the same in every attempt.
    self.attempts = min(attempts, 1) if temperature == 0 else attempts
    self.voice = None if voice is None else SpeakerEncoder(voice.model, voice.variables)
    self.clap = None
    if clap is not None:
      check_joint(clap)
      self.clap = SoundEncoder(clap, read_tokenizer(clap.tokenizer or clap.place), suffix)
    self._vectors: dict[str, np.ndarray] = {}
    self.model, self.variables, self.size = model, variables, batch_size
    self.temperature = float(temperature)
    self.how = Sampling(temperature > 0, top_k, top_p, guidance, ends)
    self.coder = None if codec is None else coder_of(model, codec, temperature, batch_size)
    own = model.generation
    if self.coder is not None:
      labels = _labels(own.labels, self.coder.generation.labels)
      prompts = self.coder.encode is not None
      own = dataclasses.replace(own, labels=labels, prompt=prompts)
    self.generation = own

  def __call__(self, requests: Sequence[Request], report: Report | None = None) -> list[Any]:
    """Audio [t] of each request, a prompt included; without a codec codes int32 [n, g]. A clip that
    ends by itself is shorter than was asked for. What says a text is `Noted` with the verdict on
    its alignment and the number of attempts.

    Args:
      requests: what is asked for.
      report: called with the number of samples that were made.

    Raises:
      InputError: what the model cannot be asked for, or a prompt without a codec.
    """
    generators.check(self.generation, requests)
    rows = [self._row(request) for request in requests]
    codes = self._written(requests, rows, report)
    notes: list[dict[str, Any]] = [{} for _ in requests]
    if self.model.texts and self.attempts:
      verdicts = self._verdicts(requests, rows, codes)
      tries = [1] * len(requests)
      for attempt in range(1, self.attempts):
        bad = [i for i, verdict in enumerate(verdicts) if not verdict.good]
        if not bad:
          break
        again = [
          dataclasses.replace(requests[i], seed=(requests[i].seed + attempt * NEXT_SEED) % 2**32)
          for i in bad
        ]
        own = [rows[i] for i in bad]
        made = self._written(again, own, report)
        for i, new, verdict in zip(bad, made, self._verdicts(again, own, made)):
          tries[i] += 1
          if _better(verdict, verdicts[i]):
            codes[i], verdicts[i] = new, verdict
      notes = [{**v.said(), 'attempts': n} for v, n in zip(verdicts, tries)]
    made = codes if self.coder is None else self.coder.decode(codes, requests)
    return [Noted(result, said) if said else result for result, said in zip(made, notes)]

  def vector(self, name: str, value: Any) -> np.ndarray:
    """The vector [w] of a recording, or what is one already.

    Raises:
      InputError: a recording without `voice`, one that cannot be read, is too short or silent, or
        no numbers.
    """
    if not isinstance(value, str | os.PathLike):
      found = np.asarray(value)
      if found.ndim != 1 or found.dtype.kind not in 'fi' or not np.isfinite(found).all():
        raise InputError(f'{name} is {str(value)[:60]}: expected a recording, or numbers.')
      return found.astype(np.float32)
    if name == CLAP and self.clap is not None:
      return self.clap.vector(os.fspath(value))
    if self.voice is None:
      raise InputError(
        f'{name}={os.fspath(value)}: a recording was given, and nothing that makes vectors of it: '
        'name the encoder of speakers that the model learned with (--parts=voice=PATH), or for the '
        'vector clap the CLAP (--parts=clap=PATH).'
      )
    path = os.fspath(value)
    if path not in self._vectors:
      self._vectors[path] = self.voice.vector(path).astype(np.float32)
    return self._vectors[path]

  def _written(
    self, requests: Sequence[Request], rows: Sequence[tuple[Codes, int]], report: Report | None
  ) -> list[Codes]:
    """Codes of requests."""
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
    return [found[i] for i in range(len(requests))]

  def _verdicts(
    self,
    requests: Sequence[Request],
    rows: Sequence[tuple[Codes, int]],
    codes: Sequence[Codes],
  ) -> list[alignment.Verdict]:
    """What is thought of the alignment of codes with their texts."""
    model, found = self.model, []
    step = 1.0 / model.label_rate
    for start in range(0, len(codes), self.size):
      some = slice(start, start + self.size)
      # Fillers, so that sizes are alike.
      fill = self.size - len(codes[some])
      given = self._conditions([*requests[some], *[requests[-1]] * fill])
      filled = [*codes[some], *[codes[-1]] * fill]
      each = alignment.attention(model, self.variables, filled, given)
      for text, weights, own, (_, frames) in zip(given['text'], each, codes[some], rows[some]):
        ended = not self.how.ends or len(own) < frames
        sounding = np.ones(len(text), bool)
        if model.spelling is not None:
          sounding = model.spelling.sounding[text]
        found.append(alignment.judge(weights, sounding, step, ended))
    return found

  def _conditions(self, requests: Sequence[Request]) -> dict[str, Any]:
    """As `generate_codes` takes them."""
    model = self.model
    found: dict[str, Any] = {n: [each.labels[n] for each in requests] for n in model.conditions}
    found |= {n: np.stack([each.vectors[n] for each in requests]) for n in model.vectors}
    if model.texts:
      found['text'] = [self._text(each) for each in requests]
    return found

  def _text(self, request: Request) -> np.ndarray:
    """Ids of what is said."""
    if self.model.spelling is not None:
      return self.model.spelling.encode(request.texts['text'])
    count, runs = self.model.text_units
    units = np.asarray(request.units, np.int32)
    if units.ndim != 1 or not len(units) or units.min() < 0 or units.max() >= count:
      raise InputError(
        f'Units of shape {units.shape} were given: expected some numbers from 0 to {count - 1}.'
      )
    return as_text(units, runs)

  def _limit(self, request: Request) -> int:
    """Samples that a request gets which does not say how many."""
    model = self.model
    seconds = MORE_SECONDS + SYMBOL_SECONDS * len(self._text(request))
    most = model.max_steps // (model.codebooks if model.pattern == 'flat' else 1)
    most -= model.codebooks - 1 if model.pattern == 'delay' else 0
    # In steps, so that few programs are compiled.
    frames = min(-(-round(seconds * model.label_rate) // FRAME_STEP) * FRAME_STEP, most)
    prompt = 0 if request.prompt is None else len(request.prompt)
    return min(frames * model.frontend.hop_samples + prompt, most * model.frontend.hop_samples)

  def _row(self, request: Request) -> tuple[Codes, int]:
    """(codes of the prompt, frames in all)."""
    model, hop = self.model, self.model.frontend.hop_samples
    codes, samples = np.zeros((0, model.codebooks), np.int32), request.samples
    left = self._limit(request) if samples is None and model.texts else int(samples or 0)
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
    written = generate_codes(
      self.model,
      self.variables,
      prompts,
      max(frames for _, frames in rows),
      self.how,
      conditions=self._conditions(asked),
      temperature=self.temperature or 1.0,
      seeds=[each.seed for each in asked],
    )
    return [codes[:frames].astype(np.int32) for codes, (_, frames) in zip(written, rows)]


def _labels(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
  """Labels of a model and of its codec, one where both have it, with names where one has them.

  Raises:
    InputError: the two name values differently.
  """
  found = {**theirs, **own}
  for name in set(own) & set(theirs):
    named = [tuple(each[name]) for each in (own, theirs) if not isinstance(each[name], int)]
    if len(set(named)) > 1:
      raise InputError(
        f'The model knows as {name} {", ".join(named[0])}, the codec {", ".join(named[1])}: give a '
        'codec of the same data.'
      )
    found[name] = named[0] if named else own[name]
  return found


def _better(new: alignment.Verdict, old: alignment.Verdict) -> bool:
  """Whether one verdict is better than another."""
  return (len(new.problems), -new.straight) < (len(old.problems), -old.straight)


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
    mine = model.label_counts
    if mine.get(label, count) != count:
      raise InputError(
        f'{name} knows {count} values of {label}, the model {mine[label]}: give a '
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
    return [generators.plain(each) for each in generator(given)]

  encode = None
  if generation.source == 'codes':
    encode = functools.partial(_column, generator.encode)
  return Coder(encode, decode, generation)


def _column(encode: Callable[[np.ndarray], np.ndarray], audio: np.ndarray) -> Codes:
  return encode(audio)[:, None]

"""Whisper on recordings of any length: windows, fallback, prompts, words (openai/whisper,
transcribe.py).

  transcribe(WhisperDecoder(model, variables, tokenizer), audio).text

Every file is a walk over its windows that asks for one decoding at a time; windows of several files
are decoded in one batch.
"""

import dataclasses
from collections.abc import Generator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from research.errors import InputError
from research.inference import voice, whisper_windows
from research.inference.whisper_decoding import (
  Result,
  WhisperDecoder,
  best_language,
)
from research.inference.whisper_mel import whole_log_mel
from research.inference.whisper_segments import (
  Segment,
  Transcript,
  end_of,
  improbable,
  with_words,
)
from research.inference.whisper_settings import Transcription
from research.inference.whisper_words import add_words
from research.text.languages import language_code

USUAL = Transcription()

# -- One recording -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Request:
  """A window to decode: its log-mel [s, f] of the window's length, and what was said before."""

  mel: Float[np.ndarray, 's f']
  prompt: tuple[int, ...]
  language: str | None


@dataclasses.dataclass(frozen=True)
class _Reply:
  """What was decoded, and audio tokens [1, n, d] of the window."""

  result: Result
  heard: Any


class _Walk:
  """The windows of one recording, and what was said in them."""

  def __init__(
    self, decoder: WhisperDecoder, how: Transcription, audio: np.ndarray, language: str | None
  ):
    self.decoder, self.how = decoder, how
    self.frontend = decoder.model.frontend
    self.window = decoder.model.window_frames
    self.mel, self.content = whole_log_mel(self.frontend, audio, self.window)
    self.rate = self.frontend.sample_rate / self.frontend.hop_samples  # mel frames a second
    self.segments: list[Segment] = []
    self.tokens: list[int] = []
    self.prompt: list[int] = []
    self.reset = 0  # tokens before it are in no prompt
    self.last_speech = 0.0
    self.voiced: list[tuple[float, float]] | None = None
    if how.skip_unvoiced:
      self.voiced = voice.Detector().utterances(audio, self.frontend.sample_rate)
    own = how.options.language or language
    self.language = None if own is None else language_code(own)

  def seconds(self, frames: int) -> float:
    return float(frames * self.frontend.hop_samples / self.frontend.sample_rate)

  def clips(self) -> list[tuple[int, int]]:
    """(first frame, end) of the clips."""
    given = self.how.clip_timestamps
    parts = given.split(',') if isinstance(given, str) else given
    try:
      times = [float(t) for t in parts if t != '']
    except ValueError as error:
      raise InputError(
        f'clip_timestamps={given!r} was given: expected seconds, as start,end,start,end.'
      ) from error
    points = [round(t * self.rate) for t in times] or [0]
    if len(points) % 2:
      points.append(self.content)
    return list(zip(points[::2], points[1::2]))

  def run(self) -> Generator[_Request, _Reply, None]:
    """Asks for a decoding of each window in turn."""
    if self.how.initial_prompt is not None:
      self.prompt = self.decoder.tokenizer.encode(' ' + self.how.initial_prompt.strip())
      self.tokens = list(self.prompt)
    for seek, clip_end in self.clips():
      end = min(clip_end, self.content)
      while seek < end:
        size = min(self.window, end - seek)
        if not self._has_voice(seek, size):
          seek += size
          continue
        mel = np.zeros((self.window, self.mel.shape[1]), np.float32)
        mel[:size] = self.mel[seek : seek + size]
        reply = yield _Request(mel, tuple(self._prompt()), self.language)
        seek = self._take(reply, seek, size)

  def _has_voice(self, seek: int, size: int) -> bool:
    start, end = self.seconds(seek), self.seconds(seek + size)
    return self.voiced is None or any(a < end and start < b for a, b in self.voiced)

  def _prompt(self) -> list[int]:
    if not self.how.carry_initial_prompt:
      return self.tokens[self.reset :]
    room = self.decoder.model.n_text_ctx // 2 - 1 - len(self.prompt)
    since = self.tokens[max(len(self.prompt), self.reset) :]
    return self.prompt + since[-room:]

  def _take(self, reply: _Reply, seek: int, size: int) -> int:
    """Keeps what was said in a window; where the next one starts."""
    result = reply.result
    if self.how.silent(result):
      return seek + size
    found, after = self._cut(result, seek, size)
    if self.how.word_timestamps:
      after, skipped = self._words(reply, found, seek, size, after)
      if skipped:
        return after
    for segment in found:
      # Of no length, or without text.
      if segment.start == segment.end or not segment.text.strip():
        segment.text, segment.tokens = '', []
        segment.words = [] if self.how.word_timestamps else None
    for segment in found:
      segment.id = len(self.segments)
      self.segments.append(segment)
      self.tokens += segment.tokens
    if not self.how.condition_on_previous_text or result.temperature > 0.5:
      self.reset = len(self.tokens)
    return after

  def _cut(self, result: Result, seek: int, size: int) -> tuple[list[Segment], int]:
    """(segments between pairs of timestamps, where the next window starts)."""
    begin = self.decoder.tokenizer.timestamp_begin
    tokens = list(result.tokens)
    offset, step = self.seconds(seek), self.seconds(self.window // self.decoder.model.n_audio_ctx)
    stamps = [t >= begin for t in tokens]
    ends = [i for i in range(1, len(tokens)) if stamps[i - 1] and stamps[i]]
    if ends:
      single = self._ends_in_one(result)
      ends += [len(tokens)] if single else []
      found = []
      for i, j in zip([0, *ends], ends):
        part = tokens[i:j]
        times = (offset + (part[0] - begin) * step, offset + (part[-1] - begin) * step)
        found.append(self._segment(result, seek, *times, part))
      if single:
        return found, seek + size
      stride = self.window // self.decoder.model.n_audio_ctx
      return found, seek + (tokens[ends[-1] - 1] - begin) * stride
    duration = size * self.frontend.hop_samples / self.frontend.sample_rate
    said = [t for t in tokens if t >= begin]
    if said and said[-1] != begin:
      duration = (said[-1] - begin) * step
    return [self._segment(result, seek, offset, offset + duration, tokens)], seek + size

  def _ends_in_one(self, result: Result) -> bool:
    """Whether a single timestamp ends the text: nothing is said behind it."""
    begin = self.decoder.tokenizer.timestamp_begin
    return [t >= begin for t in result.tokens[-2:]] == [False, True]

  def _segment(self, result, seek, start, end, tokens) -> Segment:
    text = self.decoder.tokenizer.decode([t for t in tokens if t < self.decoder.tokenizer.eot])
    return Segment(
      -1, seek, start, end, text, tokens, result.temperature, result.avg_logprob,
      result.compression_ratio, result.no_speech_prob,
    )  # fmt: skip

  # -- Words -----------------------------------------------------------------------------------

  def _words(self, reply, found: list[Segment], seek, size, after) -> tuple[int, bool]:
    """(where the next window starts, whether this one is to be heard again from there)."""
    how = self.how
    add_words(
      found,
      self.decoder,
      self.decoder.with_language(self.language, how.options.task),
      reply.heard,
      size,
      self.last_speech,
      how.prepend_punctuations,
      how.append_punctuations,
    )
    single, offset = self._ends_in_one(reply.result), self.seconds(seek)
    end = end_of(found)
    if not single and end is not None and end > offset:
      after = round(end * self.rate)
    if how.hallucination_silence_threshold is not None:
      after, skipped = self._skip_silence(found, seek, size, after, single)
      if skipped:
        return after, True
    end = end_of(found)
    self.last_speech = self.last_speech if end is None else end
    return after, False

  def _skip_silence(self, found, seek, size, after, single) -> tuple[int, bool]:
    """Leaves out improbable text between silences; see `_words`."""
    threshold, offset = self.how.hallucination_silence_threshold or 0.0, self.seconds(seek)
    window_end = self.seconds(seek + self.window)
    end = end_of(found)
    if not single and end is not None and end > offset:
      after = round(end * self.rate) if window_end - end > threshold else seek + size
    first = with_words(found)
    if first is not None and improbable(first):
      gap = first.start - offset
      if gap > threshold:
        return seek + round(gap * self.rate), True
    last = self.last_speech
    for i, segment in enumerate(found):
      if not segment.words:
        continue
      if improbable(segment):
        following = with_words(found[i + 1 :])
        next_start = offset + self.seconds(size)
        if following is not None and following.words:
          next_start = following.words[0].start
        before = (
          segment.start - last > threshold
          or segment.start < threshold
          or segment.start - offset < 2.0
        )
        behind = (
          next_start - segment.end > threshold
          or (following is not None and improbable(following))
          or window_end - segment.end < 2.0
        )
        if before and behind:
          after = round(max(offset + 1, segment.start) * self.rate)
          if self.seconds(self.content) - segment.end < threshold:
            after = self.content
          del found[i:]
          break
      last = segment.end
    return after, False

  def transcript(self) -> Transcript:
    text = self.decoder.tokenizer.decode(self.tokens[len(self.prompt) :])
    return Transcript(text, self.segments, self.language or 'en')


# -- Decoding the windows of many --------------------------------------------------------------


def _decode(
  decoder: WhisperDecoder, how: Transcription, requests: Sequence[_Request], key: Key[Array, '']
) -> list[_Reply]:
  """Windows in one batch; those that fail are decoded again, at higher temperatures."""
  rows = _round_up(len(requests))
  mel = np.stack([r.mel for r in requests])
  heard = decoder.listen_to_mel(_repeated(mel, rows))
  results: list[Result | None] = [None] * len(requests)
  left = list(range(len(requests)))
  for i, temperature in enumerate(how.temperatures):
    own = how.at(temperature)
    size = _round_up(len(left))
    taken = _repeated(np.asarray(left), size).tolist()
    part = heard if size == rows and taken == list(range(rows)) else heard.rows(taken)
    each = [
      dataclasses.replace(own, prompt=requests[j].prompt or None, language=requests[j].language)
      for j in taken
    ]
    found = decoder.decode(part, each, jax.random.fold_in(key, i))
    for j, result in zip(left, found):
      results[j] = result
    left = [j for j, result in zip(left, found) if how.failed(result)]
    if not left:
      break
  return [_Reply(r, heard.tokens[j : j + 1]) for j, r in enumerate(results) if r is not None]


def _round_up(count: int) -> int:
  """A power of two: few sizes of batches, few programs."""
  return 1 << (count - 1).bit_length()


def _repeated(x: np.ndarray, rows: int) -> np.ndarray:
  """N rows, the last one again where there are fewer."""
  return np.concatenate([x, np.repeat(x[-1:], rows - len(x), axis=0)])


def transcribe_all(
  decoder: WhisperDecoder,
  recordings: Sequence[Float[np.ndarray, '_']],
  how: Transcription = USUAL,
  *,
  batch_size: int = 8,
  key: Key[Array, ''] | None = None,
  languages: Sequence[str | None] | None = None,
) -> list[Transcript]:
  """What was said in recordings of any length, windows of up to `batch_size` of them in one batch.

  Args:
    decoder: a Whisper.
    recordings: mono, in [-1, 1], at the model's sample rate.
    how: see `Transcription`.
    batch_size: recordings that are worked on at once.
    key: of the draws; None for `jax.random.key(0)`.
    languages: of the recordings, where they are known.

  Raises:
    InputError: a recording without samples, or with samples that are not finite.
  """
  for i, audio in enumerate(recordings):
    if not len(audio) or not np.isfinite(audio).all():
      raise InputError(
        f'Recording {i} has {len(audio)} samples, of which '
        f'{len(audio) - int(np.isfinite(audio).sum())} are not finite: give audio.'
      )
  key = jax.random.key(0) if key is None else key
  if how.windows != 'sequential':
    return _in_windows(decoder, recordings, how, batch_size, key)
  waiting = list(range(len(recordings)))[::-1]
  walks: dict[int, _Walk] = {}
  going: dict[int, Any] = {}
  asked: dict[int, _Request] = {}
  done: dict[int, Transcript] = {}
  count = 0

  def advance(i: int, reply: _Reply | None) -> None:
    try:
      asked[i] = going[i].send(reply)
    except StopIteration:
      done[i] = walks.pop(i).transcript()
      del going[i]
      asked.pop(i, None)

  while waiting or asked:
    while waiting and len(asked) < batch_size:
      i = waiting.pop()
      language = None if languages is None else languages[i]
      walks[i] = _Walk(decoder, how, np.asarray(recordings[i]), language)
      _settle_language(decoder, walks[i])
      going[i] = walks[i].run()
      advance(i, None)
    if not asked:
      continue
    numbers = list(asked)
    replies = _decode(decoder, how, [asked[i] for i in numbers], jax.random.fold_in(key, count))
    count += 1
    for i, reply in zip(numbers, replies):
      advance(i, reply)
  return [done[i] for i in range(len(recordings))]


def _settle_language(decoder: WhisperDecoder, walk: _Walk) -> None:
  """The language of a recording: given, English, or that of its first window."""
  if walk.language is not None:
    return
  if not decoder.model.multilingual:
    walk.language = 'en'
    return
  mel = np.zeros((1, walk.window, walk.mel.shape[1]), np.float32)
  first = walk.mel[: walk.window]
  mel[0, : len(first)] = first
  walk.language = best_language(decoder.detect_language(decoder.listen_to_mel(mel))[0])


def _in_windows(
  decoder: WhisperDecoder,
  recordings: Sequence[np.ndarray],
  how: Transcription,
  batch_size: int,
  key: Key[Array, ''],
) -> list[Transcript]:
  """`transcribe_all` with windows that are all known before: they are recordings of their own."""
  frontend, tokenizer = decoder.model.frontend, decoder.tokenizer
  rate, hop = frontend.sample_rate, frontend.hop_samples
  longest = decoder.model.window_frames * hop / rate
  each = dataclasses.replace(how, windows='sequential')
  cuts, languages = [], []
  for audio in recordings:
    cuts.append(whisper_windows.cut(how.windows, audio, rate, longest, how.overlap))
    first = slice(*cuts[-1][0]) if cuts[-1] else slice(1)
    walk = _Walk(decoder, dataclasses.replace(each, skip_unvoiced=False), audio[first], None)
    if cuts[-1]:
      _settle_language(decoder, walk)
    languages.append(walk.language)
  pieces = [(i, a, b) for i, own in enumerate(cuts) for a, b in own]
  found = transcribe_all(
    decoder,
    [recordings[i][a:b] for i, a, b in pieces],
    each,
    batch_size=batch_size,
    key=key,
    languages=[languages[i] for i, *_ in pieces],
  )
  results, each_found = [], iter(found)
  for own, language in zip(cuts, languages):
    times = [(a / rate, b / rate) for a, b in own]
    own_found = [next(each_found).segments for _ in own]
    segments = whisper_windows.joined(times, own_found, tokenizer.decode, tokenizer.eot, rate / hop)
    text = ''.join(segment.text for segment in segments)
    results.append(Transcript(text, segments, language or 'en'))
  return results


def transcribe(
  decoder: WhisperDecoder,
  audio: Float[np.ndarray, ' t'],
  how: Transcription = USUAL,
  *,
  key: Key[Array, ''] | None = None,
) -> Transcript:
  """What was said in one recording, see `transcribe_all`."""
  return transcribe_all(decoder, [audio], how, key=key)[0]

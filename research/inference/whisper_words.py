"""When each word was said: attention of the decoder to the audio, aligned by dynamic time warping.

Source: openai/whisper, timing.py. Letters: h heads, u tokens, n audio tokens.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Float, Int

from research.inference.generate import WIDTHS
from research.inference.whisper_decoding import WhisperDecoder
from research.inference.whisper_segments import APPENDED, PREPENDED, Segment, Word

MEDIAN_WIDTH = 7
SENTENCE_ENDS = '.。!！?？'
LONGEST_MEDIAN = 0.7  # seconds: no median duration of a word is taken as longer


# -- Arrays ------------------------------------------------------------------------------------


def median_filter(x: Float[np.ndarray, '*b n'], width: int) -> Float[np.ndarray, '*b n']:
  """Median of `width` neighbours on the last axis, mirrored at the ends without repeating them;
  what is not longer than half of it stays."""
  if x.shape[-1] <= width // 2:
    return x
  sizes = (1,) * (x.ndim - 1) + (width,)
  return scipy.ndimage.median_filter(x, size=sizes, mode='mirror')


def warp(cost: Float[np.ndarray, 'u n']) -> tuple[Int[np.ndarray, ' m'], Int[np.ndarray, ' m']]:
  """The cheapest path from the first to the last cell by steps of one row, one column, or both:
  (rows, columns).

  Sums are float32, as upstream. Of equally cheap ones the step of one column comes first.
  """
  rows, columns = cost.shape
  total = np.full((rows + 1, columns + 1), np.inf, np.float32)
  total[0, 0] = 0
  step = np.zeros((rows + 1, columns + 1), np.int8)
  cost = np.asarray(cost, np.float64)
  # Cells of a diagonal depend on the two before it alone.
  for d in range(2, rows + columns + 1):
    i = np.arange(max(1, d - columns), min(rows, d - 1) + 1)
    j = d - i
    both, down, right = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
    diagonal = (both < down) & (both < right)
    vertical = (down < both) & (down < right)
    before = np.where(diagonal, both, np.where(vertical, down, right))
    total[i, j] = cost[i - 1, j - 1] + before
    step[i, j] = np.where(diagonal, 0, np.where(vertical, 1, 2))
  step[0, :], step[:, 0] = 2, 1
  path, (i, j) = [], (rows, columns)
  while i > 0 or j > 0:
    path.append((i - 1, j - 1))
    kind = step[i, j]
    i, j = i - (kind != 2), j - (kind != 1)
  found = np.asarray(path[::-1])
  return found[:, 0], found[:, 1]


# -- Alignment ---------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=('model',))
def _attention(model, variables, heard, tokens, end):
  """(scaled products of the alignment heads [h, u, n], log-probabilities [u] of the tokens that
  follow, among those of text)."""

  def run(module, heard, tokens):
    return module.decoder(tokens, heard, collect=True)

  logits, _, found = model.apply(variables, heard, tokens, method=run)
  layers, heads = (jnp.asarray(x) for x in zip(*model.alignment_heads))
  seen = found['cross_logits'][layers, 0, heads]
  text = jnp.where(jnp.arange(logits.shape[-1]) < end, logits[0], -jnp.inf)
  following = jnp.concatenate([tokens[0, 1:], jnp.zeros(1, jnp.int32)])
  picked = jnp.take_along_axis(jax.nn.log_softmax(text), following[:, None], axis=1)
  return seen, picked[:, 0]


def attention(
  decoder: WhisperDecoder, heard: Any, tokens: Sequence[int]
) -> tuple[Float[np.ndarray, 'h u n'], Float[np.ndarray, ' u']]:
  """Products of queries and keys of the alignment heads for a sequence of tokens, and the
  probability of the token behind each among those of text.

  Args:
    decoder: a Whisper.
    heard: audio tokens [1, n, d] of a window.
    tokens: of the whole sequence.
  """
  width = next((w for w in WIDTHS if w >= len(tokens)), len(tokens))
  width = min(width, decoder.model.n_text_ctx) if len(tokens) <= decoder.model.n_text_ctx else width
  padded = np.zeros((1, width), np.int32)
  padded[0, : len(tokens)] = tokens
  seen, logprobs = jax.device_get(
    _attention(
      decoder.model, decoder.variables, heard, jnp.asarray(padded),
      jnp.int32(decoder.tokenizer.eot),
    )
  )  # fmt: skip
  return seen[:, : len(tokens)], np.exp(logprobs[: len(tokens)])


def alignment_matrix(
  products: Float[np.ndarray, 'h u n'], audio_tokens: int, width: int = MEDIAN_WIDTH
) -> Float[np.ndarray, 'u m']:
  """How much each token attends to each audio token: softmax over the audio, standardised over the
  tokens, smoothed by a median, averaged over the heads."""
  x = products[:, :, :audio_tokens].astype(np.float32)
  weights = np.exp(x - x.max(axis=-1, keepdims=True))
  weights = weights / weights.sum(axis=-1, keepdims=True)
  mean, std = weights.mean(axis=-2, keepdims=True), weights.std(axis=-2, keepdims=True)
  # A window of one audio token has no deviation: NaN, which `warp` walks through as upstream does.
  with np.errstate(invalid='ignore'):
    return median_filter((weights - mean) / std, width).mean(axis=0)


def find_words(
  decoder: WhisperDecoder,
  tokenizer: Any,
  heard: Any,
  text: Sequence[int],
  frames: int,
) -> list[Word]:
  """Words of text tokens with their times in the window.

  Args:
    decoder: a Whisper.
    tokenizer: with the language and task of the text.
    heard: audio tokens [1, n, d] of the window.
    text: tokens of text, without timestamps.
    frames: mel frames of the window that are not padding.
  """
  if not text:
    return []
  start = len(tokenizer.sot_sequence)
  tokens = [*tokenizer.sot_sequence, tokenizer.no_timestamps, *text, tokenizer.eot]
  seen, probabilities = attention(decoder, heard, tokens)
  matrix = alignment_matrix(seen, frames // 2)[start:-1]
  rows, columns = warp(-matrix)
  words, groups = tokenizer.split_to_word_tokens([*text, tokenizer.eot])
  if len(groups) <= 1:
    return []
  # The first audio token of every text token.
  first = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
  seconds = columns[first] / (decoder.model.frontend.sample_rate / decoder.model.token_samples)
  ends = np.cumsum([len(group) for group in groups[:-1]])
  of_text = probabilities[start : start + len(text)]
  found = []
  for word, group, i, j in zip(words, groups, [0, *ends], ends):
    mean = float(np.mean(of_text[i:j]))
    found.append(Word(word, list(group), float(seconds[i]), float(seconds[j]), mean))
  return found


# -- Punctuation and durations -----------------------------------------------------------------


def merge_punctuation(words: list[Word], prepended: str, appended: str) -> None:
  """Puts punctuation to the word behind or before it; what is left of it is an empty word."""
  following = len(words) - 1
  for i in range(len(words) - 2, -1, -1):
    mark, word = words[i], words[following]
    if mark.word.startswith(' ') and mark.word.strip() in prepended:
      word.word, word.tokens = mark.word + word.word, mark.tokens + word.tokens
      mark.word, mark.tokens = '', []
    else:
      following = i
  previous = 0
  for i in range(1, len(words)):
    word, mark = words[previous], words[i]
    if not word.word.endswith(' ') and mark.word in appended:
      word.word, word.tokens = word.word + mark.word, word.tokens + mark.tokens
      mark.word, mark.tokens = '', []
    else:
      previous = i


def _durations(words: Sequence[Word]) -> tuple[float, float]:
  """(median, longest believable) duration of a word in seconds."""
  durations = np.array([word.end - word.start for word in words])
  durations = durations[durations.nonzero()]
  median = float(np.median(durations)) if len(durations) else 0.0
  median = min(LONGEST_MEDIAN, median)
  return median, 2 * median


def _cut_at_sentences(words: Sequence[Word], longest: float) -> None:
  """Words and marks at the end of a sentence do not last longer than is believable."""
  for before, word in itertools.pairwise(words):
    if word.end - word.start > longest:
      if word.word in SENTENCE_ENDS:
        word.end = word.start + longest
      elif before.word in SENTENCE_ENDS:
        word.start = word.end - longest


def add_words(
  segments: Sequence[Segment],
  decoder: WhisperDecoder,
  tokenizer: Any,
  heard: Any,
  frames: int,
  last_speech: float,
  prepended: str = PREPENDED,
  appended: str = APPENDED,
) -> None:
  """Gives the segments of one window their words, and corrects where they start and end.

  Args:
    segments: in order; changed in place.
    decoder, tokenizer, heard, frames: see `find_words`.
    last_speech: seconds at which the last word before the window ended.
    prepended, appended: punctuation that belongs to the word behind or before it.
  """
  if not segments:
    return
  texts = [[t for t in segment.tokens if t < tokenizer.eot] for segment in segments]
  words = find_words(decoder, tokenizer, heard, list(itertools.chain(*texts)), frames)
  median, longest = _durations(words)
  if any(word.end != word.start for word in words):
    _cut_at_sentences(words, longest)
  merge_punctuation(words, prepended, appended)
  frontend = decoder.model.frontend
  offset = segments[0].seek * frontend.hop_samples / frontend.sample_rate
  queue = iter(words)
  for segment, text in zip(segments, texts):
    own, taken = [], 0
    while taken < len(text) and (word := next(queue, None)) is not None:
      taken += len(word.tokens)
      if word.word:
        times = round(offset + word.start, 2), round(offset + word.end, 2)
        own.append(dataclasses.replace(word, start=times[0], end=times[1]))
    if own:
      _correct(segment, own, median, longest, last_speech)
      last_speech = segment.end
    segment.words = own


def _correct(
  segment: Segment, words: list[Word], median: float, longest: float, last_speech: float
) -> None:
  """First words behind a pause are not too long; of times of a segment and of its words at its
  ends those are taken that are believable."""
  first, last = words[0], words[-1]
  second = words[1] if len(words) > 1 else None
  late = first.end - last_speech > 4 * median
  long = first.end - first.start > longest
  if late and (long or (second is not None and second.end - first.start > 2 * longest)):
    if second is not None and second.end - second.start > longest:
      first.end = second.start = max(second.end / 2, second.end - longest)
    first.start = max(0, first.end - longest)
  if segment.start < first.end and segment.start - 0.5 > first.start:
    first.start = max(0, min(first.end - median, segment.start))
  else:
    segment.start = first.start
  if segment.end > last.start and segment.end + 0.5 < last.end:
    last.end = max(last.start + median, segment.end)
  else:
    segment.end = last.end

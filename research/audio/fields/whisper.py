"""Transcripts as Whisper's decoder reads and writes them."""

import dataclasses
import re
from typing import Any, ClassVar

import numpy as np
from absl import logging
from jaxtyping import Bool

from research.audio.clips import Source
from research.audio.fields import Context, Crops, Field, Rows
from research.audio.fields.transcript import GRACE, texts
from research.errors import InputError
from research.text.whisper import BYTES, WhisperTokenizer, read_whisper_tokenizer

TIMES = re.compile(r'<\|(\d+\.\d\d)\|>')
NOTHING = -1


@dataclasses.dataclass(frozen=True)
class Whisper(Field):
  """Gives 'tokens' i32 [b, u], the prompt, the start and the text of every clip, and 'targets' i32
  [b, u], the token that follows each: -1 within the prompt and behind the end.

  A row is [previous text,] start, language, task, [no timestamps,] text; English-only models have
  neither language nor task (openai/whisper, decoding.py). Clips must not be longer than the
  batches; rows with more tokens than the model has positions are left out, and counted.

  Attributes:
    tokenizer: file or folder of the checkpoint's tokenizer; 'bytes' needs none and is for trials.
    column: column of transcripts. With `timestamps` they may hold times of segments, as
      '<|0.00|> Hello.<|1.20|>'; a transcript without any is one segment.
    language: code or name.
    language_column: column of the language of each clip instead.
    task: 'transcribe' or 'translate'.
    timestamps: learn times too.
    prompt_column: column of what was said before each clip ('' for nothing); its last tokens count.
  """

  tokenizer: str = BYTES
  column: str = 'transcript'
  language: str = 'en'
  language_column: str | None = None
  task: str = 'transcribe'
  timestamps: bool = False
  prompt_column: str | None = None

  WHOLE: ClassVar[bool] = True

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have a transcript; raises InputError if none has, or there is no such column."""
    found = np.array([bool(text.strip()) for text in texts(source, self.column)])
    if not found.any():
      raise InputError(f'No clip of {source.name!r} has a {self.column!r}.')
    return found

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """About as many tokens as half a minute of speech has."""
    width = min(128, context.model.n_text_ctx)
    return {key: np.zeros((clips, width), np.int32) for key in ('tokens', 'targets')}

  def reader(self, model: Any) -> WhisperTokenizer:
    """The tokenizer, which must fit the model's vocabulary."""
    if not hasattr(model, 'n_text_ctx'):
      raise InputError(
        f'config.data.fields.{self.key} gives the tokens of Whisper, and the model is none: take '
        'model whisper, or another field.'
      )
    return read_whisper_tokenizer(self.tokenizer, model.n_vocab, self.language, self.task)

  def open(self, source: Source, context: Context) -> 'WhisperRows':
    """Tokenizes all transcripts.

    Raises:
      InputError: a tokenizer of another vocabulary than the model's, an unknown language, a time
        that goes backwards, or no transcript that fits.
    """
    tokenizer = self.reader(context.model)
    languages = self._column(source, self.language_column, self.language)
    prompts = self._column(source, self.prompt_column, '')
    rows = []
    durations = np.asarray(source.durations())
    for i, text in enumerate(texts(source, self.column)):
      own = tokenizer.with_options(language=languages[i] or self.language)
      before = own.encode(f' {prompts[i].strip()}') if prompts[i].strip() else []
      said = self._said(own, text.strip(), float(durations[i]), source.id(i))
      rows.append(_row(own, before, said, context.model.n_text_ctx, self.timestamps))
    long = sum(len(ids) > context.model.n_text_ctx for ids, _ in rows)
    if long == len(rows):
      raise InputError(
        f'Every transcript has more than the {context.model.n_text_ctx} tokens that the model has '
        'positions for: cut the recordings into shorter clips.'
      )
    if long:
      logging.warning(
        '%d of %d transcripts have more than %d tokens and are left out.',
        long, len(rows), context.model.n_text_ctx,
      )  # fmt: skip
    kept = [ids if len(ids) <= context.model.n_text_ctx else None for ids, _ in rows]
    return WhisperRows(kept, [start for _, start in rows], durations, context.sample_rate)

  def _column(self, source: Source, column: str | None, default: str) -> list[str]:
    return [default] * len(source) if column is None else texts(source, column)

  def _said(self, tokenizer: WhisperTokenizer, text: str, seconds: float, name: str) -> list[int]:
    """Ids of a transcript, with its times or without."""
    pieces = TIMES.split(text)  # text, time, text, time, …
    if not self.timestamps:
      return tokenizer.encode(' ' + ' '.join(' '.join(pieces[::2]).split()))
    if len(pieces) == 1:
      pieces = ['', '0.00', text, f'{min(seconds, 30.0):.2f}', '']
    times = [float(t) for t in pieces[1::2]]
    if times != sorted(times) or times[-1] > 30.0 or pieces[0].strip() or pieces[-1].strip():
      raise InputError(
        f'Clip {name!r}: its transcript must start and end with a time, and times must rise, up to '
        f'30 s; got {text[:60]!r}.'
      )
    ids = []
    for k, piece in enumerate(pieces[1:], start=1):
      if k % 2:
        ids.append(tokenizer.timestamp_begin + round(float(piece) / 0.02))
      elif piece.strip():
        ids += tokenizer.encode(f' {piece.strip()}')
    return ids


def _row(
  tokenizer: WhisperTokenizer, before: list[int], said: list[int], positions: int, timestamps: bool
) -> tuple[np.ndarray, int]:
  """(ids of a row with its end, the number of them before the first target)."""
  # As in decoding, the prompt takes less than half of the positions.
  prompt = [tokenizer.sot_prev, *before[-(positions // 2 - 1) :]] if before else []
  start = [*tokenizer.sot_sequence] if timestamps else [
    *tokenizer.sot_sequence_including_notimestamps
  ]  # fmt: skip
  ids = np.array([*prompt, *start, *said, tokenizer.eot], np.int32)
  return ids, len(prompt) + len(start)


@dataclasses.dataclass
class WhisperRows(Rows):
  """Ids of every clip, None where there are too many; how many of them nothing is learned of;
  durations (seconds), and the sample rate (Hz)."""

  ids: list[np.ndarray | None]
  starts: list[int]
  durations: np.ndarray
  sample_rate: int

  def __post_init__(self):
    longest = max(len(ids) for ids in self.ids if ids is not None)
    # The end is a target, not a token. Multiples of 8: few widths over the data of a run.
    self._width = -(-(longest - 1) // 8) * 8

  def fits(self, row: int, samples: int) -> bool:
    """Whether a whole clip, and all of its tokens, can be in a batch of N samples."""
    whole = self.durations[row] <= samples / self.sample_rate + GRACE
    return bool(whole) and self.ids[row] is not None

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Tokens and targets of the valid rows; -1 for nothing."""
    tokens = np.full((len(crops.index), self._width), NOTHING, np.int32)
    targets = np.full_like(tokens, NOTHING)
    for i, row in enumerate(crops.index):
      ids = self.ids[row]
      if crops.valid[i] and ids is not None:
        tokens[i, : len(ids) - 1] = ids[:-1]
        first = self.starts[row] - 1  # the last token of the start predicts the first of the text
        targets[i, first : len(ids) - 1] = ids[first + 1 :]
    return {'tokens': tokens, 'targets': targets}

"""Transcripts of clips as padded token ids."""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from absl import logging
from jaxtyping import Bool, Float

from research.audio.clips import Source
from research.audio.fields import Context, Crops, Field, Rows
from research.capabilities import Hears, spells
from research.errors import InputError, unknown
from research.text import characters

# Headers of 10.0001 s mean 10 s.
GRACE = 1e-3
# Of LibriSpeech, with spaces.
CHARACTERS_PER_SECOND = 15


@dataclasses.dataclass(frozen=True)
class Transcript(Field):
  """Gives 'tokens' i32 [b, u], the token ids of transcripts, padded with -1. The vocabulary is that
  of the model, or English characters.

  Clips must not be longer than the batches: the transcript of a crop is unknown.

  Attributes:
    column: column of transcripts.
  """

  column: str = 'transcript'

  WHOLE: ClassVar[bool] = True

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have a transcript that is not empty.

    Raises:
      InputError: no clip has one, or there is no such column.
    """
    found = np.array([bool(t) for t in texts(source, self.column)])
    if not found.any():
      raise InputError(f'No clip of {source.name!r} has a {self.column!r}; CTC needs transcripts.')
    return found

  def example(self, context: Context, clips: int, samples: int) -> dict[str, np.ndarray]:
    """As many characters as English speech of that length has."""
    count = max(1, round(CHARACTERS_PER_SECOND * samples / context.sample_rate))
    return {'tokens': np.zeros((clips, count), np.int32)}

  def open(self, source: Source, context: Context) -> 'Tokens':
    """Encodes all transcripts.

    Raises:
      InputError: a clip without a transcript (the model would learn silence from it). In training
        also if no character of the transcripts is in the vocabulary, or every transcript is too
        long for its clip.
    """
    transcripts = texts(source, self.column)
    if not all(transcripts):
      raise InputError(
        f'{sum(not t for t in transcripts)} of {len(transcripts)} clips of {source.name!r} have no '
        f'{self.column!r}; CTC needs transcripts: leave out clips without one.'
      )
    own = spells(context.model)
    symbols = context.model.vocabulary if own else characters.CHARACTERS
    encode = functools.partial(characters.encode, symbols=symbols)
    ids = list(map(encode, transcripts))
    tokens = Tokens(ids, np.asarray(source.durations()), context.sample_rate)
    if own and context.train:
      check_characters(transcripts, symbols)
      if isinstance(context.model, Hears):
        tokens.check_frames(context.model.frontend)
    return tokens


def texts(source: Source, column: str) -> list[str]:
  """The transcript of each clip, a string or a list of words joined; '' if unknown.

  Raises:
    InputError: there is no such column.
  """
  if column not in source.column_names:
    raise unknown(f'transcript column of {source.name!r}', column, source.column_names)
  return [v if isinstance(v, str) else ' '.join(map(str, v)) for v in source.column(column)]


def check_characters(transcripts: Sequence[str], symbols: Sequence[str]) -> None:
  """Warns of characters that are not in the vocabulary; raises InputError if none of them is."""
  counts = collections.Counter(
    c for text in transcripts for c in characters.in_case(text, symbols) if not c.isspace()
  )
  ids = characters.ids_of(symbols)
  lacking = {c: n for c, n in counts.items() if characters.spelt(c, ids) is None}
  if not lacking:
    return
  fraction = sum(lacking.values()) / counts.total()
  commonest = ' '.join(sorted(lacking, key=lambda c: -lacking[c])[:20])
  if fraction == 1:
    raise InputError(
      f'No character of the transcripts ({commonest}) is in the vocabulary: {" ".join(symbols)}.'
    )
  logging.warning(
    "%.3g %% of the transcripts' characters are not in the vocabulary and become %s: %s",
    100 * fraction,
    characters.UNKNOWN,
    commonest,
  )


@dataclasses.dataclass
class Tokens(Rows):
  """Token ids of every transcript, durations of the clips (seconds), the sample rate (Hz), and the
  name of the array in a batch."""

  ids: list[np.ndarray]
  durations: Float[np.ndarray, 'clips']
  sample_rate: int
  key: str = 'tokens'

  def __post_init__(self):
    order = np.argsort(self.durations, kind='stable')
    counts = np.array([len(x) for x in self.ids])[order]
    self._sorted, self._longest = self.durations[order], np.maximum.accumulate(counts)

  def fits(self, row: int, samples: int) -> bool:
    """Whether a whole clip fits in a batch of N samples."""
    return bool(self.durations[row] <= samples / self.sample_rate + GRACE)

  def check_lengths(self, shortest: int, longest: int) -> None:
    """Raises InputError if a clip is longer than the longest batch."""
    seconds = longest / self.sample_rate
    long = int((self.durations > seconds + GRACE).sum())
    if long:
      raise InputError(
        f'{long} clips are longer than {seconds:g} s, and the transcript of a crop is unknown: '
        'raise seconds, or leave out longer clips.'
      )

  def check_frames(self, frontend: Any) -> None:
    """Warns of clips with fewer frames than CTC needs for their transcripts, which give no loss;
    raises InputError if all clips are such."""
    if frontend.name != 'waveform':  # Patches of spectrograms are not frames.
      return
    # Files that cannot be opened have duration 0; they are reported as bad files.
    opened = [(x, s) for x, s in zip(self.ids, self.durations.tolist(), strict=True) if s > 0]
    need = [len(x) + int((x[1:] == x[:-1]).sum()) for x, _ in opened]
    frames = [frontend.frames(round(s * self.sample_rate)) for _, s in opened]
    short = sum(n > have for n, have in zip(need, frames, strict=True))
    if short and short == len(need):
      raise InputError(
        'Every transcript needs more frames than its clip has: do the transcripts match the clips?'
      )
    if short:
      logging.warning(
        '%d of %d clips have fewer frames than their transcripts need, so CTC ignores them.',
        short,
        len(need),
      )

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Token ids of clips, padded with -1; invalid rows are empty. u is the maximum over all clips
    that fit in the batch, so that batches of one length have one shape."""
    seconds = crops.samples / self.sample_rate
    fitting = int(np.searchsorted(self._sorted, seconds + GRACE, side='right'))
    width = max(1, int(self._longest[fitting - 1]) if fitting else 1)
    out = np.full((len(crops.index), width), -1, np.int32)
    for i, row in enumerate(crops.index):
      if crops.valid[i]:
        out[i, : len(self.ids[row])] = self.ids[row]
    return {self.key: out}

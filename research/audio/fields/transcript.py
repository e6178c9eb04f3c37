"""Transcripts of clips as padded arrays of symbols."""

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

# A header of 10.0001 s is ten seconds.
GRACE = 1e-3


@dataclasses.dataclass(frozen=True)
class Transcript(Field):
  """Gives 'tokens' i32 [b, u], the symbols of what was said, -1 behind the end; the symbols are
  those of the model's vocabulary, or of English letters.

  No clip may be longer than the batches, since a crop does not say the transcript of its clip.

  Attributes:
    column: that holds the transcripts.
  """

  column: str = 'transcript'

  WHOLE: ClassVar[bool] = True

  def known(self, source: Source) -> Bool[np.ndarray, 'clips']:
    """Which clips have a transcript; an empty one says nothing.

    Raises:
      InputError: none has one, or there is no such column.
    """
    found = np.array([bool(t) for t in texts(source, self.column)])
    if not found.any():
      raise InputError(f'No clip of {source.name!r} has a {self.column!r}; CTC needs transcripts.')
    return found

  def open(self, source: Source, context: Context) -> 'Tokens':
    """Symbols of all clips.

    Raises:
      InputError: a clip without a transcript (silence would be learned from it); in training also
        transcripts of other characters than the vocabulary's, or of other clips.
    """
    said = texts(source, self.column)
    if not all(said):
      raise InputError(
        f'{sum(not t for t in said)} of {len(said)} clips of {source.name!r} have no '
        f'{self.column!r}; CTC needs transcripts: leave such clips out.'
      )
    own = spells(context.model)
    symbols = context.model.vocabulary if own else characters.LETTERS
    encode = functools.partial(characters.encode, symbols=symbols)
    tokens = Tokens(list(map(encode, said)), np.asarray(source.durations()), context.sample_rate)
    if own and context.train:
      check_characters(said, symbols)
      if isinstance(context.model, Hears):
        tokens.check_frames(context.model.frontend)
    return tokens


def texts(source: Source, column: str) -> list[str]:
  """What was said in each clip: a text, or the words of a list; '' where that is not known.

  Raises:
    InputError: there is no such column.
  """
  if column not in source.column_names:
    raise unknown(f'transcript column of {source.name!r}', column, source.column_names)
  return [v if isinstance(v, str) else ' '.join(map(str, v)) for v in source.column(column)]


def check_characters(said: Sequence[str], symbols: Sequence[str]) -> None:
  """Warns of characters that a vocabulary has no symbol for; raises InputError if it has none."""
  counts = collections.Counter(
    c for one in said for c in characters.in_case(one, symbols) if not c.isspace()
  )
  lacking = {c: n for c, n in counts.items() if c not in symbols or c == characters.BOUNDARY}
  if not lacking:
    return
  share = sum(lacking.values()) / counts.total()
  most = ' '.join(sorted(lacking, key=lambda c: -lacking[c])[:20])
  if share == 1:
    raise InputError(
      f'The vocabulary has no character of the transcripts ({most}); it has {" ".join(symbols)}.'
    )
  logging.warning(
    "%.3g %% of the transcripts' characters are not in the vocabulary and become %s: %s",
    100 * share, characters.UNKNOWN, most,
  )  # fmt: skip


@dataclasses.dataclass
class Tokens(Rows):
  """Symbols of every clip's transcript, how long the clips are (seconds), and their rate (Hz)."""

  ids: list[np.ndarray]
  durations: Float[np.ndarray, 'clips']
  sample_rate: int

  def __post_init__(self):
    order = np.argsort(self.durations, kind='stable')
    counts = np.array([len(x) for x in self.ids])[order]
    self._sorted, self._longest = self.durations[order], np.maximum.accumulate(counts)

  def fits(self, row: int, samples: int) -> bool:
    """Whether a clip is whole in a batch of N samples."""
    return bool(self.durations[row] <= samples / self.sample_rate + GRACE)

  def check_lengths(self, shortest: int, longest: int) -> None:
    """Raises InputError where a clip is longer than the longest batch."""
    seconds = longest / self.sample_rate
    long = int((self.durations > seconds + GRACE).sum())
    if long:
      raise InputError(
        f'{long} clips are longer than {seconds:g} s, and a cropped clip does not say its '
        'transcript: raise seconds, or leave such clips out.'
      )

  def check_frames(self, frontend: Any) -> None:
    """Warns of clips with fewer frames than their transcripts need, which CTC learns nothing from;
    raises InputError if there are no others."""
    if frontend.name != 'waveform':  # Patches of spectrograms are not one to a frame.
      return
    # Files that cannot be opened have no duration: that is another mistake, told elsewhere.
    heard = [(x, s) for x, s in zip(self.ids, self.durations.tolist(), strict=True) if s > 0]
    need = [len(x) + int((x[1:] == x[:-1]).sum()) for x, _ in heard]
    frames = [frontend.frames(round(s * self.sample_rate)) for _, s in heard]
    short = sum(n > have for n, have in zip(need, frames, strict=True))
    if short and short == len(need):
      raise InputError(
        'Every transcript is longer than its clip has frames: are they of these clips?'
      )
    if short:
      logging.warning(
        '%d of %d clips have fewer frames than their transcripts need: nothing is learned of them.',
        short,
        len(need),
      )

  def arrays(self, crops: Crops) -> dict[str, np.ndarray]:
    """Symbols of clips, -1 behind their ends; rows that are not valid are empty. u is that of the
    longest transcript of all clips that fit, so that batches of one length have one shape."""
    seconds = crops.samples / self.sample_rate
    fitting = int(np.searchsorted(self._sorted, seconds + GRACE, side='right'))
    width = max(1, int(self._longest[fitting - 1]) if fitting else 1)
    out = np.full((len(crops.index), width), -1, np.int32)
    for i, row in enumerate(crops.index):
      if crops.valid[i]:
        out[i, : len(self.ids[row])] = self.ids[row]
    return {'tokens': out}

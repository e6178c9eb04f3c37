"""Transcripts of clips as padded arrays of symbols."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int

from research.audio.clips import Source
from research.errors import InputError, unknown
from research.text import characters

# A header of 10.0001 s is ten seconds.
GRACE = 1e-3


def texts(source: Source, column: str) -> list[str]:
  """What was said in each clip: a text, or the words of a list; '' where that is not known.

  Raises:
    InputError: there is no such column.
  """
  if column not in source.column_names:
    raise unknown(f'transcript column of {source.name!r}', column, source.column_names)
  return [v if isinstance(v, str) else ' '.join(map(str, v)) for v in source.column(column)]


def demand_letters(said: Sequence[str], symbols: Sequence[str]) -> None:
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
class Tokens:
  """Symbols of every clip's transcript, and how long the clips are (seconds)."""

  ids: list[np.ndarray]
  durations: Float[np.ndarray, 'clips']

  def __post_init__(self):
    order = np.argsort(self.durations, kind='stable')
    counts = np.array([len(x) for x in self.ids])[order]
    self._sorted, self._longest = self.durations[order], np.maximum.accumulate(counts)

  @classmethod
  def of(cls, source: Source, column: str | None, symbols: Sequence[str]) -> 'Tokens | None':
    """Of a column of the source; None without a column.

    Raises:
      InputError: where a clip has no transcript: silence would be learned from it.
    """
    if column is None:
      return None
    said = texts(source, column)
    if not all(said):
      raise InputError(
        f'{sum(not t for t in said)} of {len(said)} clips of {source.name!r} have no {column!r}; '
        'CTC needs transcripts: leave such clips out.'
      )
    encode = functools.partial(characters.encode, symbols=symbols)
    return cls(list(map(encode, said)), np.asarray(source.durations()))

  def fits(self, row: int, seconds: float) -> bool:
    """Whether a clip is whole in a batch of so many seconds."""
    return bool(self.durations[row] <= seconds + GRACE)

  def demand_fit(self, seconds: float) -> None:
    """Raises InputError where a clip is longer than the longest batch."""
    long = int((self.durations > seconds + GRACE).sum())
    if long:
      raise InputError(
        f'{long} clips are longer than {seconds:g} s, and a cropped clip does not say its '
        'transcript: raise seconds, or leave such clips out.'
      )

  def demand_room(self, frames: Callable[[float], int]) -> None:
    """Warns of clips with fewer frames (of so many seconds) than their transcripts need, which CTC
    learns nothing from; raises InputError if there are no others."""
    # Files that cannot be opened have no duration: that is another mistake, told elsewhere.
    heard = [(x, s) for x, s in zip(self.ids, self.durations.tolist(), strict=True) if s > 0]
    need = [len(x) + int((x[1:] == x[:-1]).sum()) for x, _ in heard]
    short = sum(n > frames(s) for n, (_, s) in zip(need, heard, strict=True))
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

  def padded(
    self, rows: Int[np.ndarray, 'b'], valid: Bool[np.ndarray, 'b'], seconds: float
  ) -> Int[np.ndarray, 'b u']:
    """Symbols of clips, -1 behind their ends; rows that are not valid are empty. u is that of the
    longest transcript of all clips that fit, so that batches of one length have one shape."""
    fitting = int(np.searchsorted(self._sorted, seconds + GRACE, side='right'))
    width = max(1, int(self._longest[fitting - 1]) if fitting else 1)
    out = np.full((len(rows), width), -1, np.int32)
    for i, row in enumerate(rows):
      if valid[i]:
        out[i, : len(self.ids[row])] = self.ids[row]
    return out

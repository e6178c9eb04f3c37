"""Transcripts of clips as padded arrays of symbols."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from research.audio import text
from research.audio.clips import Source
from research.errors import InputError, unknown

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
    encode = functools.partial(text.encode, symbols=symbols)
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

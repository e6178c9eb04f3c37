"""Transcripts of clips as padded arrays of symbols."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from research.audio import text
from research.audio.clips import Source
from research.errors import InputError, unknown

# A header of 10.0001 s is ten seconds.
GRACE = 1e-3


@dataclasses.dataclass
class Tokens:
  """Symbols of every clip's transcript, and how long the clips are (seconds)."""

  ids: list[np.ndarray]
  durations: Float[np.ndarray, 'clips']

  @classmethod
  def of(cls, source: Source, column: str | None, symbols: Sequence[str]) -> 'Tokens | None':
    """Of a column of the source; None without a column. Raises InputError where there is none."""
    if column is None:
      return None
    if column not in source.column_names:
      raise unknown(f'transcript column of {source.name!r}', column, source.column_names)
    texts = source.column(column)
    if not any(texts):
      raise InputError(f'No clip of {source.name!r} has a {column!r}; CTC needs transcripts.')
    return cls([text.encode(str(t), symbols) for t in texts], np.asarray(source.durations()))

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
    fitting = self.durations <= seconds + GRACE
    width = max([1, *(len(x) for x, fit in zip(self.ids, fitting) if fit)])
    out = np.full((len(rows), width), -1, np.int32)
    for i, row in enumerate(rows):
      if valid[i]:
        out[i, : len(self.ids[row])] = self.ids[row]
    return out

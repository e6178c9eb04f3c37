"""Which windows of codes Jukebox samples, one level after the other (openai/jukebox, sample.py).

Letters: n codes of a window, k codes that are there already.
"""

from typing import NamedTuple

from research.errors import InputError


class Piece(NamedTuple):
  """One window.

  Attributes:
    start: its first code.
    given: codes of it that are there already.
    total: codes of it once it is sampled.
    above: first code of the level above that it depends on, and the one behind the last; None at
      the top.
  """

  start: int
  given: int
  total: int
  above: tuple[int, int] | None

  @property
  def new(self) -> int:
    """Codes to sample."""
    return self.total - self.given


def window_starts(total: int, n_ctx: int, hop: int) -> list[int]:
  """First codes of windows that cover `total` codes; the last one ends with them."""
  found = []
  for start in range(0, total - n_ctx + hop, hop):
    found.append(total - n_ctx if start + n_ctx >= total else start)
  return found


def pieces(total: int, n_ctx: int, hop: int, given: int = 0, ratio: int = 1) -> list[Piece]:
  """Windows that make `total` codes of a level of which the first `given` are there.

  Args:
    total: codes of the level.
    n_ctx: codes of a window.
    hop: codes from window to window.
    given: codes that are there.
    ratio: codes for one of the level above; 1 at the top, which alone samples less than a window.

  Raises:
    InputError: an upsampler that has less than a window, or whose windows do not begin and end
      with codes of the level above.
  """
  if hop < 1:
    raise InputError(f'Windows {hop} codes apart were asked for: give a larger hop_fraction.')
  if total < n_ctx:
    if ratio > 1:
      raise InputError(
        f'{total} codes were asked for, and an upsampler has windows of {n_ctx}: sample for longer.'
      )
    return [Piece(0, given, total, None)] if given < total else []
  found, have = [], given
  for start in window_starts(total, n_ctx, hop):
    there = max(0, min(have - start, n_ctx))
    if there >= n_ctx:
      continue
    if start % ratio or n_ctx % ratio:
      raise InputError(
        f'A window from code {start} to {start + n_ctx} does not fit codes of the level above, one '
        f'for {ratio}: choose hop_fraction and seconds so that windows begin at multiples of it.'
      )
    above = (start // ratio, (start + n_ctx) // ratio) if ratio > 1 else None
    found.append(Piece(start, there, n_ctx, above))
    have = max(have, start + n_ctx)
  return found

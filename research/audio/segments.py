"""Columns that say which part of a file a clip is.

A row with `start` or `offset` is a segment: it ends at `end`, or after `seconds` or `duration`, or
with its file. All are in seconds; at the rate of the file a segment begins at the sample
round(start * rate) and has round(duration * rate) samples.
"""

import math

from research.audio.example import Value
from research.audio.rows import Place
from research.errors import InputError

STARTS = ('start', 'offset')
LENGTHS = ('seconds', 'duration')
END = 'end'
# Seconds by which an end and a duration of one row may differ: they are written with few digits.
TOLERANCE = 0.01


def take(row: dict[str, Value], where: str) -> Place | None:
  """Takes the columns of a segment out of a row; None for a row without `start` and `offset`.

  Args:
    row: column -> value; changed.
    where: names the row in messages.

  Raises:
    InputError: values that are no seconds, an end before the start, or columns that contradict each
      other.
  """
  starts = [name for name in STARTS if name in row]
  if not starts:
    if row.get(END):
      raise InputError(
        f'{where}: a column "end" without "start" or "offset"; add the start of each segment in '
        'seconds, or rename the column.'
      )
    return None
  if len(starts) > 1:
    raise InputError(f'{where}: both "start" and "offset"; leave one of them.')
  start = seconds(row.pop(starts[0]), starts[0], where)
  start = 0.0 if math.isnan(start) else start
  lengths = {n: seconds(row.pop(n), n, where) for n in LENGTHS if n in row}
  if END in row:
    lengths[END] = seconds(row.pop(END), END, where) - start
  known = {name: value for name, value in lengths.items() if not math.isnan(value)}
  if not known:
    return start, math.nan
  if max(known.values()) - min(known.values()) > TOLERANCE:
    raise InputError(f'{where}: {" and ".join(known)} contradict each other; leave one of them.')
  length = known.get(END, next(iter(known.values())))
  if length <= 0:
    raise InputError(
      f'{where}: the segment from {start:g} s lasts {length:g} s; expected an end behind its start.'
    )
  return start, length


def seconds(value: Value, name: str, where: str) -> float:
  """A number of seconds; NaN for an empty value."""
  if value == '':
    return math.nan
  try:
    number = float(value)  # type: ignore[arg-type]
  except (TypeError, ValueError):
    number = math.nan
  if not 0 <= number < math.inf:
    raise InputError(
      f'{where}: {name} is {value!r}; expected seconds of the file, 0 or more (a column of another '
      'meaning needs another name).'
    )
  return number

"""Errors for bad input: the user sees one sentence, never a traceback."""

import difflib
import heapq
import operator
import re
from collections.abc import Iterable


class InputError(ValueError):
  """Bad input. The message states what was given, what was expected and what to do."""


# Of more names than MAX_NAMES, only the nearest and the first LISTED are listed; names are cut.
MAX_NAMES, MAX_COMPARED, LISTED, MAX_CHARACTERS = 100, 5000, 20, 100
# Terminals obey these: they move the cursor, set colours or titles, or turn the writing direction.
_CONTROL = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]')


def printable(text: object) -> str:
  """Text for a terminal: control characters, as names of files may hold them, become `\\x1b`."""
  return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], str(text))


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
  """Error for an unknown name; lists the closest matches, then all known names, or the first of
  very many.

  Args:
    kind: kind of thing that is named, e.g. 'model' or 'argument of model audio_mae'.
    name: the name that was given.
    known: all valid names.
  """
  names, name = [str(k) for k in known], str(name)
  shown = listed(names if len(names) > MAX_NAMES else sorted(names))
  alike = names if len(names) <= MAX_COMPARED else _alike(name, names)
  # The comparison takes the product of two lengths.
  short = [n for n in alike if len(n) <= 4 * MAX_CHARACTERS] if len(name) < 400 else []
  near = difflib.get_close_matches(name, sorted(short), n=3, cutoff=0.5)
  hint = f' Did you mean {" or ".join(repr(n) for n in near)}?' if near else ''
  return InputError(f'Unknown {kind} {_cut(name)!r}.{hint} Known: {shown}.')


def listed(names: Iterable[str]) -> str:
  """Names in a sentence: all, or the first of very many."""
  every = list(names)
  many = len(every) > MAX_NAMES
  shown = [_cut(name) for name in (every[:LISTED] if many else every)]
  return ', '.join(shown + ([f'and {len(every) - LISTED} more'] if many else [])) or 'none'


def _cut(name: str) -> str:
  return name if len(name) <= MAX_CHARACTERS else f'{name[: MAX_CHARACTERS - 1]}…'


def _alike(name: str, names: Iterable[str]) -> list[str]:
  """At most MAX_COMPARED names of about the same length that begin or end alike."""
  similar = (
    n for n in names if abs(len(n) - len(name)) < 4 and (n[:3] == name[:3] or n[-3:] == name[-3:])
  )
  return heapq.nsmallest(MAX_COMPARED, similar, key=lambda n: sum(map(operator.ne, n, name)))

"""Errors for bad input: the user sees one sentence, never a traceback."""

import difflib
import heapq
import operator
from collections.abc import Iterable


class InputError(ValueError):
  """Bad input. The message states what was given, what was expected and what to do."""


# Of more names than these, only the nearest and the first are listed.
MAX_NAMES, MAX_COMPARED, LISTED = 1000, 5000, 20


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
  """Error for an unknown name; lists the closest matches, then all known names, or the first of
  very many.

  Args:
    kind: kind of thing that is named, e.g. 'model' or 'argument of model audio_mae'.
    name: the name that was given.
    known: all valid names.
  """
  names = [str(k) for k in known]
  many = len(names) > MAX_NAMES
  listed = [*names[:LISTED], f'and {len(names) - LISTED} more'] if many else sorted(names)
  alike = names if len(names) <= MAX_COMPARED else _alike(str(name), names)
  near = difflib.get_close_matches(str(name), sorted(alike), n=3, cutoff=0.5)
  hint = f' Did you mean {" or ".join(repr(n) for n in near)}?' if near else ''
  return InputError(f'Unknown {kind} {str(name)!r}.{hint} Known: {", ".join(listed) or "none"}.')


def _alike(name: str, names: Iterable[str]) -> list[str]:
  """At most MAX_COMPARED names of about the same length that begin or end alike."""
  similar = (
    n for n in names if abs(len(n) - len(name)) < 4 and (n[:3] == name[:3] or n[-3:] == name[-3:])
  )
  return heapq.nsmallest(MAX_COMPARED, similar, key=lambda n: sum(map(operator.ne, n, name)))

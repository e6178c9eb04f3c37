"""Errors for bad input: the user sees one sentence, never a traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
  """Bad input. The message states what was given, what was expected and what to do."""


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
  """Error for an unknown name; lists the closest matches, then all known names.

  Args:
    kind: kind of thing that is named, e.g. 'model' or 'argument of model audio_mae'.
    name: the name that was given.
    known: all valid names.
  """
  names = sorted(str(k) for k in known)
  near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
  hint = f' Did you mean {" or ".join(repr(n) for n in near)}?' if near else ''
  return InputError(f'Unknown {kind} {str(name)!r}.{hint} Known: {", ".join(names) or "none"}.')

"""What a person sees when they gave something that cannot work: one sentence, never a traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
  """A mistake in the input: the message says what was given, what was expected and what to do."""


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
  """The error for a name that does not exist: says the nearest known names, then all of them.

  Args:
    kind: what the name names, e.g. 'model' or 'argument of model audio_mae'.
    name: the name that was given.
    known: the names that exist.
  """
  names = sorted(str(k) for k in known)
  near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
  hint = f' Did you mean {" or ".join(repr(n) for n in near)}?' if near else ''
  return InputError(f'Unknown {kind} {str(name)!r}.{hint} Known: {", ".join(names) or "none"}.')

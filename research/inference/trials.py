"""Lists of pairs of recordings, and their scores.

A line is `1 PATH PATH` (of one speaker), `0 PATH PATH` (not), or `PATH PATH`; paths with spaces are
separated by tabs.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from research.audio.decode import decode
from research.audio.example import Example
from research.errors import InputError
from research.inference.speakers import SpeakerEncoder

LABELS = {'1': True, '0': False}


class Trial(NamedTuple):
  """Two recordings as a list names them, and whether they are of one speaker (None: not known)."""

  first: str
  second: str
  same: bool | None = None


def read_trials(path: str | os.PathLike) -> list[Trial]:
  """The pairs of a list.

  Raises:
    InputError: it cannot be read, is empty, a line is no pair, or some lines alone have a label.
  """
  try:
    lines = Path(path).expanduser().read_text(encoding='utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f'{path} cannot be read: {error}.') from None
  found = []
  for number, line in enumerate(lines, start=1):
    fields = [x.strip() for x in line.split('\t')] if '\t' in line else line.split()
    if not fields:
      continue
    same = None
    if len(fields) == 3 and fields[0] in LABELS:
      same = LABELS[fields.pop(0)]
    if len(fields) != 2:
      raise InputError(
        f'{path}, line {number}: expected "1 PATH PATH", "0 PATH PATH" or "PATH PATH", found '
        f'{line!r}; separate paths that hold spaces by tabs.'
      )
    found.append(Trial(fields[0], fields[1], same))
    if (found[0].same is None) != (same is None):
      raise InputError(f'{path}, line {number}: either every line has a label, 0 or 1, or none.')
  if not found:
    raise InputError(f'{path} holds no pairs.')
  return found


def labels(trials: Sequence[Trial]) -> Bool[np.ndarray, ' p'] | None:
  """Which pairs are of one speaker; None where that is not known."""
  if any(trial.same is None for trial in trials):
    return None
  return np.array([trial.same for trial in trials], bool)


def scores(
  encoder: SpeakerEncoder,
  trials: Sequence[Trial],
  root: str | os.PathLike = '',
  seconds: float | None = None,
  progress: Callable[[int], object] = lambda done: None,
) -> Float[np.ndarray, ' p']:
  """The cosine of every pair; a recording is read once, however many pairs it is in.

  Args:
    encoder: of the vectors.
    trials: pairs.
    root: where relative paths start.
    seconds: only so much from the middle of each recording is heard; None for all.
    progress: called with the number of recordings that are done.

  Raises:
    InputError: a recording cannot be read, is too short or silent.
  """
  names = list(dict.fromkeys(name for trial in trials for name in trial[:2]))
  places = {name: os.path.join(root, os.path.expanduser(name)) for name in names}
  missing = [place for place in places.values() if not os.path.exists(place)]
  if missing:
    more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
    raise InputError(
      f'{missing[0]}{more} of {len(names)} recordings: no such file; relative paths start at the '
      'list, or at --root.'
    )
  vectors = {}
  for done, (name, place) in enumerate(places.items(), start=1):
    vectors[name] = encoder.vector(place) if seconds is None else _middle(encoder, place, seconds)
    progress(done)
  return np.array([float(vectors[a] @ vectors[b]) for a, b, _ in trials])


def _middle(encoder: SpeakerEncoder, place: str, seconds: float) -> Float[np.ndarray, ' d']:
  audio = decode(Example(place, {}, path=place), sample_rate=encoder.rate)
  size = min(round(seconds * encoder.rate), len(audio))
  start = (len(audio) - size) // 2
  return encoder.vector(audio[start : start + size], encoder.rate)

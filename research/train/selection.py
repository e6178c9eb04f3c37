"""Selects training clips by split, column values, duration and available fields."""

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from research.audio import fields, sources
from research.audio.fields.transcript import GRACE
from research.errors import InputError

# Data without splits: one in HELD_OUT recordings is held out as 'valid'.
HELD_OUT = 20
# Matches split names that denote training or evaluation data.
PURPOSE = re.compile('train|valid|dev|test|eval|balanced', re.IGNORECASE)


def source(data: Mapping[str, Any]) -> sources.Source:
  """The clips that a data config selects; see `part` for the splits 'train' and 'valid'.

  Raises:
    InputError: the data are absent, or no clip is left after `split` and `where`.
  """
  if data['split'] in ('train', 'valid'):
    found = part(sources.open_source(data['source'], root=data['root']), data['split'])
  else:
    found = sources.open_source(data['source'], split=data['split'], root=data['root'])
  return found.where(data['where']) if data['where'] else found


def part(clips: sources.Source, split: str) -> sources.Source:
  """The clips of a split; 'a+b' is the union of two.

  Data without splits also provide 'train' and 'valid': one recording in HELD_OUT, selected by the
  hash of its id, is held out (one window in HELD_OUT if there is a single recording). Data are
  without splits if they have no column "split", or if its values do not denote training or
  evaluation data (in Libri-Light they denote the download size).
  """
  names = set(split.split('+'))
  if names <= {'train', 'valid'}:
    own = set(clips.column('split')) if 'split' in clips.column_names else set()
    if not any(PURPOSE.search(str(name)) for name in own | set(clips.table.splits)):
      return clips if len(names) == 2 else hold_out(clips, split)
  return clips.split(split)


def usable(clips: sources.Source, data: Mapping[str, Any]) -> sources.Source:
  """The clips that training can use.

  They have all fields (`known`) and last at least `min_seconds`. With a field that needs whole
  clips (transcripts), they last at most `seconds`.

  Raises:
    InputError: no clip has such a duration.
  """
  whole = any(field.WHOLE for field in fields.make(data['fields']))
  shortest, longest = data['min_seconds'], data['seconds'] if whole else None
  clips = known(clips, data)
  if shortest is None and longest is None:
    return clips
  durations = clips.durations()
  keep = (durations >= (shortest or 0.0)) & (durations <= (longest or np.inf) + GRACE)
  if not keep.any():
    raise InputError(
      f'None of the {len(clips)} clips of {clips.name!r} has {_between(shortest, longest)}: change '
      'config.data.min_seconds or config.data.seconds.'
    )
  if not keep.all():
    logging.warning(
      '%d of %d clips of %r are left out: they do not have %s.',
      (~keep).sum(), len(clips), clips.name, _between(shortest, longest),
    )  # fmt: skip
  return clips.select(np.flatnonzero(keep))


def _between(shortest: float | None, longest: float | None) -> str:
  limits = {'at least': shortest, 'at most': longest}
  return ' and '.join(f'{word} {limit:g} s' for word, limit in limits.items() if limit)


def known(clips: sources.Source, data: Mapping[str, Any]) -> sources.Source:
  """The clips that have a value for every field (transcript, units, …)."""
  for field in fields.make(data['fields']):
    found = field.known(clips)
    if not found.all():
      logging.warning(
        '%d of %d clips of %r have no %s and are left out.',
        (~found).sum(), len(clips), clips.name, field.key,
      )  # fmt: skip
      clips = clips.select(np.flatnonzero(found))
  return clips


def hold_out(clips: sources.Source, split: str) -> sources.Source:
  """The 'train' or 'valid' part of clips without splits; the parts are disjoint."""
  if len(clips) < 2:
    raise InputError(
      f'Data set {clips.name!r} has a single clip, so none can be held out for validation. Set '
      'config.data.split=None and config.evals={}.'
    )
  # All windows of a recording are in the same part, unless there is only one recording.
  names = np.array([re.sub(r'@[\d.]+$', '', clips.id(i)) for i in range(len(clips))])
  if len(set(names)) == 1:
    names = np.array([clips.id(i) for i in range(len(clips))])
  order = sorted(set(names), key=lambda name: hashlib.sha256(os.fsencode(name)).hexdigest())
  held = np.flatnonzero(np.isin(names, order[: max(len(order) // HELD_OUT, 1)]))
  if split == 'valid':
    return clips.select(held)
  logging.warning(
    'Data set %r has no splits: %d of its %d clips are held out as valid.',
    clips.name, len(held), len(clips),
  )  # fmt: skip
  return clips.select(np.setdiff1d(np.arange(len(clips)), held))

"""Which clips a training takes: a split, columns, lengths, transcripts and units."""

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from research.audio import sources
from research.audio.fields import transcripts, units
from research.errors import InputError

# Of clips that nobody has split: one in so many is held out as 'valid'.
HELD_OUT = 20
# What is in the name of a split that is for training or for evaluation.
PURPOSE = re.compile('train|valid|dev|test|eval|balanced', re.IGNORECASE)


def source(data: Mapping[str, Any]) -> sources.Source:
  """The clips that a data config selects, see `part` for the splits 'train' and 'valid'.

  Raises:
    InputError: for data that are not there, and when nothing is left after `split` and `where`.
  """
  if data['split'] in ('train', 'valid'):
    found = part(sources.open_source(data['source'], root=data['root']), data['split'])
  else:
    found = sources.open_source(data['source'], split=data['split'], root=data['root'])
  return found.where(data['where']) if data['where'] else found


def part(clips: sources.Source, split: str) -> sources.Source:
  """The clips of a split ('a+b' takes both).

  Clips that nobody has split have the splits 'train' and 'valid' all the same: one recording in
  twenty, chosen by the hash of its id, is held out (of a single recording one window in twenty).
  They have no column "split", or one that tells something else (Libri-Light's says how large a
  download they come with).
  """
  names = set(split.split('+'))
  if names <= {'train', 'valid'}:
    own = set(clips.column('split')) if 'split' in clips.column_names else set()
    if not any(PURPOSE.search(str(name)) for name in own | set(clips.table.splits)):
      return clips if len(names) == 2 else hold_out(clips, split)
  return clips.split(split)


def usable(clips: sources.Source, data: Mapping[str, Any]) -> sources.Source:
  """The clips that training can use: those that are `known`, of at least `min_seconds`, and with
  transcripts, which a cropped clip does not say, of at most `seconds`."""
  least, most = data['min_seconds'], data['seconds'] if data['transcript'] else None
  clips = known(clips, data)
  if least is None and most is None:
    return clips
  durations = clips.durations()
  keep = (durations >= (least or 0.0)) & (durations <= (most or np.inf) + transcripts.GRACE)
  if not keep.any():
    raise InputError(
      f'None of the {len(clips)} clips of {clips.name!r} has {_between(least, most)}: change '
      'config.data.min_seconds or config.data.seconds.'
    )
  if not keep.all():
    logging.warning(
      '%d of %d clips of %r are left out: they do not have %s.',
      (~keep).sum(), len(clips), clips.name, _between(least, most),
    )  # fmt: skip
  return clips.select(np.flatnonzero(keep))


def _between(least: float | None, most: float | None) -> str:
  limits = {'at least': least, 'at most': most}
  return ' and '.join(f'{word} {limit:g} s' for word, limit in limits.items() if limit)


def known(clips: sources.Source, data: Mapping[str, Any]) -> sources.Source:
  """The clips that have what is asked for of them: a transcript, units."""
  clips = spoken(clips, data)
  if data['units'] is None:
    return clips
  sets = units.open_sets(data['units'])
  found = (units.find(clips, sets) >= 0).all(axis=1)
  if not found.all():
    logging.warning(
      '%d of %d clips of %r have no units and are left out.',
      (~found).sum(), len(clips), clips.name,
    )  # fmt: skip
  return clips.select(np.flatnonzero(found))


def spoken(clips: sources.Source, data: Mapping[str, Any]) -> sources.Source:
  """Where transcripts are asked for, the clips that have one; an empty one says nothing."""
  if not data['transcript']:
    return clips
  known = np.array([bool(t) for t in transcripts.texts(clips, data['transcript'])])
  if not known.any():
    raise InputError(
      f'No clip of {clips.name!r} has a {data["transcript"]!r}; CTC needs transcripts.'
    )
  if not known.all():
    logging.warning(
      '%d of %d clips of %r have no %s and are left out.',
      (~known).sum(), len(clips), clips.name, data['transcript'],
    )  # fmt: skip
  return clips.select(np.flatnonzero(known))


def hold_out(clips: sources.Source, split: str) -> sources.Source:
  """The 'train' or 'valid' part of clips that nobody has split; both never share a clip."""
  if len(clips) < 2:
    raise InputError(
      f'Data set {clips.name!r} has one clip: nothing can be held out for validation. Set '
      'config.data.split=None and config.evals={}.'
    )
  # All windows of a recording go to the same part; windows of a single one are clips by themselves.
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

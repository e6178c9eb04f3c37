"""Selects training clips by split, column values, duration and available fields."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from research.audio import fields, sources
from research.audio.clips import recording_hash
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
  own = data['split'] in ('train', 'valid')
  found = _opened(data, None if own else data['split'])
  if own:
    found = part(found, data['split'])
  return found.where(data['where']) if data['where'] else found


# What was opened within `opening_once`.
_OPENED: list[dict[str, sources.Source]] = []


@contextlib.contextmanager
def opening_once() -> Iterator[None]:
  """Within it, `source` opens every data source once: training and evaluations share the table."""
  _OPENED.append({})
  try:
    yield
  finally:
    _OPENED.pop()


def _opened(data: Mapping[str, Any], split: str | None) -> sources.Source:
  spec = data['source']
  spec = spec.to_dict() if hasattr(spec, 'to_dict') else spec
  kept = _OPENED[-1] if _OPENED else {}
  key = json.dumps([spec, data['root'], split], sort_keys=True, default=str)
  if key not in kept:
    kept[key] = sources.open_source(spec, split=split, root=data['root'])
  return kept[key]


def part(clips: sources.Source, split: str) -> sources.Source:
  """The clips of a split; 'a+b' is the union of two.

  Data without splits also provide 'train' and 'valid': one recording in HELD_OUT, selected by the
  hash of its id, is held out (one window in HELD_OUT if there is a single recording). Data are
  without splits if they have no column "split", or if its values do not denote training or
  evaluation data (in Libri-Light they denote the download size).
  """
  names = set(split.split('+'))
  if names <= {'train', 'valid'}:
    own = clips.present('split') if 'split' in clips.column_names else set()
    if not any(PURPOSE.search(str(name)) for name in own | set(clips.table.splits)):
      return clips if len(names) == 2 else hold_out(clips, split)
  try:
    return clips.split(split)
  except InputError as error:
    if 'valid' not in names or 'split' not in clips.column_names:
      raise
    raise InputError(
      f"{error} Evaluations take the split 'valid': name another one, as "
      '--config.evals.valid.data.split=test, or train on data without a column split, of which '
      'some clips are held out.'
    ) from None


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
  hashes = clips.recordings()
  order = _distinct(hashes)
  if len(order) == 1:
    ids = (clips.id(i) for i in range(len(clips)))
    hashes = np.fromiter((recording_hash(i, whole=True) for i in ids), np.uint64, len(clips))
    order = _distinct(hashes)
  is_held = hashes < order[max(len(order) // HELD_OUT, 1)]
  held = np.flatnonzero(is_held)
  if split == 'valid':
    return clips.select(held)
  logging.warning(
    'Data set %r has no splits: %d of its %d clips are held out as valid.',
    clips.name, len(held), len(clips),
  )  # fmt: skip
  return clips.select(np.flatnonzero(~is_held))


def _distinct(hashes: np.ndarray) -> np.ndarray:
  """Distinct values in order; ten times as fast as `np.unique` for millions of them."""
  order = np.sort(hashes)
  return order[np.concatenate([[True], order[1:] != order[:-1]])]

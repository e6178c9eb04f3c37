"""Units of clips as files for other programs: `.tsv`, `.jsonl` or `.npz`, whole or deduplicated.

Textless systems (Lakhotia et al. 2021, arXiv 2102.01192) read runs of one unit as one symbol, with
or without its duration.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from research.audio.units import Units
from research.errors import InputError

SUFFIXES = ('.tsv', '.jsonl', '.npz')


class Runs(NamedTuple):
  """Units of a clip without repetition, and how many frames each lasts."""

  units: Int[np.ndarray, 'r']
  durations: Int[np.ndarray, 'r']


def runs(units: Int[np.ndarray, 'n']) -> Runs:
  """Every run of one unit as one."""
  starts = np.flatnonzero(np.diff(units, prepend=-1))
  return Runs(units[starts], np.diff(starts, append=len(units)))


def check_names(source: Any, suffix: str) -> None:
  """Refuses clips whose names would break the lines of a file; raises InputError with the first."""
  breaks = '\n\r\t' if suffix == '.tsv' else '\n'
  for i in range(len(source)):
    name = source.id(i)
    if any(c in name for c in breaks):
      raise InputError(
        f'The clip {name!r} has a tab or a line break in its name, which units'
        f'{" in a .tsv" if suffix == ".tsv" else ""} cannot have: rename it.'
      )


def write(
  units: Units, out: str | os.PathLike, *, deduplicate: bool = False, durations: bool = False
) -> dict[str, int]:
  """Writes the units of every clip; the file is there whole or not at all.

  .tsv: a line a clip: id, units, and with durations the frames that each lasts, tab between them,
  numbers with spaces between them. .jsonl: a line a clip: {"id", "units", "durations"}. .npz: `ids`
  [n], `units` [m] of all clips, `offsets` [n + 1], `durations` [m], `about` (JSON).

  Args:
    units: of the clips.
    out: the file; its ending says which kind.
    deduplicate: a run of one unit counts as one.
    durations: also write how many frames each unit lasts; it deduplicates.

  Returns:
    {clips, units}: how many were written.
  """
  out = Path(out)
  partial = out.with_name(f'{out.name}.partial')
  clips = _clips(units, deduplicate or durations)
  if out.suffix == '.npz':
    count = _write_npz(partial, units, list(clips), durations)
  else:
    count = 0
    # Names need not be UTF-8: their bytes are kept.
    with open(partial, 'w', encoding='utf-8', errors='surrogateescape') as file:
      for name, found in clips:
        file.write(_line(out.suffix, name, found, durations) + '\n')
        count += len(found.units)
  os.replace(partial, out)
  return {'clips': len(units), 'units': count}


def _clips(units: Units, deduplicate: bool) -> Iterator[tuple[str, Runs]]:
  for name in units.ids:
    codes = units[name]
    yield name, runs(codes) if deduplicate else Runs(codes, np.ones_like(codes))


def _line(suffix: str, name: str, found: Runs, durations: bool) -> str:
  if suffix == '.jsonl':
    row: dict[str, Any] = {'id': name, 'units': found.units.tolist()}
    return json.dumps(row | ({'durations': found.durations.tolist()} if durations else {}))
  columns = [name, *(' '.join(map(str, x)) for x in (found if durations else found[:1]))]
  return '\t'.join(columns)


def _write_npz(partial: Path, units: Units, clips: list[tuple[str, Runs]], durations: bool) -> int:
  counts = [len(found.units) for _, found in clips]
  none = np.zeros(0, np.int32)
  arrays = {
    'ids': np.array([name for name, _ in clips], dtype=str),
    'units': np.concatenate([none, *(found.units for _, found in clips)]).astype(np.int32),
    'offsets': np.cumsum([0, *counts], dtype=np.int64),
    'about': np.array(json.dumps(dict(units.about))),
  }
  if durations:
    parts = [none, *(found.durations for _, found in clips)]
    arrays['durations'] = np.concatenate(parts).astype(np.int32)
  with open(partial, 'wb') as file:
    np.savez(file, **arrays)  # type: ignore[arg-type]
  return int(arrays['offsets'][-1])

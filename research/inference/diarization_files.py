"""Who speaks when in the recordings of a source, in one file: .rttm or .jsonl.

Killed, it goes on: see `clip_rows`. A row is {id, seconds, segments: [{start, end, speaker}]}, or
{id, error} of a recording that was left out.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.audio.clips import Source
from research.audio.folder import EXTENSIONS
from research.errors import InputError
from research.inference import clip_rows
from research.inference.clip_rows import Row
from research.jobs import folders
from research.metrics.diarization import (
  DiarizationErrors,
  Segment,
  diarization_errors,
  parse_rttm,
  rttm_text,
)

SUFFIXES = ('.rttm', '.jsonl')
Find = Callable[[np.ndarray, float], list[Segment]]


def diarize_source(
  find: Find,
  source: Source,
  sample_rate: int,
  out: str | os.PathLike | None = None,
  *,
  about: Mapping[str, Any] | None = None,
  overwrite: bool = False,
  max_bad_fraction: float = 0.5,
) -> list[Row]:
  """The segments of every recording, into a file if one is named.

  Args:
    find: (samples, sample rate) -> segments: a `Diarizer` or a `ClusterDiarizer`.
    source: recordings.
    sample_rate: of the samples, Hz.
    out: the file, .rttm or .jsonl; None writes nothing.
    about: what else the result depends on: an unfinished job is only gone on with if it is equal.
    overwrite: whether a file that is there may be replaced.
    max_bad_fraction: fraction of unreadable recordings above which it stops.

  Returns:
    the rows, in the order of the source; none on processes after the first.

  Raises:
    InputError: another ending, the file exists, the parts of another job are in the way, no
      recording could be used, or the disk is full.
  """
  path = None if out is None else folders.writable(out, SUFFIXES, overwrite)

  def one(row: int, audio: np.ndarray) -> tuple[float, list[Segment]]:
    del row
    return len(audio) / sample_rate, find(audio, sample_rate)

  def row(i: int, result: Any) -> Row:
    if isinstance(result, str):
      return {'id': source.id(i), 'error': result}
    seconds, segments = result
    each = [dict(start=round(s.start, 3), end=round(s.end, 3), speaker=s.speaker) for s in segments]
    return {'id': source.id(i), 'seconds': round(seconds, 3), 'segments': each}

  def write(rows: list[Row]) -> Iterable[str]:
    return [rttm(rows)] if path is not None and path.suffix == '.rttm' else clip_rows.jsonl(rows)

  return clip_rows.run(
    clip_rows.each_clip(one, sample_rate),
    source,
    row,
    path,
    write,
    doing='diarizing',
    done='diarized',
    about=dict(about or {}),
    max_bad_fraction=max_bad_fraction,
  )


def segments_of(row: Row) -> list[Segment]:
  """The segments of a row."""
  return [Segment(s['start'], s['end'], s['speaker']) for s in row['segments']]


def recordings(rows: Sequence[Row]) -> dict[str, Row]:
  """Rows with segments by the names that an RTTM file has for them: ids without the ending of a
  file, unless two would be alike, and with _ for white space."""
  found = [row for row in rows if 'segments' in row]
  short = [_without_ending(row['id']) for row in found]
  names = short if len(set(short)) == len(short) else [row['id'] for row in found]
  return {'_'.join(name.split()): row for name, row in zip(names, found)}


def _without_ending(name: str) -> str:
  stem, ending = os.path.splitext(name)
  return stem if ending.lower() in EXTENSIONS else name


def rttm(rows: Sequence[Row]) -> str:
  """The lines of an RTTM file."""
  return rttm_text({name: segments_of(row) for name, row in recordings(rows).items()})


def read_rttm(path: str | os.PathLike) -> dict[str, list[Segment]]:
  """The segments of an RTTM file, by recording.

  Raises:
    InputError: it cannot be read, or is none.
  """
  try:
    text = Path(path).expanduser().read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f'{path} cannot be read: {error}.') from None
  found = parse_rttm(text, str(path))
  if not found:
    raise InputError(f'{path} has no line "SPEAKER recording channel start seconds …".')
  return found


def errors(
  rows: Sequence[Row], reference: Mapping[str, Sequence[Segment]], collar: float = 0.0
) -> dict[str, DiarizationErrors]:
  """The errors of every recording that the reference has, by its name there: that of the RTTM file
  or its last part (`a/b` is found as `b`).

  Raises:
    InputError: the reference has none of the recordings, or the collar is negative.
  """
  found = {}
  for name, row in recordings(rows).items():
    known = next((n for n in (name, row['id'], name.rsplit('/', 1)[-1]) if n in reference), None)
    if known is not None:
      found[known] = diarization_errors(reference[known], segments_of(row), collar=collar)
  if not found:
    raise InputError(
      f'The reference has none of the recordings: it has {next(iter(reference))!r} …, and these '
      f'are {next(iter(recordings(rows)), "none")!r} ….'
    )
  return found

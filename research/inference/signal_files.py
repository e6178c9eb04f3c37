"""Signals of the recordings of a source as audio files in one folder.

Killed, it goes on: see `clip_rows`. `files.jsonl` lists what was made, a row a recording:
{id, seconds, files: […], scale if it is not 1}, or {id, error} of one that was left out.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float

from research.audio.clips import Source
from research.audio.folder import EXTENSIONS
from research.errors import InputError
from research.inference import clip_rows
from research.inference.clip_rows import Row
from research.jobs import folders

LIST = 'files.jsonl'
# WAV in floats, which no peak leaves; FLAC in 24 bits, in which a peak above 1 is scaled down.
FORMATS = {'wav': ('WAV', 'FLOAT'), 'flac': ('FLAC', 'PCM_24')}


def separate_source(
  separate: Callable[[np.ndarray, float], Float[np.ndarray, 'k t']],
  source: Source,
  sample_rate: int,
  out: str | os.PathLike,
  *,
  format: str = 'wav',
  about: Mapping[str, Any] | None = None,
  overwrite: bool = False,
  max_bad_fraction: float = 0.5,
) -> list[Row]:
  """Writes NAME.wav for a single signal, NAME_1.wav, NAME_2.wav, … for several; NAME is the id of
  the recording without its ending, folders included.

  Args:
    separate: (samples, sample rate) -> signals: a `Separator`.
    source: recordings.
    sample_rate: of samples and signals, Hz.
    out: the folder.
    format: a key of FORMATS.
    about: what else the result depends on: an unfinished job is only gone on with if it is equal.
    overwrite: whether a finished folder may be done again.
    max_bad_fraction: fraction of unreadable recordings above which it stops.

  Returns:
    the rows, in the order of the source; none on processes after the first.

  Raises:
    InputError: the folder is finished already or cannot be written to, two recordings would have
      one name, no recording could be used, or the disk is full.
  """
  place = open_folder(out, overwrite)
  stems = stems_of(source, format)

  def one(row: int, audio: np.ndarray) -> Row:
    signals = separate(audio, sample_rate)
    peak = float(np.abs(signals).max())
    scale = 1.0 / peak if format == 'flac' and peak > 1 else 1.0
    ends = [''] if len(signals) == 1 else [f'_{k}' for k in range(1, len(signals) + 1)]
    files = [f'{stems[row]}{end}.{format}' for end in ends]
    for name, signal in zip(files, signals):
      write(place / name, signal * np.float32(scale), sample_rate, format)
    found: Row = {'seconds': round(len(audio) / sample_rate, 3), 'files': files}
    return found if scale == 1.0 else {**found, 'scale': round(scale, 6)}

  doing = dict(doing='separating', done='separated')
  about = dict(about or {}, format=format)
  return run(one, source, sample_rate, place, about, max_bad_fraction, **doing)


def open_folder(out: str | os.PathLike, overwrite: bool) -> Path:
  """The folder of results; raises InputError where it is finished or cannot be written to."""
  place = folders.folder(out, 'out')
  listed = place / LIST
  if listed.exists() and not overwrite:
    raise InputError(f'{listed} is there already: give another --out, or --overwrite.')
  return place


def stems_of(source: Source, format: str) -> list[str]:
  """Names of the files of a source, without an ending; raises InputError where two are alike."""
  stems = [stem(source.id(i)) for i in range(len(source))]
  seen: dict[str, str] = {}
  for i, name in enumerate(stems):
    if name in seen:
      raise InputError(
        f'{seen[name]!r} and {source.id(i)!r} would both be written as {name}.{format}: write '
        'them into two folders.'
      )
    seen[name] = source.id(i)
  return stems


def run(
  one: Callable[[int, np.ndarray], Row],
  source: Source,
  sample_rate: int,
  place: Path,
  about: Mapping[str, Any],
  max_bad_fraction: float,
  **words: str,
) -> list[Row]:
  """The job of a folder: `one` makes the files of a row and says which; LIST has all rows."""

  def row(i: int, result: Any) -> Row:
    return {'id': source.id(i)} | ({'error': result} if isinstance(result, str) else result)

  return clip_rows.run(
    clip_rows.each_clip(one, sample_rate),
    source,
    row,
    place / LIST,
    clip_rows.jsonl,
    about=about,
    max_bad_fraction=max_bad_fraction,
    **words,
  )


def stem(id: str) -> str:
  """An id as a path within a folder, without the ending of an audio file."""
  parts = [part for part in PurePosixPath(id).parts if part not in ('/', '..', '.')]
  name, ending = os.path.splitext('/'.join(parts))
  return name if ending.lower() in EXTENSIONS else '/'.join(parts)


def write(path: Path, signal: Float[np.ndarray, ' t *a'], rate: int, format: str) -> None:
  """Writes a signal [t], or channels [t, a], at `rate` Hz, whole or not at all.

  Args:
    path: the file.
    signal: samples.
    rate: Hz.
    format: a key of FORMATS.
  """
  kind, subtype = FORMATS[format]
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'{path.name}.partial')
  try:
    soundfile.write(partial, signal, rate, format=kind, subtype=subtype)
  except soundfile.LibsndfileError as error:
    partial.unlink(missing_ok=True)
    raise OSError(f'{path}: {error}') from error
  os.replace(partial, path)

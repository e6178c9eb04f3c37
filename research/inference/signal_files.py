"""Signals of the recordings of a source as audio files in one folder.

Killed, it goes on: see `clip_rows`. `files.jsonl` lists what was made, a row a recording:
{id, seconds, files: […], scale if it is not 1}, with scores against a reference, or `unscored`, why
there are none; or {id, error} of one that was left out.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from research.audio import decode
from research.audio.clips import Source
from research.audio.example import Example
from research.audio.folder import EXTENSIONS
from research.errors import InputError, unknown
from research.inference import clip_rows
from research.inference.clip_rows import Row
from research.jobs import folders

LIST = 'files.jsonl'
# WAV in floats, which no peak leaves; FLAC in 24 bits, in which a peak above 1 is scaled down.
FORMATS = {'wav': ('WAV', 'FLOAT'), 'flac': ('FLAC', 'PCM_24')}
RATES = ('model', 'input')
BLOCK_SECONDS = 30.0  # that are read at once
LARGE = 2**32 - 2**20  # bytes; larger files are RF64, WAV with 64 bits for its length


def separate_source(
  stream: Callable[..., Iterator[Float[np.ndarray, 'k a _']]],
  source: Source,
  sample_rate: int,
  out: str | os.PathLike,
  *,
  format: str = 'wav',
  channels: str = 'mean',
  rate: str = 'model',
  judge: Callable[[int, Sequence[Path]], Row] | None = None,
  about: Mapping[str, Any] | None = None,
  overwrite: bool = False,
  max_bad_fraction: float = 0.5,
) -> list[Row]:
  """Writes NAME.wav for a single signal, NAME_1.wav, NAME_2.wav, … for several; NAME is the id of
  the recording without its ending, folders included. Recordings are read and written in blocks:
  memory does not grow with their length.

  Args:
    stream: (blocks [s, a] at `sample_rate`, channels) -> pieces of the signals: that of a
      `Separator`.
    source: recordings.
    sample_rate: at which signals are separated, Hz.
    out: the folder.
    format: a key of FORMATS.
    channels: of `separate.CHANNELS`.
    rate: of the files, of RATES: `sample_rate`, or that of each recording, whose length they then
      have to the sample.
    judge: (row, the files of its signals) -> what else its row has, as scores.
    about: what else the result depends on: an unfinished job is only gone on with if it is equal.
    overwrite: whether a finished folder may be done again.
    max_bad_fraction: fraction of unreadable recordings above which it stops.

  Returns:
    the rows, in the order of the source; none on processes after the first.

  Raises:
    InputError: the folder is finished already or cannot be written to, two recordings would have
      one name, no recording could be used, or the disk is full.
  """
  if rate not in RATES:
    raise unknown('rate of files', rate, RATES)
  place = open_folder(out, overwrite)
  stems = stems_of(source, format)

  def one(row: int, example: Example) -> Row:
    kind = decode.kind(example)
    wanted = sample_rate if rate == 'model' else kind.rate
    total = decode.output_length(kind.frames, kind.rate, wanted)
    heard = Heard(example, kind)
    blocks = resampled(heard, kind.rate, sample_rate)
    if channels == 'mean':
      blocks = (block.mean(axis=1, keepdims=True) for block in blocks)
    pieces = stream(blocks, channels)
    files: list[str] = []
    writers: list[Writer] = []
    try:
      for piece in _at_rate(pieces, sample_rate, wanted):
        if not writers:
          ends = [''] if len(piece) == 1 else [f'_{k}' for k in range(1, len(piece) + 1)]
          files = [f'{stems[row]}{end}.{format}' for end in ends]
          writers = [Writer(place / f, wanted, piece.shape[1], total, format) for f in files]
        for writer, signal in zip(writers, piece):
          writer.write(signal.T)
      if not heard.loudest:
        raise InputError('It is silent: all its samples are 0.')
      peak = max((writer.peak for writer in writers), default=0.0)
      scale = 1.0 / peak if format == 'flac' and peak > 1 else 1.0
      for writer in writers:
        writer.finish(scale)
    finally:
      for writer in writers:
        writer.close()
    found: Row = {'seconds': round(kind.frames / kind.rate, 3), 'files': files}
    found |= {} if scale == 1.0 else {'scale': round(scale, 6)}
    if judge:
      try:
        found |= judge(row, [place / file for file in files])
      except InputError as error:  # The file is good all the same.
        found['unscored'] = str(error)
    return found

  doing = dict(doing='separating', done='separated')
  about = dict(about or {}, format=format, channels=channels, rate=rate)
  return run_stream(clip_rows.each_example(one), source, place, about, max_bad_fraction, **doing)


class Heard:
  """The blocks of a recording at its own rate, and the magnitude of those that were read."""

  def __init__(self, example: Example, kind: decode.Kind):
    self.example, self.kind, self.loudest = example, kind, 0.0

  def __iter__(self) -> Iterator[Float[np.ndarray, '_ a']]:
    size = round(BLOCK_SECONDS * self.kind.rate)
    for first in range(0, self.kind.frames, size):
      block = decode.part(self.example, first=first, count=size)
      self.loudest = max(self.loudest, float(np.abs(block).max(initial=0.0)))
      yield block


def resampled(
  blocks: Iterable[Float[np.ndarray, '_ a']], rate: int, wanted: int
) -> Iterator[Float[np.ndarray, '_ a']]:
  """Blocks of samples at `wanted` Hz, as soxr gives them of a whole."""
  if rate == wanted:
    yield from blocks
    return
  made, last = None, None
  for block in blocks:
    if made is None:
      made = soxr.ResampleStream(rate, wanted, block.shape[1], dtype='float32', quality='HQ')
    if last is not None:
      yield _columns(made.resample_chunk(last), last.shape[1])
    last = np.ascontiguousarray(block, np.float32)
  if made is not None and last is not None:
    yield _columns(made.resample_chunk(last, last=True), last.shape[1])


def _columns(block: np.ndarray, channels: int) -> Float[np.ndarray, 's a']:
  return np.asarray(block, np.float32).reshape(-1, channels)


def _at_rate(
  pieces: Iterator[Float[np.ndarray, 'k a _']], rate: int, wanted: int
) -> Iterator[Float[np.ndarray, 'k a _']]:
  """Pieces of signals at another rate."""
  first = next(pieces, None)
  if first is None:
    return
  k, a = first.shape[:2]
  flat = (piece.reshape(k * a, -1).T for piece in itertools.chain([first], pieces))
  for block in resampled(flat, rate, wanted):
    yield block.T.reshape(k, a, -1)


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
  stream = clip_rows.each_clip(one, sample_rate)
  return run_stream(stream, source, place, about, max_bad_fraction, **words)


def run_stream(
  stream: clip_rows.Stream,
  source: Source,
  place: Path,
  about: Mapping[str, Any],
  max_bad_fraction: float,
  **words: str,
) -> list[Row]:
  """As `run`, by a stream of rows."""

  def row(i: int, result: Any) -> Row:
    return {'id': source.id(i)} | ({'error': result} if isinstance(result, str) else result)

  return clip_rows.run(
    stream,
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


class Writer:
  """A file of channels that comes in blocks; it has its name when `finish` is called.

  Attributes:
    peak: magnitude of what was written.
  """

  def __init__(self, path: Path, rate: int, channels: int, frames: int, format: str):
    """Args:
    path: the file.
    rate: Hz.
    channels: a.
    frames: its length; more is cut off, less is filled up with zeros.
    format: a key of FORMATS.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    self.path, self.rate, self.frames, self.format = path, rate, frames, format
    self.peak, self._left, self._channels = 0.0, frames, channels
    self._partial = path.with_name(f'{path.name}.partial')
    # What it is scaled by is known at the end.
    self._float = path.with_name(f'{path.name}.float') if format == 'flac' else self._partial
    kind = 'RF64' if 4 * channels * frames > LARGE else 'WAV'
    self._file: soundfile.SoundFile | None = self._open('w', self._float, kind, 'FLOAT')

  def _open(self, mode: str, path: Path, kind: str, subtype: str) -> soundfile.SoundFile:
    how = dict(samplerate=self.rate, channels=self._channels, format=kind, subtype=subtype)
    try:
      return soundfile.SoundFile(path, mode, **how)
    except soundfile.LibsndfileError as error:
      raise OSError(f'{self.path}: {error}') from error

  def write(self, block: Float[np.ndarray, 's a']) -> None:
    """Adds samples."""
    block = np.ascontiguousarray(block[: self._left], np.float32)
    self._left -= len(block)
    self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
    self._put(self._file, block)

  def _put(self, file: Any, block: np.ndarray) -> None:
    try:
      file.write(block)
    except soundfile.LibsndfileError as error:
      raise OSError(f'{self.path}: {error}') from error

  def finish(self, scale: float = 1.0) -> None:
    """Closes the file; FLAC is scaled."""
    assert self._file is not None
    while self._left:
      self.write(np.zeros((min(self._left, self.rate), self._channels), np.float32))
    self._file.close()
    self._file = None
    if self.format == 'flac':
      kind, subtype = FORMATS['flac']
      with self._open('w', self._partial, kind, subtype) as file:
        for block in soundfile.blocks(self._float, self.rate * 30, dtype='float32', always_2d=True):
          self._put(file, block * np.float32(scale))
      self._float.unlink()
    os.replace(self._partial, self.path)

  def close(self) -> None:
    """Takes away what is not finished."""
    if self._file is not None:
      self._file.close()
      self._file = None
      for path in {self._float, self._partial}:
        path.unlink(missing_ok=True)

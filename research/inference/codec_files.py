"""Folders of audio to folders of codes, and back.

Encoding is a resumable job, see `clip_rows`; `files.jsonl` lists what was made, a row a recording:
{id, seconds, file, kbps}, or {id, error} of one that was left out.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float

from research.audio.clips import Source
from research.errors import InputError
from research.inference import signal_files
from research.inference.clip_rows import Row
from research.inference.codec import SUFFIXES, Codec
from research.jobs import folders


def encode_source(
  codec: Codec,
  source: Source,
  out: str | os.PathLike,
  *,
  format: str = 'ecdc',
  about: Mapping[str, Any] | None = None,
  overwrite: bool = False,
  max_bad_fraction: float = 0.5,
) -> list[Row]:
  """Writes NAME.ecdc (.npz, .safetensors) for every recording of a source.

  A codec for stereo reads both channels of files on a disk; of windows and of clips inside shards
  it has one, on both sides.

  Args:
    codec: what encodes.
    source: recordings.
    out: the folder.
    format: the ending.
    about: what else the result depends on: an unfinished job is only gone on with if it is equal.
    overwrite: whether a finished folder may be done again.
    max_bad_fraction: fraction of unreadable recordings above which it stops.

  Returns:
    the rows, in the order of the source; none on processes after the first.

  Raises:
    InputError: the folder is finished already or cannot be written to, two recordings would have
      one name, no recording could be used, or the disk is full.
  """
  if format == 'ecdc':
    _ = codec.name  # refuses a codec that .ecdc files do not know
  place = signal_files.open_folder(out, overwrite)
  stems = signal_files.stems_of(source, format)

  def one(row: int, audio: np.ndarray) -> Row:
    found = codec.encode(_audio(codec, source, row, audio), codec.sample_rate)
    name = f'{stems[row]}.{format}'
    codec.write(found, place / name)
    seconds = found.samples / codec.sample_rate
    return {'seconds': round(seconds, 3), 'file': name, 'kbps': round(found.kbps, 2)}

  doing = dict(doing='encoding', done='encoded')
  about = dict(about or {}, format=format)
  return signal_files.run(one, source, codec.sample_rate, place, about, max_bad_fraction, **doing)


def _audio(
  codec: Codec, source: Source, row: int, mono: Float[np.ndarray, ' t']
) -> Float[np.ndarray, 't *a']:
  """Both channels of a whole file where the codec has two, otherwise what the job has decoded."""
  if codec.model.channels == 1:
    return mono
  example = source[row]
  whole = example.path is not None and not example.start and example.seconds is None
  if not whole or example.gain != 1.0:
    return mono
  try:
    with soundfile.SoundFile(example.path) as file:
      if file.channels != 2:
        return mono
  except (soundfile.LibsndfileError, OSError):
    return mono
  return codec.samples(str(example.path), None)


def decode_folder(
  codec: Codec,
  path: str | os.PathLike,
  out: str | os.PathLike,
  *,
  format: str = 'wav',
  overwrite: bool = False,
) -> int:
  """Writes NAME.wav or .flac for every file of codes in a folder, or for one; returns how many
  were made. Files that are there already are kept, so that a killed call goes on.

  Raises:
    InputError: there are no files of codes, one cannot be decoded, or the folder cannot be written
      to.
  """
  path, place = Path(path), folders.folder(out, 'out')
  if path.is_dir():
    found = sorted(x for x in path.rglob('*') if x.suffix in SUFFIXES and x.is_file())
    base = path
  else:
    found, base = [path] if path.exists() else [], path.parent
  if not found:
    raise InputError(f'{str(path)!r} holds no files of codes ({", ".join(SUFFIXES)}).')
  made = 0
  for file in found:
    target = place / file.relative_to(base).with_suffix(f'.{format}')
    if target.exists() and not overwrite:
      continue
    write_audio(target, codec.decode(codec.read(file)), codec.sample_rate, format)
    made += 1
  return made


def write_audio(path: Path, audio: Float[np.ndarray, 't a'], rate: int, format: str) -> None:
  """An audio file; in FLAC a peak above 1 is scaled down."""
  peak = float(np.abs(audio).max())
  audio = audio / np.float32(peak) if format == 'flac' and peak > 1 else audio
  try:
    signal_files.write(path, audio, rate, format)
  except OSError as error:
    raise InputError(f'Cannot write {str(path)!r}: {error}.') from error
